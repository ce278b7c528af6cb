import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sweep_fakes
from sweep_fakes import (
    DIVERGES,
    PROGRAM,
    RAISES,
    SLOW,
    command,
    edit_record,
    fake_train,
    make_result,
    make_specs,
    make_sweep,
    n_starts,
    wait_until,
)

from chinchilla.cli import main
from chinchilla.config import ClusterConfig, RuntimeConfig, TrainCommand
from chinchilla.core.errors import InputError
from chinchilla.plan.plan_file import load_plan
from chinchilla.plan.records import RunResult
from chinchilla.sweep import local_pool
from chinchilla.sweep.claims import acquire, latest_claim
from chinchilla.sweep.job_classes import Selection
from chinchilla.sweep.launch import launch, worker_command
from chinchilla.sweep.run_files import read_progress, run_dir_of
from chinchilla.sweep.view.live import show_progress
from chinchilla.sweep.worker import Worker

SUPPORT = Path(sweep_fakes.__file__).parent


def debug(specs, sweep_dir: Path, train=fake_train, **more) -> int:
    return launch(command(**more), specs, sweep_dir, sweep_dir, train=train)


def test_debug_trains_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    specs = make_specs(2)
    assert debug(specs, tmp_path / "sweep") == 0
    out = capsys.readouterr().out
    assert f"finished {specs[0].run_id}  loss 3.0000" in out
    assert "2/2 runs, 100% of FLOPs" in out
    assert "\x1b" not in out


def test_launching_again_trains_only_runs_without_a_result(tmp_path: Path):
    specs = make_specs(4)
    assert debug(specs[:2], tmp_path) == 0
    assert debug(specs[1:], tmp_path) == 0
    assert load_plan(tmp_path / "plan.jsonl") == specs  # nothing dropped, nothing twice
    assert [n_starts(run_dir_of(tmp_path, s)) for s in specs] == [1, 1, 1, 1]


def test_failed_runs_are_retried_and_diverged_runs_are_not(tmp_path: Path, capsys):
    bad, nan = make_specs(1, RAISES) + make_specs(1, DIVERGES)
    assert debug([bad, nan], tmp_path) == 1
    assert "disk said no" in capsys.readouterr().out

    def fixed(spec, *args, starts: int, **kwargs):
        return make_result(spec, attempts=starts)

    assert debug([bad, nan], tmp_path, fixed) == 0
    run_dir = run_dir_of(tmp_path, bad)
    result = RunResult.load(run_dir)
    assert (result.status, result.attempts) == ("finished", 4)  # starts; tidying is not one
    assert json.loads((run_dir / "result-failed-1.json").read_text())["status"] == "failed"
    assert (run_dir / "attempts-failed-1" / "3.json").exists()
    assert RunResult.load(run_dir_of(tmp_path, nan)).status == "diverged"
    assert n_starts(run_dir_of(tmp_path, nan)) == 1


def test_another_sweeps_folder_is_refused(tmp_path: Path):
    make_sweep(tmp_path, make_specs(1))
    with pytest.raises(InputError, match="holds sweep toy"):
        debug(make_specs(1, sweep="other"), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"plan.jsonl", "runtime.json"}


def test_other_validation_tokens_are_refused_once_there_are_results(tmp_path: Path):
    specs = make_specs(2)
    settings = command()

    def launched(tokens: int, train=fake_train) -> int:
        settings.runtime = RuntimeConfig(device="cpu", validation_tokens=tokens)
        return launch(settings, specs, tmp_path, tmp_path, train=train)

    def fails(spec, *args, starts: int, **kwargs):
        raise OSError("away")

    assert launched(64, fails) == 1
    assert launched(128, lambda s, *a, starts, **k: make_result(s)) == 0
    before = (tmp_path / "runtime.json").read_text()
    words = r"validation_tokens=64, but .* on 128 tokens, such as that of \S+, .* Give runtime\.validation_tokens=128, or"
    with pytest.raises(InputError, match=words):
        launched(64)
    assert (tmp_path / "runtime.json").read_text() == before
    assert launched(128) == 0


def test_no_leftovers_are_removed_through_a_link(tmp_path: Path):
    specs = make_specs(1)
    sweep = make_sweep(tmp_path / "s", specs)
    left = tmp_path / "elsewhere" / ".step-00000010.deadbeef-123-01234567.tmp"
    left.mkdir(parents=True)
    os.utime(left, (1e9, 1e9))
    (sweep / "runs").mkdir()
    run_dir_of(sweep, specs[0]).symlink_to(left.parent)
    launch(command(), specs, sweep, sweep, train=fake_train)
    assert left.exists()
    (own := sweep / left.name).mkdir()
    os.utime(own, (1e9, 1e9))
    launch(command(), specs, sweep, sweep, train=fake_train)
    assert not own.exists()


def test_results_stay_if_slurm_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    specs = make_specs(1)
    launch(command(), specs, tmp_path, tmp_path, train=fake_train)
    run_dir = run_dir_of(tmp_path, specs[0])
    (run_dir / "curve.npz").unlink()
    before = sorted(run_dir.iterdir())
    monkeypatch.setenv("PATH", str(tmp_path))  # without squeue
    with pytest.raises(InputError):
        launch(command(kind="slurm", n_workers=1), specs, tmp_path, tmp_path)
    assert sorted(run_dir.iterdir()) == before


def test_another_versions_plan_is_refused(tmp_path: Path):
    [spec] = make_specs(1)
    debug([spec], tmp_path)
    path = tmp_path / "plan.jsonl"
    edit_record(path, schema=99)
    text = path.read_text()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="schema"):
        debug([spec], tmp_path)
    assert path.read_text() == text
    assert sorted(tmp_path.rglob("*")) == before


def test_json_is_one_document_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = command()
    settings.format = "json"
    assert launch(settings, make_specs(1), tmp_path, tmp_path, train=fake_train) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["finished"] == 1


def test_train_trains_only_its_own_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first, second, third = make_specs(3)
    bad = make_specs(1, RAISES)[0]
    assert debug([first, bad], tmp_path) == 1
    make_sweep(tmp_path, [first, bad, second])
    capsys.readouterr()
    settings = TrainCommand(cluster=command().cluster, format="json")
    assert launch(settings, [third], tmp_path, tmp_path, train=fake_train) == 0
    assert capsys.readouterr().out == ""  # the command prints the result
    assert not run_dir_of(tmp_path, second).exists()
    assert RunResult.load(run_dir_of(tmp_path, bad)).status == "failed"
    assert len(load_plan(tmp_path / "plan.jsonl")) == 4


def test_local_workers_of_train_train_only_its_own_run(tmp_path: Path):
    earlier, own = make_specs(2)
    make_sweep(tmp_path, [earlier])
    settings = TrainCommand(cluster=command(kind="local", n_workers=1).cluster, format="json")
    assert launch(settings, [own], tmp_path, tmp_path, program=PROGRAM) == 0
    assert RunResult.load(run_dir_of(tmp_path, own)).status == "finished"
    assert not run_dir_of(tmp_path, earlier).exists()


def test_local_workers_share_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    specs = make_specs(5) + make_specs(1, DIVERGES)
    settings = command(kind="local", n_workers=2)
    assert launch(settings, specs, tmp_path, tmp_path, program=PROGRAM) == 0
    out = capsys.readouterr().out
    assert "6/6 runs, 100% of FLOPs, 1 diverged" in out
    assert "loss is not finite" in out
    assert [n_starts(run_dir_of(tmp_path, s)) for s in specs] == [1] * 6
    assert len(list((tmp_path / "workers").glob("*.log"))) == 2


def test_a_worker_that_cannot_start_is_reported(tmp_path: Path, capsys):
    settings = command(kind="local", n_workers=1)
    broken = (sys.executable, "-c", "raise SystemExit('no such library')")
    assert launch(settings, make_specs(1), tmp_path, tmp_path, program=broken) == 1
    assert "no such library" in capsys.readouterr().err


def test_a_signal_ends_a_launchers_wait_for_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The folder is moved before the workers' logs are opened."""

    class Pool(local_pool.Pool):
        def __init__(self, sweep_dir: Path, *more) -> None:
            sweep_dir.rename(tmp_path / "moved")
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            super().__init__(sweep_dir, *more)

    monkeypatch.setattr(local_pool, "Pool", Pool)
    settings = command(kind="local", n_workers=1)
    began = time.monotonic()
    assert launch(settings, make_specs(1), tmp_path / "sweep", tmp_path, program=PROGRAM) == 1
    assert time.monotonic() - began < 10
    assert "is not there any more" in capsys.readouterr().err


def test_a_killed_worker_is_reported_but_no_failure_if_others_finish(tmp_path: Path, capsys):
    """One of two workers ends with code 9; the other one finishes every run."""
    settings = command(kind="local", n_workers=2)
    half = (sys.executable, str(tmp_path / "half.py"))
    (tmp_path / "half.py").write_text(HALF)
    assert launch(settings, make_specs(2), tmp_path / "s", tmp_path, program=half) == 0
    assert "ended with code 9" in capsys.readouterr().err


HALF = f"""
import sys; sys.path.insert(0, {str(SUPPORT)!r})
from sweep_fakes import fake_train
from chinchilla.config.command_line.compose import compose
from chinchilla.sweep.worker import run_worker
command = compose("worker", sys.argv[1:])
sys.exit(9 if command.name.endswith("-1") else run_worker(command, fake_train))
"""

LAUNCH = """
import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])
from sweep_fakes import PROGRAM, SLOW, command, make_specs
from chinchilla.sweep.launch import launch
sweep = Path(sys.argv[1])
sys.exit(launch(command(kind="local", n_workers=2), make_specs(2, SLOW), sweep, sweep, program=PROGRAM))
"""


def start_launcher(sweep_dir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(sweep_dir), str(SUPPORT)],
        stdout=subprocess.PIPE,
    )


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("signum", [
    signal.SIGTERM, *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGINT, signal.SIGKILL)),
])  # fmt: skip
def test_the_workers_of_a_stopped_launcher_stop_too(tmp_path: Path, signum: int):
    run_dirs = [run_dir_of(tmp_path, s) for s in make_specs(2, SLOW)]
    launcher = start_launcher(tmp_path)
    wait_until(lambda: all(read_progress(run_dir) for run_dir in run_dirs))
    pids = [latest_claim(run_dir).pid for run_dir in run_dirs]
    launcher.send_signal(signum)
    out = launcher.communicate(timeout=30)[0].decode()
    wait_until(lambda: not any(alive(pid) for pid in pids))
    assert all(latest_claim(run_dir).released for run_dir in run_dirs)
    if signum != signal.SIGKILL:
        assert launcher.returncode == 75
        assert "0/2 runs" in out
        assert "run the same command again to continue" in out


def test_two_launchers_at_once_do_nothing_twice(tmp_path: Path):
    code = LAUNCH.replace("make_specs(2, SLOW)", "make_specs(10)")
    launchers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(SUPPORT)])
        for _ in range(2)
    ]
    assert {p.wait(60) for p in launchers} <= {0, 75}  # 75: the other one still trains the last
    run_dirs = [run_dir_of(tmp_path, s) for s in make_specs(10)]
    assert [n_starts(run_dir) for run_dir in run_dirs] == [1] * 10


def test_the_pool_fits_the_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    cpu = RuntimeConfig(device="cpu")
    assert local_pool.pool_size(command().cluster, cpu, 28) == local_pool.PoolSize(8, 1)
    assert local_pool.pool_size(command().cluster, cpu, 3) == local_pool.PoolSize(3, 2)
    assert local_pool.pool_size(command(n_workers=2).cluster, cpu, 28) == local_pool.PoolSize(2, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    auto = RuntimeConfig(device="auto")
    assert local_pool.pool_size(command().cluster, auto, 28) == local_pool.PoolSize(
        2, 4, ("2", "5")
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_pool.pool_size(command().cluster, auto, 28) == local_pool.PoolSize(8, 1)


def test_lines_are_printed_while_a_sweep_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chinchilla.sweep.view.live.LINE_SECONDS", 0.1)
    monkeypatch.setattr("chinchilla.sweep.view.live.POLL_SECONDS", 0.05)
    out = io.StringIO()
    make_sweep(tmp_path, make_specs(4))
    with show_progress(tmp_path, out):
        debug(make_specs(4), tmp_path)
    assert "runs, " in out.getvalue()
    assert out.getvalue().count("finished ") == 4


def test_a_damaged_result_is_renamed_and_its_run_trained_again(tmp_path: Path):
    [spec] = make_specs(1)
    debug([spec], tmp_path)
    run_dir = run_dir_of(tmp_path, spec)
    whole = RunResult.load(run_dir)
    (run_dir / "result.json").write_text('{"schema": 1, "spe')
    assert debug([spec], tmp_path) == 0
    assert RunResult.load(run_dir).final_loss == whole.final_loss
    assert (run_dir / "result-failed-1.json").read_text() == '{"schema": 1, "spe'


def test_a_result_that_is_a_broken_link_is_not_trained_repeatedly(tmp_path: Path):
    """Workers cannot publish a result while it exists and skip the run; launching again renames it."""
    [spec] = make_specs(1)
    run_dir = run_dir_of(make_sweep(tmp_path, [spec]), spec)
    run_dir.mkdir(parents=True)
    (run_dir / "result.json").symlink_to("/nowhere/result.json")
    done = Worker(tmp_path, tmp_path, RuntimeConfig(device="cpu"), "one", fake_train).run()
    assert (done.finished, (run_dir / "starts.txt").exists()) == ([], False)
    assert debug([spec], tmp_path) == 0
    assert RunResult.load(run_dir).status == "finished"
    assert (run_dir / "result-failed-1.json").is_symlink()


@pytest.mark.parametrize("text", ["", "\n", '{"a'])
def test_a_plan_without_runs_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
):
    specs = make_specs(1)
    launch(command(), specs, tmp_path, tmp_path, train=fake_train)
    plan = tmp_path / "plan.jsonl"
    plan.write_text(text)
    for word in ("status", "cancel", "logs", "retry"):
        capsys.readouterr()
        assert main([word, f"sweep_dir={tmp_path}"]) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert "Give the same sweep command again" in printed
    assert launch(command(), specs, tmp_path, tmp_path, train=fake_train) == 0
    assert load_plan(plan) == specs
    assert (tmp_path / "damaged-1-plan.jsonl").read_text() == text


def test_the_command_of_a_worker_has_nodes_ranks_and_threads():
    alone = ClusterConfig(kind="manual", threads_per_worker=4)
    words = shlex.split(worker_command(alone, Path("/runs/it's"), Selection()))
    assert words == ["chinchilla", "worker", "/runs/it's", "threads=4"]
    one = ClusterConfig(kind="manual", ranks_per_node=8)
    of_train = worker_command(one, Path("/runs"), Selection(run_id="d1m-n2k"))
    assert of_train == (
        "torchrun --standalone --nproc-per-node 8 --no-python chinchilla worker /runs run=d1m-n2k"
    )
    two = worker_command(ClusterConfig(kind="manual", nodes=2), Path("/runs"), Selection())
    assert "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint FIRST_NODE:29500" in two


@pytest.mark.parametrize("damaged", [False, True], ids=["live", "damaged"])
def test_a_launch_says_once_what_it_waits_for(tmp_path: Path, capsys, monkeypatch, damaged: bool):
    monkeypatch.setattr("chinchilla.sweep.launch.SILENT_SECONDS", 0.0)
    monkeypatch.setattr("chinchilla.sweep.launch.LAUNCH_WAIT_SECONDS", 0.3)
    (folder := tmp_path / "launch").mkdir()
    if damaged:
        (folder / "claim-1.json").write_text("{")
    else:
        acquire(folder, "other")
    with pytest.raises(InputError, match="another launcher"):
        debug(make_specs(1), tmp_path)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("waiting for up to 0 s: ")
    cause = f"{folder / 'claim-1.json'} is damaged" if damaged else "other on "
    assert cause in line

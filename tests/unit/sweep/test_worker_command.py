"""`chinchilla worker`, as any scheduler or shell starts it."""

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_fakes import (
    PROGRAM,
    SLOW,
    command,
    edit_record,
    fake_train,
    make_specs,
    make_sweep,
    n_starts,
    planted,
)

from chinchilla.cli import main
from chinchilla.config import ClusterConfig, WorkerCommand
from chinchilla.core.errors import EXIT_AGAIN
from chinchilla.sweep.claims import acquire, latest_claim
from chinchilla.sweep.launch import launch
from chinchilla.sweep.local_pool import WORKER
from chinchilla.sweep.run_files import load_runtime, missing_specs, recorded_data_dir, run_dir_of
from chinchilla.sweep.worker import run_worker


def manual() -> ClusterConfig:
    return ClusterConfig(kind="manual")


def test_a_prepared_sweep_is_trained_by_workers_started_by_hand(tmp_path: Path, capsys):
    """They are given the sweep's folder only, and may be started at any time, in any number."""
    sweep, specs = tmp_path / "sweep", make_specs(5)
    settings = command()
    settings.cluster = manual()
    assert launch(settings, specs, sweep, tmp_path / "data") == 0
    printed = capsys.readouterr().out
    assert f"nothing was started. Start any number of workers, each with:\n  chinchilla worker {sweep}\n" in printed  # fmt: skip
    assert recorded_data_dir(sweep) == tmp_path / "data"
    assert load_runtime(sweep) == settings.runtime
    shell = 'for i in 1 2 3; do "$@" & done; wait'
    words = [*PROGRAM, str(sweep)]
    subprocess.run(["sh", "-c", shell, "sh", *words], check=True, stdout=subprocess.DEVNULL)
    assert [n_starts(run_dir_of(sweep, s)) for s in specs] == [1] * 5
    assert main(["worker", str(sweep)]) == 0
    assert capsys.readouterr().out == "nothing to do: all runs have ended.\n"


@pytest.mark.parametrize(("n", "runs"), [(1, "1 run is left"), (2, "2 runs are left")])
def test_the_number_of_runs_that_are_left_is_stated(tmp_path: Path, capsys, n: int, runs: str):
    settings = command()
    settings.cluster = manual()
    assert launch(settings, make_specs(n), tmp_path / "sweep", tmp_path / "data") == 0
    assert capsys.readouterr().out.startswith(f"{runs}; nothing was started.")


def test_a_worker_that_finds_every_run_taken_says_so_and_ends(tmp_path: Path, capsys):
    specs = make_specs(2)
    make_sweep(tmp_path, specs)
    claims = [acquire(run_dir_of(tmp_path, s), "other") for s in specs]
    words = WorkerCommand(sweep_dir=str(tmp_path), data_dir=str(tmp_path))
    assert run_worker(words, fake_train) == 0
    assert (
        "nothing to do: the 2 runs left are trained by other workers.\n" in capsys.readouterr().out
    )
    for claim in claims:
        assert claim is not None
        claim.release()


def test_a_worker_trains_one_run_by_the_beginning_of_its_id(tmp_path: Path, capsys):
    specs = make_specs(3)
    make_sweep(tmp_path, specs)
    folders = {"sweep_dir": str(tmp_path), "data_dir": str(tmp_path)}
    assert run_worker(WorkerCommand(**folders, run=specs[1].run_id[:-1]), fake_train) == 0
    assert {s.run_id for s in missing_specs(tmp_path)} == {specs[0].run_id, specs[2].run_id}
    assert main(["worker", str(tmp_path), f"data_dir={tmp_path}", "run=nonesuch"]) == 2
    assert "run 'nonesuch': no such run" in capsys.readouterr().err


def test_a_worker_saves_and_stops_after_max_minutes(tmp_path: Path):
    [spec] = make_specs(1, SLOW)
    make_sweep(tmp_path, [spec])
    words = [*PROGRAM, str(tmp_path), f"data_dir={tmp_path}", "max_minutes=0.02"]
    began = time.monotonic()
    assert subprocess.run(words, timeout=60).returncode == EXIT_AGAIN
    assert time.monotonic() - began < 30
    assert latest_claim(run_dir_of(tmp_path, spec)).released


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "runtime.json").unlink(), "runtime.json does not exist"),
        (lambda d: None, "does not record the token folder. Give data_dir=FOLDER"),
    ],
)
def test_a_folder_that_is_not_prepared_gives_one_line(tmp_path: Path, capsys, change, message: str):
    make_sweep(tmp_path, make_specs(1))
    change(tmp_path)
    assert main(["worker", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_worker_without_the_gpu_that_was_planned_says_so(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("chinchilla.data.dataset.TokenData.open", lambda path: DATA)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    specs = make_specs(2)
    DATA.data_id = specs[0].data_id
    make_sweep(tmp_path, [replace(s, precision="bf16") for s in specs])
    edit_record(tmp_path / "runtime.json", device="auto")
    assert main(["worker", str(tmp_path), f"data_dir={tmp_path}"]) == 1
    printed = capsys.readouterr().err
    assert "planned in bf16 for a GPU, and PyTorch finds no GPU on" in printed
    assert "launch again with runtime.device=cpu and another sweep_dir=" in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


class Data:
    data_id = ""


DATA = Data()


def test_files_of_the_working_folder_replace_no_module(tmp_path: Path):
    """The workers of cluster=local inherit the working folder; so do jobs of Slurm (tests/slurm)."""
    folder = planted(tmp_path / "planted")
    make_sweep(tmp_path / "sweep", make_specs(1))
    done = subprocess.run(
        [*WORKER, str(tmp_path / "sweep"), f"data_dir={tmp_path}"],
        capture_output=True, text=True, cwd=folder, env=os.environ, timeout=60,
    )  # fmt: skip
    assert "holds no prepared tokens" in done.stderr, done.stderr
    assert done.returncode == 1
    unsafe = [word for word in WORKER if word != "-P"]
    done = subprocess.run(
        [*unsafe, str(tmp_path / "sweep")], capture_output=True, text=True, cwd=folder, timeout=60
    )
    assert "of the working folder ran" in done.stderr, "otherwise this test shows nothing"


def test_a_worker_whose_log_nobody_reads_trains_all_runs(tmp_path: Path):
    """As with `chinchilla worker SWEEP_DIR | head -1`."""
    specs = make_specs(2)
    make_sweep(tmp_path, specs)
    reads, writes = os.pipe()
    os.close(reads)
    words = [*PROGRAM, f"sweep_dir={tmp_path}", f"data_dir={tmp_path}"]
    done = subprocess.run(words, stdout=writes, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writes)
    assert b"Traceback" not in done.stderr
    assert not missing_specs(tmp_path)


@pytest.mark.parametrize(
    "error", [KeyError("x"), ImportError("libcudart.so"), RecursionError("deep")], ids=repr
)
def test_an_unexpected_error_of_a_worker_is_one_line(tmp_path, monkeypatch, capsys, error):
    make_sweep(tmp_path, make_specs(1))

    def fails(*_):
        raise error

    monkeypatch.setattr("chinchilla.sweep.worker.load_runtime", fails)
    assert main(["worker", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in out
    [log] = (tmp_path / "workers").glob("error-*.log")
    assert err.startswith(f"chinchilla: {type(error).__name__}: ")
    assert err.endswith(f"The traceback is in {log}.\n")
    assert "in fails" in log.read_text()


def test_a_rank_has_no_name_of_its_own(tmp_path, monkeypatch, capsys):
    make_sweep(tmp_path, make_specs(1))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["worker", str(tmp_path), f"data_dir={tmp_path}", "name=a"]) == 2
    assert "name=a has no effect with several ranks" in capsys.readouterr().err

"""What a Slurm job does when it is warned or ended."""

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from slurm_fakes import job_array
from sweep_fakes import PROGRAM, SLOW, make_specs, make_sweep, wait_until

from chinchilla.sweep.claims import latest_claim
from chinchilla.sweep.run_files import read_progress, run_dir_of
from chinchilla.sweep.signals import Stop
from chinchilla.sweep.slurm import job


@pytest.mark.parametrize("code", [0, -signal.SIGTERM, 1])
def test_a_job_requeues_its_own_element_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
):
    calls, naps, stop = [], [], Stop()

    def run(command, **kwargs):
        calls.append(command)
        return subprocess.CompletedProcess(command, code)

    def nap_until_told(seconds: float) -> None:
        naps.append(seconds)
        stop.seen.add(signal.SIGTERM)

    monkeypatch.setattr(job.subprocess, "run", run)
    monkeypatch.setattr(job.time, "sleep", nap_until_told)
    monkeypatch.setenv("SLURM_JOB_ID", "41")  # the last element's own number is the array's
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "41")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert job.requeue(tmp_path, stop) == 75
    assert calls == [["scontrol", "requeue", "41_2"]]
    assert len(naps) == (code != 1)


@pytest.mark.parametrize(
    ("signum", "state", "returns"),
    [
        (signal.SIGUSR2, "RUNNING", True),
        (signal.SIGTERM, "RUNNING", True),  # grace time of a preemption that sends no USR2
        (signal.SIGTERM, "COMPLETING", False),  # scancel, or a requeue that is under way
        (signal.SIGTERM, "", False),  # squeue fails
    ],
)
@pytest.mark.slow
def test_a_job_is_requeued_if_it_is_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int, state: str, returns: bool
):
    specs = make_specs(2, SLOW)
    make_sweep(tmp_path, specs)
    folder = tmp_path / "slurm" / "0123abcd"
    folder.mkdir(parents=True)
    job_array(Path("/another/sweep")).save(folder)  # as changed by someone else
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f'#!/bin/sh\n[ "$3" = 41 ] && echo {state}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    run_dirs = [run_dir_of(tmp_path, s) for s in specs]
    requeued = []
    monkeypatch.setattr(job, "requeue", lambda folder, stop: requeued.append(1) or 75)
    real = job.local_pool.Pool
    monkeypatch.setattr(job.local_pool, "Pool", lambda *a: real(*a[:3], program=PROGRAM))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def warn() -> None:
        wait_until(lambda: all(read_progress(run_dir) for run_dir in run_dirs))
        os.kill(os.getpid(), signum)

    threading.Thread(target=warn).start()
    assert job.run_job(folder) == (75 if returns else 0)
    assert requeued == [1] * returns
    assert all(latest_claim(run_dir).released for run_dir in run_dirs)


def answers(monkeypatch: pytest.MonkeyPatch, state: str) -> list[list[str]]:
    """Fake answers of Slurm's commands: squeue prints `state`, scontrol succeeds."""
    calls = []

    def run(command, **kwargs):
        calls.append(list(command))
        return subprocess.CompletedProcess(command, 0, f"{state}\n", "")

    monkeypatch.setattr(job.subprocess, "run", run)
    monkeypatch.setattr(job.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    return calls


def rank_zero(monkeypatch: pytest.MonkeyPatch, sweep_dir: Path, work) -> int:
    """Exit code of rank 0 in a job of two ranks, with `work(stop, on_lost)` in place of the worker."""
    from chinchilla.sweep import distributed_worker

    monkeypatch.setattr(job, "slurm_settings", lambda environment: {})
    monkeypatch.setattr(
        distributed_worker, "work", lambda s, d, stop, *a, on_lost, lost_code: work(stop, on_lost)
    )
    return job._run_rank(job_array(sweep_dir, n_ranks=2), sweep_dir)


@pytest.mark.parametrize(("state", "n_requeues"), [("RUNNING", 1), ("COMPLETING", 0)])
def test_a_job_stopped_on_another_rank_is_requeued_unless_it_is_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, n_requeues: int
):
    make_sweep(tmp_path, make_specs(1))
    calls = answers(monkeypatch, state)
    requeued = []
    monkeypatch.setattr(job, "requeue", lambda folder, stop: requeued.append(1) or 75)

    def work(stop: Stop, on_lost) -> int:
        stop.requested = True  # as rank 0 does for another rank; no signal was seen here
        return 75

    assert rank_zero(monkeypatch, tmp_path, work) == (75 if n_requeues else 0)
    assert requeued == [1] * n_requeues
    assert calls[0][0] == "squeue"


def test_a_job_that_lost_a_rank_is_requeued_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """srun ends rank 0 too, after Slurm's KillWait, so the requeue cannot wait."""
    make_sweep(tmp_path, make_specs(1))
    calls = answers(monkeypatch, "RUNNING")

    def work(stop: Stop, on_lost) -> int:
        on_lost()
        assert calls[-1] == ["scontrol", "requeue", "41"]
        os.kill(os.getpid(), signal.SIGTERM)
        return 75

    assert rank_zero(monkeypatch, tmp_path, work) == 75
    assert [c[0] for c in calls] == ["squeue", "scontrol"], "asked once"


def test_a_job_that_cannot_train_here_is_not_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A restart would find the same full disk or unreadable data."""
    make_sweep(tmp_path, make_specs(1))
    calls = answers(monkeypatch, "RUNNING")
    assert rank_zero(monkeypatch, tmp_path, lambda stop, on_lost: 1) == 1
    assert calls == []


def test_a_job_without_the_variables_of_slurm_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """As in a container that receives no environment."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(job.sys, "argv", ["job", str(tmp_path)])
    assert job.main() == 2
    printed = capsys.readouterr().err
    assert printed.startswith("chinchilla: SLURM_JOB_ID is not set. A container ")
    assert printed.count("\n") == 1


def test_an_unexpected_error_of_a_job_is_one_line(tmp_path: Path, monkeypatch, capsys):
    """Its traceback is beside the logs of the job."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setattr(job.sys, "argv", ["job", str(tmp_path)])
    monkeypatch.setattr(job, "run_job", lambda folder: {}["ranks"])
    assert job.main() == 1
    [log] = tmp_path.glob("error-*.log")
    assert capsys.readouterr().err.endswith(f"The traceback is in {log}.\n")

"""Runs that do not finish: out of memory, unreadable data, errors, interruptions."""

import errno
import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from sweep_fakes import (
    DIES,
    RAISES,
    command,
    edit_record,
    fake_train,
    make_result,
    make_specs,
    make_sweep,
    n_starts,
    start_worker,
    wait_until,
)

from chinchilla.cli import main
from chinchilla.config import RuntimeConfig, WorkerCommand
from chinchilla.core.errors import DataError, InputError, MemoryRefused
from chinchilla.core.files.folders import Folder
from chinchilla.data.manifest import Manifest
from chinchilla.plan.records import RunResult
from chinchilla.sweep import claims, failures
from chinchilla.sweep.claims import acquire, latest_claim
from chinchilla.sweep.failures import (
    MAX_ATTEMPTS,
    MAX_STALLS,
    Attempt,
    failure_kind,
    micro_batch_after,
    read_attempts,
)
from chinchilla.sweep.launch import launch
from chinchilla.sweep.run_files import run_dir_of, saved_step
from chinchilla.sweep.worker import Worker, run_worker

RUNTIME = RuntimeConfig(device="cpu")
ROW = make_specs(1)[0].model.seq_len  # 16 rows a batch


def work(sweep_dir: Path, train=fake_train, runtime=RUNTIME, **output):
    return Worker(sweep_dir, sweep_dir, runtime, "w", train, **output).run()


def as_w(sweep_dir: Path, data_dir: Path) -> WorkerCommand:
    return WorkerCommand(sweep_dir=str(sweep_dir), data_dir=str(data_dir), name="w")


def raising(error: Exception):
    def train(*args, **kwargs):
        raise error

    return train


@pytest.fixture
def spec():
    return make_specs(1)[0]


@pytest.fixture
def run_dir(tmp_path: Path, spec) -> Path:
    return run_dir_of(make_sweep(tmp_path, [spec]), spec)


# Kinds


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's class."""


class PeerError(RuntimeError):
    """As in train.distributed: `reported` is the error of another rank; empty if that rank has ended."""

    def __init__(self, message: str, reported: str = "") -> None:
        super().__init__(message)
        self.reported = reported


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "oom"),
        (OutOfMemoryError("no words"), "oom"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), "oom"),
        (OSError(12, "Cannot allocate memory"), "oom"),
        (DataError("shard x has other contents"), "data"),
        (InputError("runtime.device=cuda:1: this machine has 0"), "error"),
        (OSError(5, "Input/output error"), "error"),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), "files"),
        (OSError(errno.ESTALE, "Stale file handle"), "files"),
        (PeerError("rank 1 of 2: x", f"OSError: [Errno {errno.ESTALE}] Stale"), "files"),
        (RuntimeError("CUDA error: device-side assert triggered"), "error"),
        (OSError(28, "a checkpoint needs 9 bytes"), "disk"),
        (RuntimeError("write failed: No space left on device"), "disk"),
        (MemoryRefused("run x needs about 9 GB"), "memory"),
        (PeerError("rank 1 of 2: x", "MemoryRefused: run x needs about 9 GB"), "memory"),
        (PeerError("rank 1 of 2: ended, or does not answer"), "peer"),
        (PeerError("rank 1 of 2: x", "RuntimeError: x"), "error"),
        (PeerError("rank 1 of 2: x", "MemoryError"), "oom"),
        (PeerError("rank 1 of 2: x", "OutOfMemoryError: CUDA out of memory"), "oom"),
        (PeerError("rank 1 of 2: x", "DataError: shard x is missing"), "data"),
        (PeerError("rank 1 of 2: x", "OSError: [Errno 28] a checkpoint needs 9 bytes"), "disk"),
    ],
)
def test_errors_are_classified(error: Exception, kind: str):
    assert failure_kind(error) == kind


def test_messages_of_torch_are_classified():
    torch = pytest.importorskip("torch")
    assert torch.OutOfMemoryError.__name__ == "OutOfMemoryError"
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert failure_kind(caught.value) == "oom"


def test_three_errors_make_a_failed_run_of_kind_error(tmp_path: Path):
    [bad] = make_specs(1, RAISES)
    work(make_sweep(tmp_path, [bad]))
    run_dir = run_dir_of(tmp_path, bad)
    result = RunResult.load(run_dir)
    assert (result.status, result.failure) == ("failed", "error")
    assert [a.failure for a in read_attempts(run_dir)] == ["error"] * 3
    assert {a.micro_batch_tokens for a in read_attempts(run_dir)} == {bad.batch_tokens}


def test_a_run_fails_after_three_workers_could_not_read_its_data(
    tmp_path: Path, spec, run_dir: Path
):
    bad = raising(DataError("shard x has other contents"))
    for n in range(1, MAX_ATTEMPTS + 1):
        summary = work(tmp_path, bad)
        assert (summary.errors, summary.cannot_train) == (1, "shard x has other contents")
        assert [a.failure for a in read_attempts(run_dir)] == ["data"] * n
        assert bool(summary.failed) == (n == MAX_ATTEMPTS)
    result = RunResult.load(run_dir)
    assert (result.failure, result.attempts) == ("data", MAX_ATTEMPTS)
    assert result.reason == "DataError: shard x has other contents"


@pytest.mark.slow
def test_a_worker_that_cannot_read_the_data_exits_after_one_attempt(tmp_path: Path):
    """The data may be readable on other nodes, whose workers train the runs."""
    specs = make_specs(3)
    make_sweep(tmp_path, specs)
    summary = work(tmp_path, raising(DataError("shard x is missing")))
    assert (summary.errors, summary.failed) == (1, [])
    assert len(work(tmp_path).finished) == 3


@pytest.mark.parametrize("text", [None, "junk", "{}"])
def test_a_node_that_cannot_read_the_data_claims_nothing(tmp_path: Path, capsys, text: str | None):
    """Uses the real training function, because a substitute disables the check of the data."""
    make_sweep(tmp_path / "sweep", make_specs(3))
    (tmp_path / "data").mkdir()
    if text is not None:
        (tmp_path / "data" / "manifest.json").write_text(text)
    assert run_worker(as_w(tmp_path / "sweep", tmp_path / "data")) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert str(tmp_path / "data") in printed
    assert not list((tmp_path / "sweep" / "runs").glob("*"))


def test_data_that_disappears_later_is_of_kind_data(tmp_path: Path):
    with pytest.raises(DataError, match="holds no prepared tokens") as gone:
        Manifest.load(tmp_path)
    assert failure_kind(gone.value) == "data"
    (tmp_path / "manifest.json").write_text("junk")
    with pytest.raises(DataError, match="cannot be read"):
        Manifest.load(tmp_path)


# No room


NO_ROOM = [errno.ENOSPC, errno.EDQUOT, errno.EROFS]


def test_a_run_refused_for_memory_is_left_to_others_and_can_be_trained_later(
    tmp_path: Path, capsys
):
    specs = make_specs(3)
    large = run_dir_of(make_sweep(tmp_path, specs), specs[0])

    def train(spec, *args, **kwargs):
        if spec == specs[0]:
            raise MemoryRefused("run x needs about 9 GB")
        return make_result(spec)

    for n_others in (2, *[0] * MAX_STALLS):
        summary = work(tmp_path, train)
        assert (len(summary.finished), summary.n_claimed) == (n_others, n_others + 1)
        assert (summary.errors, summary.cannot_train) == (0, "run x needs about 9 GB")
    assert run_worker(as_w(tmp_path, tmp_path), train) == 1
    assert capsys.readouterr().err == "chinchilla: run x needs about 9 GB\n"
    assert read_attempts(large) == []
    assert work(tmp_path).finished == [specs[0].run_id]


def test_a_refused_run_that_another_worker_has_trained_is_no_error(tmp_path: Path):
    specs = make_specs(2)
    make_sweep(tmp_path, specs)
    refused: list[str] = []

    def train(spec, *args, **kwargs):
        if not refused:
            refused.append(spec.run_id)
            raise MemoryRefused("run x needs about 9 GB")
        work(tmp_path)
        return make_result(spec)

    assert work(tmp_path, train).exit_code() == 0


@pytest.mark.parametrize("number", NO_ROOM)
@pytest.mark.slow
def test_a_full_disk_stops_the_worker_and_is_no_attempt(tmp_path: Path, number: int):
    specs = make_specs(3)
    run_dirs = [run_dir_of(make_sweep(tmp_path, specs), s) for s in specs]
    calls: list[int] = []

    def train(spec, run_dir, *args, **kwargs):
        calls.append(1)
        raise OSError(number, os.strerror(number), str(run_dir / "checkpoints" / "step-00000001"))

    for _ in range(2 * MAX_STALLS):
        summary = work(tmp_path, train)
        assert summary.errors == 0
        assert "checkpoints/step-00000001: " in summary.cannot_train
        assert " bytes free" in summary.cannot_train
    assert len(calls) == 2 * MAX_STALLS
    assert [read_attempts(run_dir) for run_dir in run_dirs] == [[], [], []]
    assert len(work(tmp_path).finished) == 3


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.ESTALE])
def test_a_file_server_that_does_not_answer_ends_the_worker_and_is_no_attempt(
    tmp_path: Path, spec, run_dir: Path, number: int, capsys
):
    error = OSError(number, os.strerror(number), str(run_dir / "checkpoints"))
    for _ in range(MAX_STALLS + 1):
        assert run_worker(as_w(tmp_path, tmp_path), raising(error)) == 1
        assert f"{run_dir / 'checkpoints'} does not answer" in capsys.readouterr().err
    assert read_attempts(run_dir) == []
    assert work(tmp_path).finished == [spec.run_id]


def test_a_disk_too_full_for_a_claim_or_a_release_is_reported(
    tmp_path: Path, spec, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def full(path: Path, *args) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(claims, "write_text", full)  # a release
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "create_once", full)
        assert run_worker(as_w(tmp_path, tmp_path), fake_train) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "claim-1.json" in printed
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert run_worker(as_w(tmp_path, tmp_path), raising(error)) == 1
    assert read_attempts(run_dir) == []
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_is_not_writable_is_reported_in_one_line(
    tmp_path: Path, spec, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def refuse(folder: Folder, name: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)

    monkeypatch.setattr(Folder, "create", refuse)
    assert main(["worker", str(tmp_path), f"data_dir={tmp_path}"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "Read-only file system" in printed


# Other ranks


@pytest.mark.slow
def test_a_dead_rank_is_an_interruption_and_no_attempt(tmp_path: Path, spec, run_dir: Path):
    gone = PeerError("rank 1 of 2 on n2: ended, or does not answer")
    for _ in range(MAX_STALLS):
        work(tmp_path, once(raising(gone)))
    assert read_attempts(run_dir) == []
    assert latest_claim(run_dir).stalls == MAX_STALLS - 1
    work(tmp_path)
    result = RunResult.load(run_dir)
    assert result.failure == "lost"
    assert "rank 1 of 2 on n2" in result.reason


@pytest.mark.slow
def test_interruptions_are_not_limited_while_checkpoints_advance(
    tmp_path: Path, spec, run_dir: Path
):
    for step in range(4 * MAX_STALLS):
        (run_dir / "checkpoints" / f"step-{step + 1:08d}").mkdir(parents=True)
        work(tmp_path, once(raising(PeerError("rank 1 of 2: ended"))))
    assert work(tmp_path).finished == [spec.run_id]


def once(train):
    """Training after which this worker must end, as when a rank has died."""

    def stop_after(*args, **kwargs):
        try:
            return train(*args, **kwargs)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    return stop_after


def test_a_finished_run_has_no_kind_of_failure(tmp_path: Path, run_dir: Path):
    work(tmp_path)
    assert RunResult.load(run_dir).failure == ""


def test_a_result_written_before_there_were_kinds_is_read(tmp_path: Path, spec):
    make_result(spec, "failed", "it broke").save(tmp_path)
    edit_record(tmp_path / "result.json", "failure")
    assert RunResult.read(tmp_path / "result.json").failure == ""


# Out of memory


def needs(rows: int, used: list[int]):
    """Training that runs out of memory with more than this number of rows in a forward pass."""

    def train(spec, run_dir, data_dir, runtime, *, on_start, **kwargs):
        tokens = runtime.micro_batch_tokens or spec.batch_tokens
        used.append(tokens // ROW)
        on_start(tokens)
        if used[-1] > rows:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return make_result(spec, attempts=kwargs["starts"])

    return train


def test_running_out_of_memory_halves_the_micro_batch(tmp_path: Path, spec, run_dir: Path):
    used: list[int] = []
    summary = work(tmp_path, needs(2, used))
    assert used == [16, 8, 4, 2]
    result = RunResult.load(run_dir)
    assert (result.status, result.spec.run_id, result.attempts) == ("finished", spec.run_id, 4)
    assert [(a.failure, a.micro_batch_tokens // ROW) for a in read_attempts(run_dir)] == [
        ("oom", 16), ("oom", 8), ("oom", 4),
    ]  # fmt: skip
    assert summary.errors == 3


def test_the_micro_batch_that_was_used_is_halved(tmp_path: Path, run_dir: Path):
    """With micro_batch_tokens=0 the run has chosen 6 rows."""
    used: list[int] = []
    inner = needs(3, used)

    def train(spec, run_dir, data_dir, runtime, **kwargs):
        own = replace(runtime, micro_batch_tokens=runtime.micro_batch_tokens or 6 * ROW)
        return inner(spec, run_dir, data_dir, own, **kwargs)

    work(tmp_path, train)
    assert used == [6, 3]


def test_a_run_that_runs_out_of_memory_with_one_sequence_fails_as_oom(
    tmp_path: Path, run_dir: Path
):
    used: list[int] = []
    summary = work(tmp_path, needs(0, used), replace(RUNTIME, micro_batch_tokens=4 * ROW))
    assert used == [4, 2, 1]
    result = RunResult.load(run_dir)
    assert (result.status, result.failure, len(summary.failed)) == ("failed", "oom", 1)


def test_running_out_of_memory_before_the_first_forward_pass_ends_in_failure(
    tmp_path: Path, run_dir: Path
):
    """The model alone does not fit, so the micro-batch was never recorded."""
    summary = work(tmp_path, raising(MemoryError()))
    assert RunResult.load(run_dir).failure == "oom"
    assert summary.errors == 5  # 16, 8, 4, 2, 1 rows


def test_failures_of_another_run_do_not_change_the_micro_batch(tmp_path: Path):
    specs = make_specs(2)
    make_sweep(tmp_path, specs)
    used: list[int] = []
    fits, tight = needs(16, used), needs(8, used)

    def train(spec, *args, **kwargs):
        return (tight if spec is specs[0] or spec == specs[0] else fits)(spec, *args, **kwargs)

    assert len(work(tmp_path, train).finished) == 2
    assert sorted(used) == [8, 16, 16]


@pytest.mark.slow
def test_errors_and_memory_failures_are_limited_separately(tmp_path: Path, run_dir: Path):
    calls: list[int] = []
    tight = needs(1, [])

    def train(*args, **kwargs):
        calls.append(1)
        if len(calls) in (2, 4):
            raise OSError("file server away")
        return tight(*args, **kwargs)

    assert len(work(tmp_path, train).finished) == 1
    kinds = [a.failure for a in read_attempts(run_dir)]
    assert kinds == ["oom", "error", "oom", "error", "oom", "oom"]


def test_halving_an_odd_number_of_sequences_rounds_down():
    used = [Attempt("oom", micro_batch_tokens=5 * ROW), Attempt("error", micro_batch_tokens=ROW)]
    assert micro_batch_after(used, ROW) == 2 * ROW
    assert micro_batch_after(used[1:], ROW) == 0
    assert micro_batch_after([Attempt("oom", micro_batch_tokens=ROW)], ROW) == ROW


# Being cut off


def pretend_dead(run_dir: Path) -> None:
    """The latest claim's process is gone."""
    record = latest_claim(run_dir)
    path = run_dir / f"claim-{record.fence}.json"
    path.write_text(json.dumps(asdict(replace(record, pid=2**31 - 1, pid_start="1"))))


def cut_off(run_dir: Path, released: bool, times: int, saves: bool = False) -> None:
    """A worker claims the run and is stopped or killed, `times` times."""
    for i in range(times):
        step = saved_step(run_dir)
        stalls = failures.count_stalls(run_dir, latest_claim(run_dir), step)
        claim = acquire(run_dir, f"w{i}", step=step, stalls=stalls)
        if saves:
            (run_dir / "checkpoints" / f"step-{step + 1:08d}").mkdir(parents=True)
        if released:
            claim.release()
        else:
            claim._stop.set()
            claim._thread.join()
            pretend_dead(run_dir)


@pytest.mark.parametrize(
    ("released", "how"), [(True, "was stopped"), (False, "died without a message")]
)
def test_a_run_interrupted_without_progress_is_lost(
    tmp_path: Path, run_dir: Path, released: bool, how: str
):
    cut_off(run_dir, released, MAX_STALLS)
    summary = work(tmp_path)
    result = RunResult.load(run_dir)
    assert (result.status, result.failure, len(summary.failed)) == ("failed", "lost", 1)
    assert f"interrupted {MAX_STALLS} times in a row at step 0" in result.reason
    assert how in result.reason
    assert not (run_dir / "starts.txt").exists()


@pytest.mark.parametrize("released", [True, False])
def test_a_run_interrupted_less_often_continues(
    tmp_path: Path, spec, run_dir: Path, released: bool
):
    cut_off(run_dir, released, MAX_STALLS - 1)
    assert work(tmp_path).finished == [spec.run_id]


@pytest.mark.parametrize("released", [True, False])
def test_a_run_that_saves_each_time_may_be_interrupted_without_limit(
    tmp_path: Path, spec, run_dir: Path, released: bool
):
    cut_off(run_dir, released, 4 * MAX_STALLS, saves=True)
    assert latest_claim(run_dir).step == 4 * MAX_STALLS - 1
    assert work(tmp_path).finished == [spec.run_id]


def test_progress_resets_the_count_of_stalls(tmp_path: Path, spec, run_dir: Path):
    cut_off(run_dir, False, MAX_STALLS - 1)
    cut_off(run_dir, False, 1, saves=True)
    cut_off(run_dir, False, MAX_STALLS - 1)
    assert work(tmp_path).finished == [spec.run_id]


def test_an_error_is_not_a_stall(tmp_path: Path, spec, run_dir: Path):
    """Errors between interruptions are not counted as interruptions."""
    cut_off(run_dir, False, MAX_STALLS - 1)
    calls: list[int] = []

    def flaky(*args, **kwargs):
        calls.append(1)
        if len(calls) < 3:
            raise OSError("file server away")
        return make_result(spec)

    assert work(tmp_path, flaky).finished == [spec.run_id]
    assert latest_claim(run_dir).stalls == MAX_STALLS - 1


@pytest.mark.slow
def test_a_run_that_kills_its_workers_is_lost_after_five(tmp_path: Path):
    [spec] = make_specs(1, DIES)
    run_dir = run_dir_of(make_sweep(tmp_path, [spec]), spec)
    codes = [start_worker(tmp_path, f"w{i}").wait(30) for i in range(MAX_STALLS + 1)]
    assert codes == [-signal.SIGKILL] * MAX_STALLS + [0]
    assert n_starts(run_dir) == MAX_STALLS
    assert RunResult.load(run_dir).failure == "lost"


def test_launching_again_resets_the_limits_of_a_lost_run(tmp_path: Path, spec, run_dir: Path):
    cut_off(run_dir, False, MAX_STALLS)
    assert work(tmp_path).failed == [spec.run_id]
    assert launch(command(), [spec], tmp_path, tmp_path, train=fake_train) == 0
    assert RunResult.load(run_dir).status == "finished"


# Warnings


def test_a_warning_received_while_python_starts_stops_the_worker(
    tmp_path: Path,
):
    """Slurm sends it to every process of a job, also to workers that are starting."""
    from chinchilla.sweep.signals import block_warnings

    make_sweep(tmp_path, make_specs(1))
    with block_warnings():
        process = start_worker(tmp_path, "w")
        os.kill(process.pid, signal.SIGUSR2)  # at once: before the interpreter has begun
    assert process.wait(30) == 75
    assert not list(tmp_path.glob("runs/*/result.json"))


def test_without_blocking_the_same_warning_kills():
    """Shows that the test above depends on the blocked signal."""
    import subprocess
    import sys

    before = signal.signal(signal.SIGUSR2, signal.SIG_DFL)  # inherited; it may be ignored here
    try:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
        os.kill(process.pid, signal.SIGUSR2)
        assert process.wait(30) == -signal.SIGUSR2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_pool_blocks_warnings_while_its_workers_start(tmp_path: Path):
    from sweep_fakes import PROGRAM

    from chinchilla.sweep import local_pool
    from chinchilla.sweep.signals import Stop

    make_sweep(tmp_path, make_specs(2))
    with local_pool.Pool(tmp_path, tmp_path, local_pool.PoolSize(2, 1), PROGRAM) as workers:
        for process in workers.logs:
            os.kill(process.pid, signal.SIGUSR2)
        assert workers.wait(Stop()) == [75, 75]
    wait_until(lambda: not list(tmp_path.glob("runs/*/heartbeat")))

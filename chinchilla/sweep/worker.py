"""A worker: claims the next run of a sweep, trains it, publishes its result, and repeats.

Workers communicate only through the sweep's folder, so they can run in this process, as local
subprocesses, in Slurm jobs, or wherever `chinchilla worker` is started. Started by torchrun, several
processes are one worker (`distributed_worker`).

    chinchilla worker SWEEP_DIR
    torchrun --nproc-per-node 8 --no-python chinchilla worker SWEEP_DIR

Reads plan.jsonl and runtime.json; writes runs/<run_id>/ (see `run_files`). Training itself is
`chinchilla.train`, imported when the first run starts.
"""

import contextlib
import dataclasses
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from chinchilla.config import RuntimeConfig, WorkerCommand
from chinchilla.core.errors import (
    EXIT_AGAIN,
    EXIT_FAILED,
    EXIT_OK,
    DataError,
    InputError,
    error_summary,
    one_line,
)
from chinchilla.core.files.folders import FolderGone, is_gone, wait_for_folder
from chinchilla.core.files.writing import guard, remove, writable_dir
from chinchilla.core.program import tracebacks_in
from chinchilla.core.provenance import OtherCode, check_unchanged
from chinchilla.core.terminal import OutputError, log_to_output, print_error, print_message
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.plan.unwritten import forget_curve
from chinchilla.sweep.claims import STALE_SECONDS, Claim
from chinchilla.sweep.failures import (
    breaks_the_device,
    failure_kind,
    lost_reason,
    micro_batch_after,
    read_attempts,
    record_attempt,
)
from chinchilla.sweep.job_classes import Selection, SizeRange
from chinchilla.sweep.preflight import (
    DeviceError,
    LatestLaunch,
    check_machine,
    files_problem,
    limit_threads,
    worker_name,
)
from chinchilla.sweep.rescue import Rescued, publish, publish_rescued
from chinchilla.sweep.retry import find_runs
from chinchilla.sweep.run_files import (
    ProgressFile,
    RunFilter,
    check_code,
    has_result,
    load_runtime,
    mark_ended,
    missing_specs,
    recorded_data_dir,
    stable_phases_of,
)
from chinchilla.sweep.run_queue import RunQueue
from chinchilla.sweep.signals import Stop, block_warnings, stop_on_signals
from chinchilla.tracking.mirror import wait_for_mirrors

Train = Callable[..., RunResult | None]  # `chinchilla.train.train_run`, or a substitute in tests
log = logging.getLogger("chinchilla.sweep")


class ClaimLost(Exception):
    """Another worker has taken the run over. Stop at once and write nothing."""


@dataclass
class WorkerSummary:
    """What one worker did; lists hold run ids."""

    worker: str
    finished: list[str] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    n_claimed: int = 0
    errors: int = 0  # failed attempts
    stopped: bool = False  # by a signal
    needs_restart: bool = False  # the GPU is unusable in this process; a new one can continue
    cannot_train: str = (
        ""  # why this machine cannot train (data, disk, file server or memory), or left runs out
    )

    @property
    def had_nothing_to_do(self) -> bool:
        """Whether no run could be claimed from the beginning."""
        return not (self.n_claimed or self.stopped or self.cannot_train)

    def exit_code(self) -> int:
        """Exit code of a worker process; prints why this machine cannot train."""
        if self.cannot_train:
            sys.stdout.flush()  # so that the message comes last in a log of both streams
            print_error(self.cannot_train)
            return EXIT_FAILED
        return EXIT_AGAIN if self.stopped else EXIT_OK


@dataclass
class Worker:
    """Trains unfinished runs of a sweep, one after the other, until none can be claimed.

    Args:
        sweep_dir: the sweep's folder; its plan may grow meanwhile.
        data_dir: token folder.
        runtime: how to execute; not part of any run's identity.
        name: this worker's name in claims; default: host and process.
        train: substitute for `chinchilla.train.train_run`.
        only: selects the runs to train; default: the whole plan.
        stop: flag that ends the worker before the next micro-batch; default: set by signals.
        stale_seconds: age of the heartbeat from which a worker on another machine counts as dead.
    """

    sweep_dir: Path
    data_dir: Path
    runtime: RuntimeConfig
    name: str = ""
    train: Train | None = None
    _: KW_ONLY
    only: RunFilter | None = None
    stop: Stop | None = None
    stale_seconds: float = STALE_SECONDS

    def __post_init__(self) -> None:
        self.name = self.name or worker_name()
        self.summary = WorkerSummary(self.name)
        self.queue = RunQueue(self.sweep_dir, self.name, self.only, self.stale_seconds)
        self.width: int | None = None  # d_model of the last run
        self.launch = LatestLaunch(self.sweep_dir)

    def run(self) -> WorkerSummary:
        """Work until nothing is left to claim. Errors in a run are recorded, not raised.

        Raises:
            OtherCode: the sweep was launched again with other code, or the files of this code have changed.
        """
        summary = self.summary
        signals = stop_on_signals() if self.stop is None else contextlib.nullcontext(self.stop)
        with signals as self.stop:
            guard(self.sweep_dir, self.stop)
            try:
                publish_rescued(self.sweep_dir)
                if self.train is None:
                    check_machine(self.sweep_dir, self.data_dir, self.runtime.device, self.only)
                while not (self.stop or summary.needs_restart or summary.cannot_train):
                    wait_for_folder(self.sweep_dir)
                    if not self.next_run():
                        summary.cannot_train = self._left_out()
                        break
            except (DataError, DeviceError) as error:
                summary.cannot_train = one_line(error)
            except OSError as error:
                kind = failure_kind(error)
                if summary.cannot_train:  # the cause; it may name a result that was rescued
                    log.warning("%s", one_line(error))
                elif isinstance(error, FolderGone):
                    summary.cannot_train = one_line(f"{error.strerror}.")
                elif kind in ("disk", "files"):
                    summary.cannot_train = files_problem(kind, error, self.sweep_dir)
                else:
                    raise
            summary.stopped = bool(self.stop)
        return summary

    def _left_out(self) -> str:
        """Why runs without a result were left out, in one line; "" if there are none."""
        runs = self.sweep_dir / "runs"
        left = [why for run_id, why in self.queue.left_out.items() if not has_result(runs / run_id)]
        more = f" {len(left) - 1} further runs are left out; see the log." if left[1:] else ""
        return f"{left[0]}{more}" if left else ""

    def next_run(self) -> bool:
        """Claim and train one run, or wait briefly; False if nothing is left to claim."""
        try:
            self.launch.check()
            claimed, wait = self.queue.claim_next(self.width)
        except (OSError, InputError):
            if is_gone(self.sweep_dir):  # which the next call waits for
                return True
            raise
        if claimed is not None:
            spec, claim = claimed
            with self.queue.problems_of(spec):
                try:
                    self.train_claimed(spec, claim)
                finally:
                    forget_curve(claim.run_dir)
                    claim.release()
                    mark_ended(claim.run_dir)
            if "torch" in sys.modules:
                from chinchilla.train.device import give_memory_back

                give_memory_back()
        elif wait:  # a holder's node may have died, perhaps the previous node of this job
            time.sleep(self.queue.wait_seconds)
        return claimed is not None or wait

    def train_claimed(self, spec: RunSpec, claim: Claim) -> None:
        """Attempt a run once, and write its result, a record of the failure, or a checkpoint."""
        run_dir = claim.run_dir

        def should_stop() -> bool:
            if claim.lost:
                raise ClaimLost
            return bool(self.stop)

        self.summary.n_claimed += 1
        log.info("claimed %s (claim %d)", spec.run_id, claim.record.fence)
        runtime = self._runtime(spec, run_dir)
        if reason := lost_reason(claim):
            self._record_failure(spec, claim, "lost", reason, reason, runtime)
            return
        progress = ProgressFile(run_dir, spec, lambda: claim.record.workers)
        try:
            if self.train is None:
                from chinchilla.train import train_run

                check_unchanged()  # the modules just imported are those that were hashed
                self.train = train_run
            self.width = spec.model.d_model
            result = self.train(
                spec,
                run_dir,
                self.data_dir,
                runtime,
                starts=claim.record.starts,
                on_start=progress.start,
                on_progress=progress,
                should_stop=should_stop,
                still_mine=claim.still_mine,
                stable_phases=stable_phases_of(self.sweep_dir) if spec.stable_phase else None,
            )
        except ClaimLost:
            log.warning("%s was taken over by another worker", spec.run_id)
            return
        except OtherCode as error:
            claim.release(one_line(error), excused=True)
            raise
        except Exception as error:
            if isinstance(error, FolderGone) or is_gone(self.sweep_dir):
                log.warning("%s: %s", spec.run_id, error_summary(error))
                wait_for_folder(self.sweep_dir)
                claim.release("the folder of the sweep was not there", excused=True)
                return
            kind, reason = failure_kind(error), error_summary(error)
            # End the worker: a problem of this machine would use up the attempts of all runs.
            if kind in ("disk", "files"):
                self.summary.cannot_train = files_problem(kind, error, run_dir)
            if kind == "data":
                self.summary.cannot_train = one_line(error)
            if kind == "memory":  # another worker, or this machine later, may have it
                self.queue.left_out[spec.run_id] = one_line(error)
            if kind in ("disk", "files", "memory", "peer"):  # not a failure of the run
                log.warning("%s: %s: %s", spec.run_id, kind, reason)
                claim.release(reason, excused=kind != "peer")
                return
            text = "".join(traceback.format_exception(error))
            self._record_failure(spec, claim, kind, reason, text, runtime)
            self.summary.needs_restart = breaks_the_device(error)
            return
        if result is None:
            log.info("stopped %s", spec.run_id)
            assert self.stop or claim.lost, "train_run returned None without a stop"
            return
        try:
            published = publish(claim, result, self.stop)
        except Rescued as error:
            if error.of_one_run:
                log.warning("%s", error)
                self.queue.left_out[spec.run_id] = one_line(error)
            else:
                self.summary.cannot_train = one_line(error)
            return
        if published:
            if result.status == "finished" and runtime.keep_checkpoints == "none":
                with contextlib.suppress(OSError):
                    remove(run_dir / "checkpoints")
            getattr(self.summary, result.status).append(spec.run_id)
            log.info("%s %s", result.status, spec.run_id)
        else:
            log.warning("%s was taken over by another worker; result discarded", spec.run_id)

    def _runtime(self, spec: RunSpec, run_dir: Path) -> RuntimeConfig:
        """The sweep's settings, with a smaller micro-batch if memory ran out before."""
        limit = micro_batch_after(read_attempts(run_dir), spec.model.seq_len)
        configured = self.runtime.micro_batch_tokens
        tokens = min(limit or configured, configured or limit)
        return dataclasses.replace(self.runtime, micro_batch_tokens=tokens)

    def _record_failure(
        self,
        spec: RunSpec,
        claim: Claim,
        failure: str,
        reason: str,
        text: str,
        runtime: RuntimeConfig,
    ) -> None:
        log.warning("%s: %s: %s", spec.run_id, failure, reason)
        self.summary.errors += 1
        if claim.still_mine() and record_attempt(spec, claim, failure, reason, text, runtime):
            log.warning("%s has failed and will not be retried", spec.run_id)
            self.summary.failed.append(spec.run_id)


class WorkerStop(Stop):
    """Also true when the parent process has ended, or after a time.

    Args:
        parent: process number of the parent; 0 = any.
        minutes: time from now; 0 = no limit.
    """

    def __init__(self, parent: int, minutes: float) -> None:
        super().__init__()
        self.parent = parent
        self.end = time.monotonic() + 60 * minutes if minutes else math.inf

    def __bool__(self) -> bool:
        orphaned = self.parent > 0 and os.getppid() != self.parent
        return self.requested or orphaned or time.monotonic() > self.end


def run_worker(command: WorkerCommand, train: Train | None = None) -> int:
    """Run one worker, or one rank of a worker, as a process.

    Args:
        command: the sweep, and the runs to train.
        train: substitute for `chinchilla.train.train_run`.

    Returns:
        0: nothing left to claim; 75: stopped, or a rank failed or died; 1: this machine
        cannot train (data not readable, disk full, too little memory), runs were left out, or not all ranks joined. With 1, the reason is
        printed in one line.

    Raises:
        InputError: the sweep's files are invalid, its folder is not writable, or this is not the code
            that it was launched with.
    """
    with tracebacks_in(Path(command.sweep_dir) / "workers"):
        return _run_worker(command, train)


def _run_worker(command: WorkerCommand, train: Train | None) -> int:
    sweep_dir = Path(command.sweep_dir).absolute()
    log_to_output()
    limit_threads(command.threads)
    runtime = load_runtime(sweep_dir)
    if train is None:
        check_code(sweep_dir)
    data_dir = Path(command.data_dir) if command.data_dir else recorded_data_dir(sweep_dir)
    run_id = find_runs(sweep_dir, [command.run])[0].run_id if command.run else ""
    only = Selection(SizeRange(command.min_params, command.max_params), run_id)
    with stop_on_signals(WorkerStop(command.parent, command.max_minutes)) as stop:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # set by torchrun
            if command.name:
                raise InputError(
                    f"name={command.name} has no effect with several ranks, which are one worker. Omit it."
                )
            from chinchilla.sweep.distributed_worker import leave, work

            leave(work(sweep_dir, data_dir, stop, only))
        guard(sweep_dir, stop)
        writable_dir(sweep_dir / "runs", "sweep_dir")
        worker = Worker(sweep_dir, data_dir, runtime, command.name, train, only=only, stop=stop)
        try:
            summary = worker.run()
        finally:
            wait_for_mirrors()
        with block_warnings():  # until the new program has installed its handlers
            if summary.needs_restart and not stop:
                sys.stdout.flush()
                os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if summary.had_nothing_to_do and not is_gone(sweep_dir):
        n_left = len(missing_specs(sweep_dir, only))
        others = (
            f"the {n_left} runs left are trained by other workers"
            if n_left > 1
            else ("another worker trains the run that is left" if n_left else "all runs have ended")
        )
        with contextlib.suppress(OutputError):
            print_message(f"nothing to do: {others}.")
    return summary.exit_code()

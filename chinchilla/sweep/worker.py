"""A worker: claims the sweep's next unfinished run, trains it, writes its result, goes on.

Workers know each other only through the sweep's folder, so one is the same in this process, as a
subprocess here, and on a Slurm node:

    python -m chinchilla.sweep.worker SWEEP_DIR DATA_DIR

Reads plan.jsonl and runtime.json; writes runs/<run_id>/: claim-<n>.json, heartbeat,
progress.json, attempts/<n>.json, error.txt, result.json. Training itself is `chinchilla.train`,
imported when the first run starts.
"""

import argparse
import dataclasses
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import DataError, InputError, one_line
from chinchilla.core.files import writable_dir
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep.claims import STALE_SECONDS, Claim, file_system_now, look, take
from chinchilla.sweep.failures import breaks_the_device, death_before, stalls_before
from chinchilla.sweep.job_classes import PlannedWithin
from chinchilla.sweep.preflight import check_data, limit_threads, no_room, worker_name
from chinchilla.sweep.run_files import (
    ProgressFile,
    failure_kind,
    first_line,
    has_result,
    load_runtime,
    micro_batch_after,
    missing_specs,
    n_errors,
    read_attempts,
    read_progress,
    record_attempt,
    run_dir_of,
    saved_step,
    stable_phase_step,
    stable_phases_of,
)
from chinchilla.sweep.schedule import JobTime, Pace, in_order, job_time, waits
from chinchilla.sweep.signals import Stop, stop_on_signals, warnings_held
from chinchilla.tracking.mirror import wait_for_mirrors

Train = Callable[..., RunResult | None]  # `chinchilla.train.train_run`, or a test's stand-in
log = logging.getLogger("chinchilla.sweep")


class Lost(Exception):
    """The run belongs to another worker now: leave at once, write nothing."""


@dataclass
class WorkerSummary:
    """What one worker did; lists hold run ids."""

    worker: str
    finished: list[str] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: int = 0  # attempts that failed
    stopped: bool = False  # asked to
    out_of_time: bool = False  # runs are left that did not fit into the job's time
    needs_restart: bool = False  # the accelerator's context is broken; a new process can go on
    unfit: str = (
        ""  # why no run can be trained here: the tokens cannot be read, or the disk is full
    )


def run_worker(
    sweep_dir: Path,
    data_dir: Path,
    runtime: RuntimeConfig,
    worker: str,
    train: Train | None = None,
    *,
    only: Collection[str] | None = None,
    stop: Stop | None = None,
    stale_seconds: float = STALE_SECONDS,
    time_of_job: JobTime | None = None,
) -> WorkerSummary:
    """Train the sweep's unfinished runs, one after the other, until none can be claimed.

    Args:
        sweep_dir: the sweep's folder; its plan may grow meanwhile.
        data_dir: token folder.
        runtime: how to execute; not part of any run's identity.
        worker: this worker's name in claims.
        train: stands in for `chinchilla.train.train_run`.
        only: run ids to keep to; default: the whole plan.
        stop: flag that ends the worker at the next step; default: one that signals raise.
        stale_seconds: silence after which another machine's worker counts as dead.
        time_of_job: what this worker has; runs that do not fit into it are left (`choosing`).

    Returns:
        What became of the runs this worker touched. Errors in a run are in its run, not raised.
    """
    if stop is None:
        with stop_on_signals() as stop:
            return run_worker(
                sweep_dir,
                data_dir,
                runtime,
                worker,
                train,
                only=only,
                stop=stop,
                stale_seconds=stale_seconds,
                time_of_job=time_of_job,
            )
    summary = WorkerSummary(worker)
    this = _Worker(sweep_dir, data_dir, runtime, train, only, stop, stale_seconds, time_of_job)
    try:
        if train is None:
            check_data(sweep_dir, data_dir, only)
        while not (stop or summary.needs_restart or summary.unfit) and this.go_on(summary):
            pass
    except DataError as error:
        summary.unfit = one_line(error)
    except OSError as error:
        if failure_kind(error) != "disk":
            raise
        summary.unfit = no_room(error, sweep_dir)
    summary.stopped = bool(stop)
    return summary


@dataclass
class _Worker:
    """What a worker was told, and what it has learnt on the way."""

    sweep_dir: Path
    data_dir: Path
    runtime: RuntimeConfig
    train: Train | None
    only: Collection[str] | None
    stop: Stop
    stale_seconds: float
    time_of_job: JobTime | None
    width: int | None = None  # d_model of the last run
    pace: Pace = field(default_factory=Pace)

    def go_on(self, summary: WorkerSummary) -> bool:
        """Claim and train one run, or wait a little; False when nothing is left to claim."""
        claimed, wait = self.claim_next(summary)
        if claimed is not None:
            spec, claim = claimed
            try:
                self.train_claimed(spec, claim, summary)
            finally:
                claim.release()
            _free_memory()
        elif wait:  # somebody's node may just have died; perhaps it was this very job's
            time.sleep(min(5.0, self.stale_seconds / 4))
        return claimed is not None or wait

    def claim_next(self, summary: WorkerSummary) -> tuple[tuple[RunSpec, Claim] | None, bool]:
        """Claim the next run (`choosing`); else whether a holder is silent and worth a wait."""
        run_dirs = self.sweep_dir / "runs"
        run_dirs.mkdir(exist_ok=True)
        now = file_system_now(run_dirs)
        missing = missing_specs(self.sweep_dir, self.only)
        silent = summary.out_of_time = False
        for spec in in_order(
            missing, self.width, lambda s: n_errors(run_dir_of(self.sweep_dir, s))
        ):
            run_dir = run_dir_of(self.sweep_dir, spec)
            standing = look(run_dir, now, self.stale_seconds)
            if not standing.takeable:
                silent = silent or standing.state == "silent"
                continue
            step = saved_step(run_dir)
            begin = step or stable_phase_step(self.sweep_dir, spec)
            # One with a checkpoint of its own goes on from there, and has nothing to wait for.
            if (
                spec.stable_phase
                and not step
                and waits(spec, begin, self._under_way(missing, spec, now))
            ):
                continue
            if not self._fits(spec, run_dir, begin):
                summary.out_of_time = True
                continue
            stalls = stalls_before(run_dir, standing.record, step)
            claim = take(
                run_dir,
                summary.worker,
                step=step,
                stalls=stalls,
                now=now,
                stale_seconds=self.stale_seconds,
            )
            if claim is None:
                continue
            if has_result(run_dir):  # finished between the look and the claim
                claim.release()
                continue
            return (spec, claim), False
        return None, silent

    def _under_way(
        self, missing: Iterable[RunSpec], like: RunSpec, now: float
    ) -> Iterator[RunSpec]:
        """Runs of the same stable phase that somebody is training."""
        for spec in missing:
            if spec.stable_phase_id == like.stable_phase_id and spec.run_id != like.run_id:
                run_dir = run_dir_of(self.sweep_dir, spec)
                if not look(run_dir, now, self.stale_seconds).takeable:
                    yield spec

    def _fits(self, spec: RunSpec, run_dir: Path, step: int) -> bool:
        if self.time_of_job is None:
            return True
        if self.width is None:  # a fresh job has the most time that there will ever be
            return self.time_of_job.fits(None)
        own = read_progress(run_dir).get("tokens_per_second")
        return self.time_of_job.fits(self.pace.seconds(spec, step, own))

    def train_claimed(self, spec: RunSpec, claim: Claim, summary: WorkerSummary) -> None:
        """One attempt at one run; leaves a result, an attempt's record, or a checkpoint."""
        run_dir = claim.run_dir

        def should_stop() -> bool:
            if claim.lost:
                raise Lost
            return bool(self.stop)

        log.info("claimed %s (claim %d)", spec.run_id, claim.record.fence)
        runtime = self._runtime(spec, run_dir)
        if death := death_before(claim):
            if _failed(spec, claim, *death, "", runtime, summary):
                return
            runtime = self._runtime(spec, run_dir)
        progress = ProgressFile(run_dir, spec)
        try:
            if self.train is None:
                from chinchilla.train import train_run

                self.train = train_run
            self.width = spec.model.d_model
            start, step = time.monotonic(), saved_step(run_dir)
            shared: dict[str, Any] = (
                {"stable_phases": stable_phases_of(self.sweep_dir)} if spec.stable_phase else {}
            )
            result = self.train(
                spec,
                run_dir,
                self.data_dir,
                runtime,
                attempts=claim.record.starts,
                on_start=progress.start,
                on_progress=progress,
                should_stop=should_stop,
                still_mine=claim.still_mine,
                **shared,
            )
        except Lost:
            log.warning("%s was taken over by another worker", spec.run_id)
            return
        except Exception as error:
            kind, reason = failure_kind(error), first_line(error)
            # What says that no run can be trained here must not be tried on one after the other.
            if kind in ("data", "disk"):
                summary.unfit = no_room(error, run_dir) if kind == "disk" else one_line(error)
            if kind in ("disk", "peer"):  # not the run's doing: its attempts are left to it
                log.warning("%s: %s: %s", spec.run_id, kind, reason)
                claim.release(reason, excused=kind == "disk")
                return
            said = "".join(traceback.format_exception(error))
            _failed(spec, claim, kind, reason, said, runtime, summary)
            summary.needs_restart = breaks_the_device(error)
            return
        if result is None:
            log.info("stopped %s", spec.run_id)
            assert self.stop or claim.lost, "train_run returned None without being asked to stop"
            return
        step = step or result.reused_tokens // spec.batch_tokens
        self.pace.note(spec, result.steps_done - step, time.monotonic() - start)
        if claim.publish("result.json", dataclasses.asdict(result)):
            getattr(summary, result.status).append(spec.run_id)
            log.info("%s %s", result.status, spec.run_id)
        else:
            log.warning("%s was taken over by another worker; this result is dropped", spec.run_id)

    def _runtime(self, spec: RunSpec, run_dir: Path) -> RuntimeConfig:
        """What was asked for, with a smaller micro-batch where memory ran out before."""
        most = micro_batch_after(read_attempts(run_dir), spec.model.seq_len)
        told = self.runtime.micro_batch_tokens
        return dataclasses.replace(self.runtime, micro_batch_tokens=min(most or told, told or most))


def _failed(
    spec: RunSpec,
    claim: Claim,
    failure: str,
    reason: str,
    text: str,
    runtime: RuntimeConfig,
    summary: WorkerSummary,
) -> bool:
    """Record a failed attempt; whether the run is given up with it, or is another worker's."""
    log.warning("%s: %s: %s", spec.run_id, failure, reason)
    summary.errors += 1
    if not claim.still_mine():
        return True
    if record_attempt(spec, claim, failure, reason, text or reason, runtime) is None:
        return claim.lost
    log.warning("%s is given up", spec.run_id)
    summary.failed.append(spec.run_id)
    return True


def _free_memory() -> None:
    """Give a run's memory back, where there is one to have held any."""
    if "torch" in sys.modules:
        from chinchilla.train.device import give_memory_back

        give_memory_back()


def main(argv: list[str] | None = None, train: Train | None = None) -> int:
    """Run one worker as a process.

    Returns:
        0: nothing was left to claim; 75: stopped, or out of time; 1: no run can be trained here
        (the tokens cannot be read, the disk is full); 2: the sweep's files cannot be used or its
        folder not be written to. 1 and 2 with a line that says why.
    """
    try:
        return _main(argv, train)
    except InputError as error:
        print(f"chinchilla: {one_line(error)}", file=sys.stderr)
        return 2


def _main(argv: list[str] | None, train: Train | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m chinchilla.sweep.worker")
    parser.add_argument("sweep_dir", type=Path)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--name", default=worker_name(), help="in claims; default: host and pid")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = torch's choice")
    parser.add_argument("--parent", type=int, default=0, help="stop when this parent is gone")
    parser.add_argument("--min-params", type=float, default=0, help="keep to runs with more")
    parser.add_argument("--max-params", type=float, default=math.inf, help="... and not above")
    parser.add_argument("--deadline", type=float, default=0, help="UNIX time of the job's end")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    limit_threads(args.threads)

    bounds = (args.min_params, args.max_params)
    only = PlannedWithin(args.sweep_dir, *bounds) if bounds != (0, math.inf) else None

    class StopWithParent(Stop):
        def __bool__(self) -> bool:
            return self.requested or (args.parent > 0 and os.getppid() != args.parent)

    runtime = load_runtime(args.sweep_dir)
    writable_dir(args.sweep_dir / "runs", "sweep_dir")
    with stop_on_signals(StopWithParent()) as stop:
        summary = run_worker(
            args.sweep_dir,
            args.data_dir,
            runtime,
            args.name,
            train,
            only=only,
            stop=stop,
            time_of_job=job_time(args.deadline),
        )
        wait_for_mirrors()
        with warnings_held():  # the new program's, from here on
            if summary.needs_restart and not stop:
                sys.stdout.flush()
                os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if summary.unfit:
        sys.stdout.flush()  # the line comes last in a log of both
        print(f"chinchilla: {summary.unfit}", file=sys.stderr)
        return 1
    return 75 if summary.stopped or summary.out_of_time else 0


if __name__ == "__main__":
    sys.exit(main())

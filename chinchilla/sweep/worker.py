"""A worker: claims the sweep's next unfinished run, trains it, writes its result, goes on.

Workers know each other only through the sweep's folder, so one is the same in this process, as a
subprocess here, and on a Slurm node:

    python -m chinchilla.sweep.worker SWEEP_DIR DATA_DIR

Reads plan.jsonl and runtime.json; writes cells/<run_id>/: claim-<n>.json, heartbeat,
progress.json, attempts/<n>.json, error.txt, result.json. Training itself is `chinchilla.train`,
imported when the first run starts.
"""

import argparse
import dataclasses
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from chinchilla.config import RuntimeConfig
from chinchilla.records import RunResult, RunSpec
from chinchilla.sweep.cells import (
    MAX_ATTEMPTS,
    ProgressFile,
    cell_of,
    first_line,
    load_runtime,
    missing_specs,
    n_errors,
    read_progress,
    record_error,
)
from chinchilla.sweep.claims import STALE_SECONDS, Claim, file_system_now, look, take
from chinchilla.sweep.resources import PlannedWithin
from chinchilla.sweep.stopping import Stop, stop_on_signals

Train = Callable[..., RunResult | None]  # `chinchilla.train.train_run`, or a test's stand-in
log = logging.getLogger("chinchilla.sweep")


class Lost(Exception):
    """The cell belongs to another worker now: leave at once, write nothing."""


@dataclass
class WorkerSummary:
    """What one worker did; lists hold run ids."""

    worker: str
    finished: list[str] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: int = 0  # attempts that ended in an exception
    stopped: bool = False  # asked to
    needs_restart: bool = False  # the accelerator's context is broken; a new process can go on


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

    Returns:
        What became of the runs this worker touched. Errors in a run are in its cell, not raised.
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
            )
    summary = WorkerSummary(worker)
    while not stop and not summary.needs_restart:
        claimed, wait = _claim_next(sweep_dir, worker, only, stale_seconds)
        if claimed is not None:
            spec, claim = claimed
            try:
                _train_claimed(spec, claim, data_dir, runtime, train, stop, summary)
            finally:
                claim.release()
        elif wait:  # somebody's node may just have died; perhaps it was this very job's
            time.sleep(min(5.0, stale_seconds / 4))
        else:
            break
    summary.stopped = bool(stop)
    return summary


def _claim_next(
    sweep_dir: Path, worker: str, only: Collection[str] | None, stale_seconds: float
) -> tuple[tuple[RunSpec, Claim] | None, bool]:
    """Claim the longest run that failed least; else whether a holder is silent and worth a wait."""
    cells = sweep_dir / "cells"
    cells.mkdir(exist_ok=True)
    now = file_system_now(cells)
    specs = missing_specs(sweep_dir, only)
    specs.sort(key=lambda s: n_errors(cell_of(sweep_dir, s)))  # stable: longest first stays
    silent = False
    for spec in specs:
        cell = cell_of(sweep_dir, spec)
        standing = look(cell, now, stale_seconds)
        if not standing.takeable:
            silent = silent or standing.state == "silent"
            continue
        step = read_progress(cell).get("step", 0)
        claim = take(cell, worker, step=step, now=now, stale_seconds=stale_seconds)
        if claim is None:
            continue
        if (cell / "result.json").exists():  # finished between the look and the claim
            claim.release()
            continue
        return (spec, claim), False
    return None, silent


def _train_claimed(
    spec: RunSpec,
    claim: Claim,
    data_dir: Path,
    runtime: RuntimeConfig,
    train: Train | None,
    stop: Stop,
    summary: WorkerSummary,
) -> None:
    """One attempt at one run; leaves a result, an attempt's record, or a checkpoint."""
    cell = claim.cell

    def should_stop() -> bool:
        if claim.lost:
            raise Lost
        return bool(stop)

    log.info("claimed %s (claim %d)", spec.run_id, claim.record.fence)
    try:
        before = claim.previous
        if before and not before.released and claim.record.step <= before.step:
            raise RuntimeError(
                f"worker {before.worker} on {before.host} died without a word and without progress "
                f"(killed, out of memory, or its node went down) at step {claim.record.step}."
            )
        if train is None:
            from chinchilla.train import train_run

            train = train_run
        result = train(
            spec,
            cell,
            data_dir,
            runtime,
            attempts=claim.record.starts,
            on_progress=ProgressFile(cell, spec),
            should_stop=should_stop,
            still_mine=claim.still_mine,
        )
    except Lost:
        log.warning("%s was taken over by another worker", spec.run_id)
        return
    except Exception as error:
        summary.errors += 1
        log.warning("%s: %s", spec.run_id, first_line(error))
        if claim.still_mine() and record_error(spec, claim, error):
            log.warning("%s failed %d times and is given up", spec.run_id, MAX_ATTEMPTS)
            summary.failed.append(spec.run_id)
        summary.needs_restart = _breaks_the_device(error)
        return
    if result is None:
        log.info("stopped %s", spec.run_id)
        assert stop or claim.lost, "train_run returned None without having been asked to stop"
    elif claim.publish("result.json", dataclasses.asdict(result)):
        getattr(summary, result.status).append(spec.run_id)
        log.info("%s %s", result.status, spec.run_id)
    else:
        log.warning("%s was taken over by another worker; this result is dropped", spec.run_id)


def _breaks_the_device(error: Exception) -> bool:
    """Whether a process that met `error` cannot use its GPU any more (not so after an OOM)."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def limit_threads(n: int) -> None:
    """CPU threads of this process; for torch too, imported already or not. 0 changes nothing."""
    if n > 0:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(n)


def worker_name(i: int = 0) -> str:
    """Host, process and place in the pool; a Slurm job's number where there is one."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    head = f"slurm{job}" + (f"_{index}" if index else "") + "-" if job else ""
    return f"{head}{socket.gethostname()}-{os.getpid()}-{i}"


def main(argv: list[str] | None = None, train: Train | None = None) -> int:
    """Run one worker as a process; 0 when nothing was left to claim, 75 when it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m chinchilla.sweep.worker")
    parser.add_argument("sweep_dir", type=Path)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--name", default=worker_name(), help="in claims; default: host and pid")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = torch's choice")
    parser.add_argument("--parent", type=int, default=0, help="stop when this parent is gone")
    parser.add_argument("--min-params", type=float, default=0, help="keep to runs with more")
    parser.add_argument("--max-params", type=float, default=math.inf, help="... and not above")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    limit_threads(args.threads)

    bounds = (args.min_params, args.max_params)
    only = PlannedWithin(args.sweep_dir, *bounds) if bounds != (0, math.inf) else None

    class StopWithParent(Stop):
        def __bool__(self) -> bool:
            return self.requested or (args.parent > 0 and os.getppid() != args.parent)

    with stop_on_signals(StopWithParent()) as stop:
        summary = run_worker(
            args.sweep_dir,
            args.data_dir,
            load_runtime(args.sweep_dir),
            args.name,
            train,
            only=only,
            stop=stop,
        )
    if summary.needs_restart and not stop:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return 75 if stop else 0


if __name__ == "__main__":
    sys.exit(main())

"""A worker that is several processes: all its ranks train one run together, one run after the other.

    torchrun --nproc-per-node 8 -m chinchilla.sweep.distributed_worker SWEEP_DIR DATA_DIR

and on Slurm every task of a job whose shape has several ranks (`slurm_job`). Rank 0 is an ordinary
worker: it claims, records and publishes; the others get its orders and follow. What any rank is
asked to stop by stops all at the next step. A rank that fails or dies ends the attempt for all and
the worker with it: rank 0 writes down what happened, and the run can be claimed again. An error that
a rank reports is the run's; a rank that is gone cuts the run off, as a killed worker does.
"""

import argparse
import dataclasses
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

# Before torch is there: its warnings about a peer that is gone are pages of C++ frames.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import DataError, InputError, one_line
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep.job_classes import PlannedWithin
from chinchilla.sweep.preflight import check_data, limit_threads, worker_name
from chinchilla.sweep.run_files import load_runtime
from chinchilla.sweep.schedule import job_time
from chinchilla.sweep.signals import Stop, stop_on_signals
from chinchilla.sweep.worker import run_worker
from chinchilla.tracking import mirror
from chinchilla.train import train_run
from chinchilla.train.device import give_memory_back
from chinchilla.train.distributed import PeerError, RankGroup, join, slurm_settings

__all__ = ["join", "leave", "main", "slurm_settings", "work"]
log = logging.getLogger("chinchilla.sweep")


def work(
    ranks: RankGroup,
    sweep_dir: Path,
    data_dir: Path,
    stop: Stop,
    *,
    worker: str = "",
    only: Collection[str] | None = None,
    deadline: float = 0.0,
) -> int:
    """This rank's part of a worker, to its end.

    Args:
        ranks: from `join`; closed when this returns.
        sweep_dir: the sweep's folder, shared by all ranks.
        data_dir: token folder.
        stop: flag that ends the worker at the next step, on whichever rank it is raised.
        worker: its name in claims; default: host and process of rank 0.
        only: run ids to keep to.
        deadline: when the worker will be told to stop, UNIX seconds; 0 = as Slurm says, or never.

    Returns:
        Exit code. Of rank 0: 0 when nothing was left to claim; 75 when stopped, out of time, or a rank
        failed or is gone, so that a start anew would go on; 1 when no run can be trained here (data
        that cannot be opened on some rank, a full disk); 2 when the sweep's files cannot be used. Of
        the others: 0, 75 or 1.
    """
    try:
        try:
            with ranks.raise_together():
                check_data(sweep_dir, data_dir, only)
        except Exception as error:
            raise ranks.failure(error) from None
        if ranks.rank:
            _follow(ranks, stop)
            return 0
        name = worker or worker_name()
        return _lead(ranks, sweep_dir, data_dir, stop, name, only, deadline)
    except PeerError as error:
        print(
            f"rank {ranks.rank} of {ranks.world_size} leaves: {error}", file=sys.stderr, flush=True
        )
        return 75 if ranks.broken else 1
    except InputError as error:
        print(f"chinchilla: {one_line(error)}", file=sys.stderr, flush=True)
        return 1 if isinstance(error, DataError) else 2
    finally:
        ranks.close()


class _StopOrBroken(Stop):
    """Also says yes once the ranks cannot train together any more."""

    def __init__(self, stop: Stop, ranks: RankGroup) -> None:
        super().__init__()
        self.stop, self.ranks = stop, ranks

    def __bool__(self) -> bool:
        return bool(self.stop) or self.ranks.broken


def _lead(
    ranks: RankGroup,
    sweep_dir: Path,
    data_dir: Path,
    stop: Stop,
    worker: str,
    only: Collection[str] | None,
    deadline: float,
) -> int:
    def train(
        spec: RunSpec,
        run_dir: Path,
        data_dir: Path,
        runtime: RuntimeConfig,
        *,
        attempts: int,
        should_stop: Callable[[], bool],
        still_mine: Callable[[], bool],
        stable_phases: Path | None = None,
        **callbacks: Any,
    ) -> RunResult | None:
        """`train_run`, on all ranks."""
        order = {
            "spec": spec.to_dict(),
            "run": str(run_dir.resolve()),
            "data_dir": str(data_dir.resolve()),
            "runtime": dataclasses.asdict(runtime),
            "attempts": attempts,
            "stable_phases": str(stable_phases.resolve()) if stable_phases else "",
        }
        try:
            ranks.broadcast(order)
        except PeerError as error:
            raise ranks.failure(error) from None
        raised: Exception | None = None

        def wants_to_stop() -> bool:
            nonlocal raised
            try:
                return should_stop()
            except Exception as error:  # the others have to hear of it at this very point
                raised = error
                return True

        result = train_run(
            spec,
            run_dir,
            data_dir,
            runtime,
            attempts=attempts,
            should_stop=wants_to_stop,
            still_mine=still_mine,
            group=ranks,
            stable_phases=stable_phases,
            **callbacks,
        )
        if raised:
            raise raised
        if result is None and not stop and still_mine():
            stop.requested = True  # another rank was asked to
        return result

    try:
        summary = run_worker(
            sweep_dir,
            data_dir,
            load_runtime(sweep_dir),
            worker,
            train,
            only=only,
            stop=_StopOrBroken(stop, ranks),
            time_of_job=job_time(deadline),
        )
    finally:
        if not ranks.broken:
            ranks.broadcast(None)
    if summary.unfit:
        sys.stdout.flush()
        print(f"chinchilla: {summary.unfit}", file=sys.stderr, flush=True)
        return 1
    return 75 if ranks.broken or stop or summary.out_of_time else 0


def _follow(ranks: RankGroup, stop: Stop) -> None:
    while (order := ranks.broadcast()) is not None:
        try:
            train_run(
                RunSpec.from_dict(order["spec"], "order of rank 0"),
                Path(order["run"]),
                Path(order["data_dir"]),
                RuntimeConfig(**order["runtime"]),
                attempts=order["attempts"],
                should_stop=lambda: bool(stop),
                group=ranks,
                stable_phases=Path(order["stable_phases"]) if order["stable_phases"] else None,
            )
        except Exception as error:
            log.warning("%s: %s", type(error).__name__, error)
            if ranks.broken:
                raise PeerError(f"{type(error).__name__}: {error}") from error
            # Otherwise all ranks met it, and rank 0 writes it down.
        give_memory_back()


def leave(code: int) -> NoReturn:
    """End this process as it is.

    A thread of gloo may still be letting go of the last message's tensors; where it meets an
    interpreter that is being taken down, it aborts the process, whatever its exit code was to be.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    mirror.finish()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run one rank as a process that torchrun started.

    Returns:
        As `work`; also 2 for settings that cannot be, 1 where not all ranks came.
    """
    parser = argparse.ArgumentParser(prog="torchrun ... -m chinchilla.sweep.distributed_worker")
    parser.add_argument("sweep_dir", type=Path)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--name", default="", help="in claims; default: host and pid of rank 0")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = torch's choice")
    parser.add_argument("--min-params", type=float, default=0, help="keep to runs with more")
    parser.add_argument("--max-params", type=float, default=math.inf, help="... and not above")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    limit_threads(args.threads)
    only = None
    if args.min_params > 0 or args.max_params < math.inf:
        only = PlannedWithin(args.sweep_dir, args.min_params, args.max_params)
    with stop_on_signals() as stop:
        try:
            runtime = load_runtime(args.sweep_dir)
            ranks = join(runtime.device, runtime.shard_ranks)
        except (InputError, PeerError) as error:
            print(f"chinchilla: {one_line(error)}", file=sys.stderr, flush=True)
            return 2 if isinstance(error, InputError) else 1
        return work(ranks, args.sweep_dir, args.data_dir, stop, worker=args.name, only=only)


if __name__ == "__main__":
    leave(main())

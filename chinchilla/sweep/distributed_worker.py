"""A worker of several processes (ranks), which train each run together.

torchrun starts each rank as `worker`; on Slurm, every task of a job with several ranks calls `work`
(`slurm.job`). Rank 0 runs the loop of an ordinary worker (`worker.Worker`): it claims, records and
publishes, and broadcasts each run to the other ranks. A stop requested on any rank stops all ranks
before the next micro-batch. If a rank fails or dies, the attempt and the worker end on all ranks. Rank 0 records the
cause, and the run can be claimed again. An exception that a rank reports counts as a failure of the
run, the death of a rank as an interruption.
"""

import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

# Set before torch is imported, which would otherwise log pages of C++ frames when a peer dies.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import (
    EXIT_AGAIN,
    EXIT_FAILED,
    DataError,
    InputError,
    error_summary,
)
from chinchilla.core.files import folders
from chinchilla.core.files.writing import guard, writable_dir
from chinchilla.core.provenance import check_unchanged
from chinchilla.core.terminal import print_error
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep.preflight import DeviceError, check_machine
from chinchilla.sweep.run_files import RunFilter, load_runtime, run_dir_of, stable_phases_of
from chinchilla.sweep.signals import Stop
from chinchilla.sweep.worker import Worker
from chinchilla.tracking.mirror import wait_for_mirrors
from chinchilla.train import train_run
from chinchilla.train.device import give_memory_back
from chinchilla.train.distributed import COLLECTIVE_SECONDS, PeerError, RankGroup, join
from chinchilla.train.rank_watch import RankWatch

log = logging.getLogger("chinchilla.sweep")


def work(
    sweep_dir: Path,
    data_dir: Path,
    stop: Stop,
    only: RunFilter | None,
    settings: Mapping[str, str] = os.environ,
    on_lost: Callable[[], None] = lambda: None,
    lost_code: int = EXIT_AGAIN,
) -> int:
    """Join the other ranks and run this rank's part of a worker until it ends.

    Call `check_code` first, before this module is imported.

    Args:
        sweep_dir: the sweep's folder, shared by all ranks.
        data_dir: token folder.
        stop: flag that ends the worker on all ranks before the next micro-batch; any rank may set it.
        only: selects the runs to train.
        settings: how the ranks find each other, see `join`.
        on_lost: called on rank 0 when another rank has ended without reporting an error.
        lost_code: exit code of this process if it hangs because of another rank.

    Returns:
        Exit code. Rank 0: 0 if nothing was left to claim; 75 if stopped, or a rank failed or died,
        so that another start can continue; 1 if no run can be trained here (data not readable
        on some rank, disk full, too little memory), runs were left out, or not all ranks joined; 2 if the sweep's files or settings are
        invalid. Other ranks: the same, but 0 if rank 0 ended the worker.
    """
    # While rank 0 waits for the folder of the sweep, the others may wait in a collective.
    folders.WAIT_SECONDS = min(folders.WAIT_SECONDS, COLLECTIVE_SECONDS / 2)
    try:
        check_unchanged()  # the modules just imported are those that were hashed
        runtime = load_runtime(sweep_dir)
        sweep_dir = guard(sweep_dir, stop)
        writable_dir(sweep_dir / "runs", "sweep_dir")
        ranks = join(runtime.device, runtime.shard_ranks, settings=settings)
    except (InputError, PeerError) as error:
        print_error(error)
        return 2 if isinstance(error, InputError) else EXIT_FAILED
    if ranks.rank == 0:
        ranks.on_lost = on_lost
    try:
        with RankWatch(ranks, lost_code):
            try:
                with ranks.raise_together():
                    check_machine(sweep_dir, data_dir, runtime.device, only)
            except Exception as error:
                raise ranks.failure(error) from None
            if ranks.rank:
                _run_other_rank(ranks, sweep_dir, data_dir, stop)
                return 0
            return _run_rank_zero(ranks, sweep_dir, data_dir, stop, only)
    except PeerError as error:
        print_error(f"rank {ranks.rank} of {ranks.world_size} ends: {error}")
        return EXIT_AGAIN if ranks.broken else EXIT_FAILED
    except InputError as error:
        print_error(error)
        return EXIT_FAILED if isinstance(error, DataError | DeviceError) else 2
    finally:
        ranks.close()


def _run_rank_zero(
    ranks: RankGroup, sweep_dir: Path, data_dir: Path, stop: Stop, only: RunFilter | None
) -> int:
    def train(
        spec: RunSpec,
        run_dir: Path,
        data_dir: Path,
        runtime: RuntimeConfig,
        *,
        starts: int,
        should_stop: Callable[[], bool],
        still_mine: Callable[[], bool],
        **settings: Any,
    ) -> RunResult | None:
        """Call `train_run` on all ranks."""
        raised: Exception | None = None

        def stop_or_raised() -> bool:
            nonlocal raised
            try:
                return should_stop()
            except Exception as error:  # raised below, once the other ranks have stopped too
                raised = error
                return True

        try:
            try:
                ranks.broadcast([spec.to_dict(), dataclasses.asdict(runtime), starts])
            except PeerError as error:
                raise ranks.failure(error) from None
            result = train_run(
                spec,
                run_dir,
                data_dir,
                runtime,
                starts=starts,
                should_stop=stop_or_raised,
                still_mine=still_mine,
                group=ranks,
                **settings,
            )
        finally:  # broken: the ranks can no longer train together
            stop.requested = stop.requested or ranks.broken
        if raised:
            raise raised
        if result is None and not stop and still_mine():
            stop.requested = True  # another rank received the signal
        return result

    runtime = load_runtime(sweep_dir)
    try:
        summary = Worker(sweep_dir, data_dir, runtime, "", train, only=only, stop=stop).run()
    finally:
        if not ranks.broken:
            ranks.broadcast(None)
    return summary.exit_code()


def _run_other_rank(ranks: RankGroup, sweep_dir: Path, data_dir: Path, stop: Stop) -> None:
    while (call := ranks.broadcast()) is not None:
        spec = RunSpec.from_dict(call[0], "run from rank 0")
        try:
            train_run(
                spec,
                run_dir_of(sweep_dir, spec),
                data_dir,
                RuntimeConfig(**call[1]),
                starts=call[2],
                should_stop=lambda: bool(stop),
                group=ranks,
                stable_phases=stable_phases_of(sweep_dir) if spec.stable_phase else None,
            )
        except Exception as error:
            log.warning("%s: %s", type(error).__name__, error)
            if ranks.broken:
                raise PeerError(error_summary(error)) from error
            # Otherwise all ranks have raised, and rank 0 records the failure.
        give_memory_back()


def leave(code: int) -> NoReturn:
    """Exit without shutting the interpreter down.

    A gloo thread may still be releasing tensors of the last message. If it runs during the
    interpreter's shutdown, it aborts the process and changes its exit code.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    wait_for_mirrors()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

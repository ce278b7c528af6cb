"""Several processes that train one run, forked from a server that has imported torch."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from train_world import make_runtime

from chinchilla.plan.records import RunSpec
from chinchilla.train import train_run
from chinchilla.train.distributed import join

FORKSERVER = multiprocessing.get_context("forkserver")
# torch._dynamo: the optimizer's first step would import it for seconds.
FORKSERVER.set_forkserver_preload(["chinchilla.train", "torch.distributed.fsdp", "torch._dynamo"])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(world: int, out: Path, target: Callable[..., None], *args: Any) -> list[BaseProcess]:
    """`target(ranks, *args)` in `world` processes; their output goes to out/rank-<i>.txt."""
    out.mkdir(exist_ok=True)
    port = free_port()
    processes = []
    for rank in range(world):
        process = FORKSERVER.Process(target=_as_rank, args=(rank, world, port, out, target, *args))
        process.start()
        processes.append(process)
    return processes


def _as_rank(rank: int, world: int, port: int, out: Path, target: Callable, *args: Any) -> None:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(out / f"rank-{rank}.txt", "a", buffering=1)  # noqa: SIM115
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    target(*args)


def end(processes: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Exit codes; a process that has not ended by then is killed and has code None."""
    deadline = time.monotonic() + seconds
    codes = []
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        codes.append(process.exitcode)
        if process.exitcode is None:
            process.kill()
            process.join()
    return codes


def output_of(out: Path) -> str:
    return "\n".join(f"{p.name}: {p.read_text()}" for p in sorted(out.glob("rank-*.txt")))


# Targets


def train(spec: RunSpec, run_dir: Path, data_dir: Path, changes: dict[str, Any]) -> None:
    """Train with runtime settings; stop_before=n: should_stop of the last rank fires before update n."""
    stop_before = changes.pop("stop_before", 0)
    settings = make_runtime(**changes)
    ranks = join("cpu", settings.shard_ranks, 60)
    calls = 0

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return ranks.rank == ranks.world_size - 1 and 0 < stop_before <= calls

    result = train_run(spec, run_dir, data_dir, settings, should_stop=should_stop, group=ranks)
    assert (result is None) == (stop_before > 0)
    if result and ranks.rank == 0:
        result.save(run_dir)
    ranks.close()


def trained(world: int, spec: RunSpec, run_dir: Path, data_dir: Path, **changes: Any) -> None:
    """Run `train` in `world` processes, which must all succeed."""
    out = run_dir.with_name(f"{run_dir.name}-output")
    codes = end(start(world, out, train, spec, run_dir, data_dir, changes))
    assert codes == [0] * world, output_of(out)

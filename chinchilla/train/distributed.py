"""What a training process knows of the processes that train the same run with it.

A rank is one process with one device. torchrun or srun starts them together; `join` finds the
others. Control goes over gloo and a small key-value store, never through a GPU, and as JSON, never
as a pickle. One process alone has no peers: every method then is the identity, and
torch.distributed is not even imported.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch

from chinchilla.core.errors import InputError

JOIN_SECONDS = 300.0  # for all ranks of a worker to find each other
ANSWER_SECONDS = 600.0  # for a rank to take part in what all do together, before it counts as dead
REPORT_SECONDS = 2.0  # for ranks to say why they left, once one has, and to hear why
CLOSE_SECONDS = 20.0  # for all to leave, at the good end
FIRST_PORT, N_PORTS = 20_000, 12_000  # below the ports that systems give to outgoing connections


class PeerError(RuntimeError):
    """Another rank failed, ended or did not answer.

    `reported` is the kind and first line of the error that it met, by its own account; empty where it
    is gone or silent.
    """

    def __init__(self, message: str, reported: str = "") -> None:
        super().__init__(message)
        self.reported = reported


class Ranks:
    """This process among `world` that train one run.

    Args:
        rank: number among all, from 0; rank 0 alone claims, logs and commits.
        world: how many there are.
        device: where this one computes; None: as runtime.device says.
        shards: ranks that hold one copy of the weights together (FSDP); with fewer than `world`
            there are several copies (HSDP).
        store: torch's key-value store that all reach.
        hosts: where each rank is, for people.

    Attributes:
        on_lost: called once it is clear that a rank has ended without a word.
    """

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        device: torch.device | None = None,
        shards: int = 1,
        store: Any = None,
        hosts: tuple[str, ...] = (),
    ) -> None:
        self.rank, self.world, self.device = rank, world, device
        self.shards, self.shard = shards, rank % shards
        self.hosts = hosts
        self.mesh: Any = None  # of devices: (shards,), or (copies, shards)
        self.broken = False  # an error that not all ranks met at the same point: nothing works now
        self.on_lost: Callable[[], None] = lambda: None
        self._store = store
        self._agreed: Exception | None = None
        self._n_orders = 0  # so far

    @property
    def writes(self) -> bool:
        """Whether this rank saves its shard: those of the first copy do."""
        return self.rank < self.shards

    def rows(self, n: int) -> slice:
        """The rows of a tensor with n rows that this rank holds; torch.chunk's way to cut."""
        size = -(-n // self.shards)
        begin = min(n, self.shard * size)
        return slice(begin, min(n, begin + size))

    # What all do at the same point

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        """Each wish, if any rank has it."""
        if self.world == 1:
            return wishes
        return tuple(bool(x) for x in self._reduced(torch.tensor(wishes, dtype=torch.uint8), "MAX"))

    def least(self, n: int) -> int:
        """The smallest n of all ranks."""
        return n if self.world == 1 else int(self._reduced(torch.tensor(n), "MIN"))

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in float64 on the CPU: exact for a few float32 of like size."""
        values = values.double().cpu()
        return values if self.world == 1 else self._reduced(values, "SUM")

    def _reduced(self, values: torch.Tensor, op: str) -> torch.Tensor:
        import torch.distributed as dist

        dist.all_reduce(values, op=getattr(dist.ReduceOp, op))
        return values

    def broadcast(self, value: Any = None) -> Any:
        """Rank 0's value, anything JSON holds."""
        return value if self.world == 1 else self.gather(value if self.rank == 0 else None)[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, anything JSON holds, in the order of ranks."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(mine)]))
        longest = max(int(n) for n in sizes)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(texts, torch.nn.functional.pad(mine, (0, longest - len(mine))))
        return [
            json.loads(text[: int(n)].numpy().tobytes())
            for text, n in zip(texts, sizes, strict=True)
        ]

    def order(self, value: Any = None) -> Any:
        """Rank 0's next order; the others wait for it as long as rank 0 lives.

        Over the store, because a wait for work may be longer than any collective should take.
        """
        if self.world == 1:
            return value
        self._n_orders += 1
        if self.rank == 0:
            self._set(f"order/{self._n_orders}", value)
            return value
        return self._get(f"order/{self._n_orders}", 0, None)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block that succeeds or fails on all ranks alike.

        Raises:
            PeerError: here it went well, elsewhere not. Where it failed, its own error rises.
        """
        if self.world == 1:
            yield
            return
        mine: Exception | None = None
        try:
            yield
        except Exception as error:
            mine = error
        said = self.gather(_in_words(mine) if mine else None)
        if first := next(((i, text) for i, text in enumerate(said) if text), None):
            self._agreed = mine or PeerError(self._of(*first), first[1])
            raise self._agreed

    # The store

    def _set(self, key: str, value: Any) -> None:
        with _store_errors():
            self._store.set(key, json.dumps(value))

    def _has(self, key: str) -> bool:
        with _store_errors():
            return bool(self._store.check([key]))

    def _get(self, key: str, rank: int, patience: float | None) -> Any:
        """Asked for again and again: a wait inside the store would be deaf to signals."""
        began, nap = time.monotonic(), 0.0005
        while not self._has(key):
            if not self.broken and self._has("left"):
                raise PeerError("another rank has left")
            if patience is not None and time.monotonic() - began > patience:
                raise PeerError(self._of(rank, f"no answer within {patience:g} s"))
            time.sleep(nap)
            nap = min(0.1, 1.5 * nap)
        with _store_errors():
            return json.loads(self._store.get(key))

    def _of(self, rank: int, text: str) -> str:
        where = f" on {self.hosts[rank]}" if self.hosts else ""
        return f"rank {rank} of {self.world}{where}: {text}"

    # Leaving

    def failure(self, error: Exception) -> Exception:
        """What to raise for `error`: itself where it is the cause, else what another rank met.

        Unless all met it together, the ranks are out of step for good and the group is `broken`: this
        process must end soon. Its connections close with it, which is how those that wait for it learn
        of it; it has left word for them.
        """
        if self.world == 1 or error is self._agreed or self.broken:
            return error
        self.broken = True
        with contextlib.suppress(PeerError):
            self._set(f"left/{self.rank}", [_in_words(error), _is_of_peers(error)])
            self._set("left", True)
        if not _is_of_peers(error):
            return error
        return self._cause(_in_words(error))

    def _cause(self, seen: str) -> PeerError:
        """Who made the others leave; a rank that was killed says nothing, so silence is an answer."""
        began, told = time.monotonic(), False
        try:
            while True:
                silent = [i for i in range(self.world) if not self._has(f"left/{i}")]
                for i in range(self.world):
                    if i not in silent:
                        text, of_peers = self._get(f"left/{i}", i, 0.0)
                        if not of_peers:
                            return PeerError(self._of(i, text), text)
                if not silent or time.monotonic() - began > REPORT_SECONDS:
                    break
                # Word is left before connections close, so silence here most likely stays silence.
                if not told and time.monotonic() - began > REPORT_SECONDS / 8:
                    told = True
                    self.on_lost()
                time.sleep(0.05)
        except PeerError as error:
            return PeerError(f"{error}; {seen}")
        if silent:
            return PeerError("; ".join(self._of(i, "ended, or does not answer") for i in silent))
        return PeerError(seen)

    def close(self) -> None:
        """Leave; rank 0 last, where the store may live that tells the others why."""
        if self.world == 1:
            return
        patience = REPORT_SECONDS if self.broken else CLOSE_SECONDS
        if not self.broken:
            import torch.distributed as dist

            dist.destroy_process_group()
        self.broken = True
        if self.rank:
            with contextlib.suppress(PeerError):
                self._set(f"gone/{self.rank}", True)
            return
        end = time.monotonic() + patience
        for i in range(1, self.world):
            with contextlib.suppress(PeerError):  # one that was killed says nothing
                self._get(f"gone/{i}", i, max(0.0, end - time.monotonic()))


ALONE = Ranks()


def join(
    device: str,
    shard_ranks: int = 0,
    seconds: float = JOIN_SECONDS,
    settings: Mapping[str, str] = os.environ,
) -> Ranks:
    """Meet the processes that torchrun, or Slurm's srun, started beside this one.

    Args:
        device: runtime.device. cpu, or auto and cuda for the GPU of this rank's place on its node.
        shard_ranks: ranks that hold one copy of the weights; 0 = all.
        seconds: how long to wait for the others.
        settings: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torchrun sets them;
            in a Slurm job `slurm_settings(os.environ)`.

    Raises:
        InputError: a device or a number of shards that cannot be.
        PeerError: not all came in time; says who is missing, or which address does not answer.
    """
    rank, world = int(settings.get("RANK", 0)), int(settings.get("WORLD_SIZE", 1))
    local_rank = int(settings.get("LOCAL_RANK", 0))
    if world == 1:
        return Ranks()
    shards = shard_ranks or world
    if world % shards:
        raise InputError(
            f"runtime.shard_ranks={shard_ranks} does not divide the {world} ranks of a worker. "
            "Choose a divisor, or 0 for all."
        )
    where = _device(device, local_rank)
    address = f"{settings['MASTER_ADDR']}:{settings['MASTER_PORT']}"
    import torch.distributed as dist

    wait = timedelta(seconds=seconds)
    try:
        store = dist.PrefixStore("chinchilla", _open_store(settings, rank, world, wait))
        ranks = Ranks(rank, world, where, shards, store)
        ranks._set(f"host/{rank}", os.environ.get("SLURMD_NODENAME") or socket.gethostname())
        end = time.monotonic() + seconds
        ranks.hosts = tuple(
            ranks._get(f"host/{i}", i, max(0.0, end - time.monotonic())) for i in range(world)
        )
        dist.init_process_group(
            "gloo" if where.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=ANSWER_SECONDS),
        )
    except (PeerError, RuntimeError) as error:
        raise PeerError(
            f"rank {rank} of {world} did not meet the others at {address} within {seconds:g} s: "
            f"{_in_words(error)}"
        ) from None
    from torch.distributed.device_mesh import init_device_mesh

    shape = (shards,) if shards == world else (world // shards, shards)
    names = ("shard",) if shards == world else ("copy", "shard")
    ranks.mesh = init_device_mesh(where.type, shape, mesh_dim_names=names)
    return ranks


def slurm_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables from those that srun sets; the port follows from the job and its start."""
    job, start = int(environment["SLURM_JOB_ID"]), int(environment.get("SLURM_RESTART_COUNT", 0))
    host = "127.0.0.1"
    if int(environment.get("SLURM_JOB_NUM_NODES", 1)) > 1:
        command = ["scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]]
        done = subprocess.run(command, capture_output=True, errors="replace", timeout=60)
        if done.returncode or not done.stdout.strip():
            raise PeerError(
                f"scontrol does not say which nodes this job has: {done.stderr.strip()}"
            )
        host = done.stdout.split()[0]
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_NTASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "MASTER_ADDR": host,
        # Another port for each start: one that was killed may still hold its own.
        "MASTER_PORT": str(FIRST_PORT + (13 * job + start) % N_PORTS),
    }


def _device(name: str, local_rank: int) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"runtime.device={name}: with several ranks each takes the GPU of its place on its node. "
            "Give auto, cuda or cpu."
        )
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    n = torch.cuda.device_count()
    if n == 0:
        raise InputError(
            "runtime.device=cuda: this machine shows no CUDA device. Use runtime.device=cpu."
        )
    device = torch.device("cuda", local_rank % n)  # a site may show each task its own GPU only
    torch.cuda.set_device(device)
    return device


def _open_store(settings: Mapping[str, str], rank: int, world: int, wait: timedelta) -> Any:
    import torch.distributed as dist

    if settings.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun holds it
        return next(dist.rendezvous("env://", timeout=wait))[0]
    host, port = settings["MASTER_ADDR"], int(settings["MASTER_PORT"])
    return dist.TCPStore(host, port, world, rank == 0, wait, wait_for_workers=False)


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerError(f"rank 0 is gone ({_in_words(error)})") from None


def _in_words(error: Exception) -> str:
    """Kind and first line of an error, without the C++ stack that torch appends."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _is_of_peers(error: Exception) -> bool:
    """Whether an error tells of other processes, and not of this one."""
    told = str(error)
    return isinstance(error, PeerError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__.startswith("Dist") or "gloo" in told or "NCCL" in told)
    )

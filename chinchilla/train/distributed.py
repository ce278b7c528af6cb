"""The processes that train one run together: collectives, shared errors and how they find each other.

A rank is one process with one device. torchrun or srun starts them; `join` connects them. Control
messages use gloo on the CPU and torch's key-value store, never the GPU. Objects are pickled only
between the connected processes of one run (`gather`). A single process has a group of size one, whose
methods return their argument.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from chinchilla.core.errors import InputError, error_summary
from chinchilla.plan.ranks import shards_of
from chinchilla.train.device import pick_device

JOIN_SECONDS = 300.0  # for all ranks to find each other at the start
COLLECTIVE_SECONDS = 600.0  # timeout of a collective; then a missing rank counts as dead
SILENT_SECONDS = 30.0  # without a heartbeat; then a rank counts as dead
REPORT_SECONDS = 2.0  # to write the cause of a failure into the store, or read it from there
CLOSE_SECONDS = 20.0  # at the regular end: for all ranks to leave


class PeerError(RuntimeError):
    """Another rank failed, ended or did not answer.

    `reported` is the error type and first line that the rank wrote into the store; empty if it
    ended without a report.
    """

    def __init__(self, message: str, reported: str = "") -> None:
        super().__init__(message)
        self.reported = reported


class RankGroup:
    """This process and its peers.

    Args:
        rank: number of this process, from 0. Only rank 0 claims runs, logs and commits checkpoints.
        world_size: number of processes.
        device: this rank's device; None = as runtime.device.
        store: torch's key-value store.
        shards: ranks that hold one copy of the weights together (FSDP); 0 = all. With fewer than
            `world_size` there are several copies (HSDP): the first `shards` ranks hold one, and so on.

    Attributes:
        shard: which shard of the weights this rank holds.
        hosts: host name of each rank, for messages.
        mesh: device mesh, (shards,) or (copies, shards).
        broken: True after an error that was not raised on all ranks at the same point. No
            collective can succeed then.
        on_lost: called when a rank has ended without reporting an error.
    """

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
        store: Any = None,
        shards: int = 0,
    ) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device
        self.shards = shards or world_size
        self.shard = rank % self.shards
        self.hosts: tuple[str, ...] = ()
        self.mesh: Any = None
        self.broken = False
        self.on_lost: Callable[[], None] = lambda: None
        self._store = store
        self._shared_error: Exception | None = None
        self._n_broadcasts = 0

    @property
    def saves_shard(self) -> bool:
        """Whether this rank writes its shard into checkpoints: the ranks of the first copy do."""
        return self.rank < self.shards

    def rows(self, n: int) -> slice:
        """This rank's rows of a tensor with n rows, split like `torch.chunk`."""
        size = -(-n // self.shards)
        begin = min(n, self.shard * size)
        return slice(begin, min(n, begin + size))

    # Collectives: every rank calls them at the same point

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is true on any rank."""
        if self.world_size == 1:
            return flags
        values = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return tuple(bool(x) for x in values)

    def reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in float64 on the CPU: exact for a few float32 of similar size."""
        values = values.double().cpu()
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, ordered by rank."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    @contextlib.contextmanager
    def raise_together(self) -> Iterator[None]:
        """If the block raises on any rank, raise on all of them.

        Raises:
            PeerError: on ranks where the block succeeded. The failing rank raises its own error.
        """
        if self.world_size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as e:
            error = e
        for rank, reported in enumerate(self.gather(error_summary(error) if error else "")):
            if reported:
                self._shared_error = error or PeerError(self._describe(rank, reported), reported)
                raise self._shared_error

    def broadcast(self, value: Any = None) -> Any:
        """Send a JSON value from rank 0 to all; the others wait without a timeout.

        It uses the store because waiting for the next run may take longer than the timeout of a
        collective.
        """
        if self.world_size == 1:
            return value
        self._n_broadcasts += 1
        key = f"broadcast/{self._n_broadcasts}"
        if self.rank == 0:
            self._set(key, value)
            return value
        return self._get(key, 0, None)

    # The key-value store

    def _set(self, key: str, value: Any) -> None:
        with _store_errors():
            self._store.set(key, json.dumps(value))

    def _has(self, key: str) -> bool:
        with _store_errors():
            return bool(self._store.check([key]))

    def _get(self, key: str, rank: int, timeout: float | None) -> Any:
        """Poll for a key that `rank` sets; a blocking wait in the store would not handle signals."""
        start, delay = time.monotonic(), 0.0005
        while not self._has(key):
            if not self.broken and self._has("left"):
                raise PeerError("another rank has ended")
            if timeout is not None and time.monotonic() - start > timeout:
                raise PeerError(self._describe(rank, f"no answer within {timeout:g} s"))
            time.sleep(delay)
            delay = min(0.1, 1.5 * delay)
        with _store_errors():
            return json.loads(self._store.get(key))

    def _describe(self, rank: int, text: str) -> str:
        host = f" on {self.hosts[rank]}" if self.hosts else ""
        return f"rank {rank} of {self.world_size}{host}: {text}"

    # Heartbeats, from a thread of each rank (`train.rank_watch`)

    def observer(self) -> "RankGroup":
        """This group with a connection to the store of its own, for another thread."""
        observer = RankGroup(
            self.rank, self.world_size, self.device, self._store.clone(), self.shards
        )
        observer.hosts = self.hosts
        return observer

    def heartbeat(self, seen: dict[int, tuple[Any, float]]) -> str:
        """Report that this rank is alive, and check the others: rank 0 all of them, they rank 0.

        Args:
            seen: last heartbeat of each rank and the time when it changed; updated.

        Returns:
            Why the ranks cannot continue; empty if they can.

        Raises:
            PeerError: the store does not answer.
        """
        self._set(f"alive/{self.rank}", time.time())
        if self._has("left"):
            return str(self._find_cause("another rank has ended"))
        if self._has("lost"):
            return str(self._get("lost", 0, 0.0))
        now = time.monotonic()
        for i in range(self.world_size) if self.rank == 0 else (0,):
            key = f"alive/{i}"
            value = self._get(key, i, 0.0) if self._has(key) else None
            if i not in seen or seen[i][0] != value:
                seen[i] = value, now
            if now - seen[i][1] > SILENT_SECONDS:
                reason = self._describe(i, f"no heartbeat for {SILENT_SECONDS:g} s")
                self._set("lost", reason)
                return reason
        return ""

    # Failing and leaving

    def failure(self, error: Exception) -> Exception:
        """The error to raise for `error`: itself if it is the cause, otherwise the peer's error.

        An error from `raise_together` was raised on all ranks, and the group remains usable. After
        any other error the ranks are at different points: this process writes its error into the
        store, the group becomes `broken`, and the process must exit. The other ranks detect the
        closed connections and read the cause from the store.
        """
        if self.world_size == 1 or error is self._shared_error or self.broken:
            return error
        self.broken = True
        with contextlib.suppress(PeerError):
            self._set(f"left/{self.rank}", [error_summary(error), _is_peer_failure(error)])
            self._set("left", True)
        return self._find_cause(error_summary(error)) if _is_peer_failure(error) else error

    def _find_cause(self, seen: str) -> PeerError:
        """Read from the store which rank failed first; a killed rank writes nothing."""
        start, reported_lost = time.monotonic(), False
        try:
            while True:
                silent = [i for i in range(self.world_size) if not self._has(f"left/{i}")]
                for i in set(range(self.world_size)) - set(silent):
                    text, is_peer_failure = self._get(f"left/{i}", i, 0.0)
                    if not is_peer_failure:
                        return PeerError(self._describe(i, text), text)
                waited = time.monotonic() - start
                if not silent:
                    return PeerError(seen)
                if waited > REPORT_SECONDS:
                    gone = (self._describe(i, "ended, or does not answer") for i in silent)
                    return PeerError("; ".join(gone))
                # A failing rank reports before it disconnects: a rank still silent here was killed.
                if not reported_lost and waited > REPORT_SECONDS / 8:
                    reported_lost = True
                    self.on_lost()
                time.sleep(0.05)
        except PeerError as error:
            return PeerError(f"{error}; {seen}")

    def close(self) -> None:
        """Leave the group. Rank 0 leaves last, because it may host the store."""
        if self.world_size == 1:
            return
        timeout = REPORT_SECONDS if self.broken else CLOSE_SECONDS
        if not self.broken:
            dist.destroy_process_group()
        self.broken = True
        if self.rank:
            with contextlib.suppress(PeerError):
                self._set(f"gone/{self.rank}", True)
            return
        end = time.monotonic() + timeout
        for i in range(1, self.world_size):
            with contextlib.suppress(PeerError):  # a killed rank sets nothing
                self._get(f"gone/{i}", i, max(0.0, end - time.monotonic()))


SINGLE = RankGroup()  # one process that trains alone


def join(
    device: str,
    shard_ranks: int = 0,
    seconds: float = JOIN_SECONDS,
    settings: Mapping[str, str] = os.environ,
) -> RankGroup:
    """Connect to the processes that torchrun or srun started beside this one.

    Args:
        device: runtime.device: cpu, or auto or cuda for the GPU with this rank's local number.
        shard_ranks: ranks that hold one copy of the weights; 0 = all.
        seconds: how long to wait for the others.
        settings: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT as set by torchrun;
            in a Slurm job those of `sweep.slurm.job`.

    Raises:
        InputError: this machine has no such device, or shard_ranks does not divide the number of
            ranks.
        PeerError: a rank did not connect in time, has no such device, or another kind of device
            (auto where only some nodes have a GPU), or the address does not answer.
    """
    rank, world_size = int(settings.get("RANK", 0)), int(settings.get("WORLD_SIZE", 1))
    if world_size == 1:
        return RankGroup()
    shards = shards_of(shard_ranks, world_size)
    own_device, problem = torch.device("cpu"), ""
    try:
        own_device = _device(device, int(settings.get("LOCAL_RANK", 0)))
    except InputError as error:
        problem = str(error)  # raised below, when the other ranks know it
    address = f"{settings['MASTER_ADDR']}:{settings['MASTER_PORT']}"
    timeout = timedelta(seconds=seconds)
    with _connecting(rank, world_size, address, seconds):
        store = dist.PrefixStore("chinchilla", _open_store(settings, rank, world_size, timeout))
        group = RankGroup(rank, world_size, own_device, store, shards)
        host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        group._set(f"host/{rank}", [host, own_device.type, problem])
        end = time.monotonic() + seconds
        joined = [
            group._get(f"host/{i}", i, max(0.0, end - time.monotonic())) for i in range(world_size)
        ]
    group.hosts = tuple(host for host, _, _ in joined)
    unequal = [i for i, (_, kind, failed) in enumerate(joined) if failed or kind != joined[0][1]]
    if unequal:
        if rank == 0:
            time.sleep(
                REPORT_SECONDS
            )  # it may host the store, from which the others read the cause
        if problem:
            raise InputError(problem)
        _, kind, failed = joined[unequal[0]]
        uses = f"uses the device {kind}, and rank 0 uses {joined[0][1]}"
        raise PeerError(group._describe(unequal[0], failed or uses))
    with _connecting(rank, world_size, address, seconds):
        dist.init_process_group(
            "gloo" if own_device.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
    copies = world_size // shards
    shape, names = ((shards,), ("shard",)) if copies == 1 else ((copies, shards), ("copy", "shard"))
    group.mesh = init_device_mesh(own_device.type, shape, mesh_dim_names=names)
    return group


@contextlib.contextmanager
def _connecting(rank: int, world_size: int, address: str, seconds: float) -> Iterator[None]:
    """Explain errors while the ranks connect."""
    try:
        yield
    except (PeerError, RuntimeError) as error:
        raise PeerError(
            f"rank {rank} of {world_size} could not connect to the others at {address} within "
            f"{seconds:g} s: {error_summary(error).rstrip('.')}. If the nodes have several networks, set "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface that connects them, such as eth0."
        ) from None


def _device(name: str, local_rank: int) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"runtime.device={name}: with several ranks each takes the GPU with its local rank. "
            "Give auto, cuda or cpu."
        )
    device = pick_device(name)
    if device.type == "cuda":  # Slurm may show each task only its own GPU
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device


def _open_store(settings: Mapping[str, str], rank: int, world_size: int, timeout: timedelta) -> Any:
    if settings.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun hosts the store
        return next(dist.rendezvous("env://", timeout=timeout))[0]
    host, port = settings["MASTER_ADDR"], int(settings["MASTER_PORT"])
    return dist.TCPStore(host, port, world_size, rank == 0, timeout, wait_for_workers=False)


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerError(f"rank 0 has ended ({error_summary(error)})") from None


def _is_peer_failure(error: Exception) -> bool:
    """Whether an error was caused by another process."""
    return isinstance(error, PeerError) or (
        isinstance(error, RuntimeError)
        and (
            type(error).__name__.startswith("Dist") or "gloo" in str(error) or "NCCL" in str(error)
        )
    )

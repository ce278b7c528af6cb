"""Who trains which cell: claims that workers on many nodes make in one shared folder.

A cell's claims are numbered files, claim-1.json, claim-2.json, ...: the highest number holds the
cell, and that number is the fence. A number is taken by link(), which succeeds for one worker only
and which NFS decides on the server, so taking over from a dead worker, finishing a run and
being late are all the same step: whoever gets the next number is right, the other one is told so.
No number is ever freed. A holder touches `heartbeat`; ages are judged by the file system's clock.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from chinchilla.errors import InputError
from chinchilla.files import read_json
from chinchilla.records import checked

BEAT_SECONDS = 5.0  # between two touches of `heartbeat`
STALE_SECONDS = 60.0  # silence after which a holder on another machine counts as dead
_CLAIM = re.compile(r"claim-(\d+)\.json")


@dataclass(frozen=True)
class ClaimRecord:
    """One claim as written: who, where, since when."""

    fence: int
    worker: str
    host: str  # for people
    processes: str  # which process table `pid` belongs to: host, boot and pid namespace
    pid: int
    pid_start: str  # tells a process from a later one with its number
    claimed_utc: str
    step: int  # the cell's progress when it was claimed
    starts: int  # how many claims so far were made to train
    released: bool = False


@dataclass(frozen=True)
class Standing:
    """How a cell stands: its latest claim, and whether that claim is free, held, silent or dead."""

    state: str  # free: never claimed or released; silent: not long enough to be dead
    record: ClaimRecord | None = None

    @property
    def takeable(self) -> bool:
        return self.state in ("free", "dead")


def utc_now() -> str:
    """The time as records write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def create_once(path: Path, text: str) -> bool:
    """Create `path` with `text`, whole; False if it exists already.

    Raises:
        InputError: the file system has no hard links, which claims are made with.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.link(temporary, path)
        return True
    except FileExistsError:
        # An NFS server whose answer got lost is asked again and finds its own work: two names.
        return os.stat(temporary).st_nlink == 2
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise InputError(
                f"{path.parent}: this file system has no hard links, so workers cannot agree who "
                "trains what. Put the sweep on another one (local disk, NFS, Lustre)."
            ) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def file_system_now(folder: Path) -> float:
    """The clock that stamps files in `folder`; this machine's own where nothing can be written."""
    probe = folder / f".clock-{uuid.uuid4().hex[:8]}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    """When `path` was last written; 0 if it is not there."""
    try:
        with open(path, "rb") as f:  # opening asks an NFS server, stat alone may be a minute old
            return os.fstat(f.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0


@functools.cache
def _process_table() -> str:
    """Name of the process table this process is in; pids compare only inside one."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_start(pid: int) -> str | None:
    """Something that tells process `pid` from others with its number; None if it does not run."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in "ZX" else fields[19]  # state and start time; a zombie is dead


def _claim_path(cell: Path, fence: int) -> Path:
    return cell / f"claim-{fence}.json"


def latest(cell: Path) -> ClaimRecord | None:
    """The claim that holds `cell`, or held it last."""
    try:
        fences = [int(m[1]) for name in os.listdir(cell) if (m := _CLAIM.fullmatch(name))]
    except FileNotFoundError:
        return None
    if not fences:
        return None
    path = _claim_path(cell, max(fences))
    return ClaimRecord(**checked(read_json(path, "claim"), ClaimRecord, None, str(path)))


def look(cell: Path, now: float, stale_seconds: float = STALE_SECONDS) -> Standing:
    """How `cell` stands at `now` (`file_system_now`).

    On this machine the process table answers, at once: alive is held (a laptop may have slept),
    gone is dead. Elsewhere silence does.
    """
    record = latest(cell)
    if record is None or record.released:
        return Standing("free", record)
    if record.processes == _process_table():
        start = process_start(record.pid)
        same = start is not None and (
            not start or not record.pid_start or start == record.pid_start
        )
        return Standing("held" if same else "dead", record)
    silent = now - max(_modified(_claim_path(cell, record.fence)), _modified(cell / "heartbeat"))
    if silent > stale_seconds:
        return Standing("dead", record)
    return Standing("silent" if silent > stale_seconds / 4 else "held", record)


class Claim:
    """A cell held by this process. Beats until it is released, or lost to somebody else."""

    def __init__(self, cell: Path, record: ClaimRecord, previous: ClaimRecord | None) -> None:
        self.cell = cell
        self.record = record
        self.previous = previous  # the claim before; not released = its worker died
        self.lost = False
        self._lock = threading.Lock()  # `commit` moves the fence while the heartbeat looks at it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # a file server may be away for a while
                if not self.still_mine():
                    return
                (self.cell / "heartbeat").touch()
            if self._stop.wait(BEAT_SECONDS):
                return

    def still_mine(self) -> bool:
        """Whether nobody has taken the cell over, as far as this machine can see."""
        with self._lock:
            self.lost = self.lost or _claim_path(self.cell, self.record.fence + 1).exists()
            return not self.lost

    def commit(self) -> bool:
        """Take the next fence, just before a result is written; False means it must not be.

        Asking `still_mine` would leave a moment between the look and the write, and an NFS client
        may answer it from memory. Taking the number settles both.
        """
        with self._lock:
            record = dataclasses.replace(self.record, fence=self.record.fence + 1)
            if not self.lost and _create(self.cell, record):
                self.record = record
            else:
                self.lost = True
            return not self.lost

    def release(self) -> None:
        """Stop beating and leave the cell to anybody; safe to call twice, and after a loss."""
        self._stop.set()
        self._thread.join()
        if not self.record.released and self.still_mine():
            self.record = dataclasses.replace(self.record, released=True)
            path = _claim_path(self.cell, self.record.fence)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
            temporary.write_text(json.dumps(dataclasses.asdict(self.record)), encoding="utf-8")
            os.replace(temporary, path)


def _create(cell: Path, record: ClaimRecord) -> bool:
    return create_once(_claim_path(cell, record.fence), json.dumps(dataclasses.asdict(record)))


def take(
    cell: Path,
    worker: str,
    *,
    step: int = 0,
    to_train: bool = True,
    now: float | None = None,
    stale_seconds: float = STALE_SECONDS,
) -> Claim | None:
    """Claim `cell`, creating it if needed, when it is free or its holder is dead.

    Args:
        cell: folder of the run.
        worker: name of the claimant, for people.
        step: progress so far, kept in the claim: a dead holder's successor sees if it moved.
        to_train: counts as a start; False for a launcher that only tidies.
        now: the file system's clock, if the caller has just asked it.
        stale_seconds: silence that counts as death.

    Returns:
        The claim, or None when another worker holds the cell or was faster.
    """
    cell.mkdir(parents=True, exist_ok=True)
    standing = look(cell, file_system_now(cell) if now is None else now, stale_seconds)
    if not standing.takeable:
        return None
    before = standing.record
    record = ClaimRecord(
        fence=(before.fence if before else 0) + 1,
        worker=worker,
        host=socket.gethostname(),
        processes=_process_table(),
        pid=os.getpid(),
        pid_start=process_start(os.getpid()) or "",
        claimed_utc=utc_now(),
        step=step,
        starts=(before.starts if before else 0) + to_train,
    )
    return Claim(cell, record, before) if _create(cell, record) else None

"""Who trains which run: claims that workers on many nodes make in one shared folder.

A run's claims are numbered files, claim-1.json, claim-2.json, ...: the highest number holds the
run, and that number is the fence. A number is taken by link(), which succeeds for one worker only
and which NFS decides on the server, so taking over from a dead worker, finishing a run and
being late are all the same step: whoever gets the next number is right, the other one is told so.
No number is ever freed. A holder touches `heartbeat`; ages are judged by the file system's clock.
A claim that cannot be read still holds its number: silence decides, and the next taker puts it aside.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.core.files import (
    clean_leftovers,
    create_once,
    make_dirs,
    pretty_json,
    process_start,
    process_table,
    read_json,
    temporary_path,
    write_text,
)
from chinchilla.core.json_codec import checked

BEAT_SECONDS = 5.0  # between two touches of `heartbeat`
STALE_SECONDS = 60.0  # silence after which a holder on another machine counts as dead
_CLAIM = re.compile(r"claim-(\d+)\.json")
log = logging.getLogger("chinchilla.sweep")


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
    step: int  # what a start would go on from when it was claimed: the newest checkpoint's step
    starts: int  # how many claims so far were made to train
    released: bool = False
    stalls: int = 0  # claims in a row before this one that were cut off without moving that step
    oom_kills: int = -1  # processes that this machine had killed for want of memory; -1 = not known
    ended: str = ""  # why it was released, where neither the run nor a stop was the reason
    excused: bool = False  # that does not count as having been cut off

    @property
    def damaged(self) -> bool:
        """Whether the file could not be read: only the fence is known, from its name."""
        return not self.processes


_TYPES = {f.name: f.type for f in dataclasses.fields(ClaimRecord)}


@dataclass(frozen=True)
class Standing:
    """How a run stands: its latest claim, and whether that claim is free, held, silent or dead."""

    state: str  # free: never claimed or released; silent: not long enough to be dead
    record: ClaimRecord | None = None

    @property
    def takeable(self) -> bool:
        return self.state in ("free", "dead")


def utc_now() -> str:
    """The time as records write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def file_system_now(folder: Path) -> float:
    """The clock that stamps files in `folder`; this machine's own where nothing can be written."""
    probe = temporary_path(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def oom_kills() -> int:
    """How many processes this machine has killed for want of memory since it started; -1: unknown."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), -1)
    except (OSError, ValueError, IndexError):
        return -1


def _modified(path: Path) -> float:
    """When `path` was last written; 0 if it is not there."""
    try:
        with open(path, "rb") as f:  # opening asks an NFS server, stat alone may be a minute old
            return os.fstat(f.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0
    except IsADirectoryError:
        return path.stat().st_mtime


def _claim_path(run_dir: Path, fence: int) -> Path:
    return run_dir / f"claim-{fence}.json"


def latest(run_dir: Path) -> ClaimRecord | None:
    """The claim that holds `run_dir`, or held it last."""
    try:
        fences = [int(m[1]) for name in os.listdir(run_dir) if (m := _CLAIM.fullmatch(name))]
    except FileNotFoundError:
        return None
    if not fences:
        return None
    newest, *older = sorted(fences, reverse=True)
    if (record := _read(run_dir, newest)) is not None:
        return record
    # Nothing is known of the holder but its number. step=-1: whoever follows has got further.
    before = next((r for fence in older if (r := _read(run_dir, fence))), None)
    starts = before.starts + 1 if before else 1
    return ClaimRecord(newest, "unknown", "", "", 0, "", "", step=-1, starts=starts)


def _read(run_dir: Path, fence: int) -> ClaimRecord | None:
    """One claim; None if it is no whole record, or another number's."""
    path = _claim_path(run_dir, fence)
    try:
        value = checked(read_json(path, "claim"), ClaimRecord, None, str(path))
    except InputError:
        return None
    if any(type(x) is not _TYPES[name] for name, x in value.items()):
        return None
    whole = value["fence"] == fence and value["processes"] and 0 < value["pid"] < 2**31
    return ClaimRecord(**value) if whole else None


def look(run_dir: Path, now: float, stale_seconds: float = STALE_SECONDS) -> Standing:
    """How `run_dir` stands at `now` (`file_system_now`).

    On this machine the process table answers, at once: alive is held (a laptop may have slept),
    gone is dead. Elsewhere, and where the claim cannot be read, silence does.
    """
    record = latest(run_dir)
    if record is None or record.released:
        return Standing("free", record)
    if record.processes == process_table():
        start = process_start(record.pid)
        same = start is not None and (
            not start or not record.pid_start or start == record.pid_start
        )
        return Standing("held" if same else "dead", record)
    silent = now - max(
        _modified(_claim_path(run_dir, record.fence)), _modified(run_dir / "heartbeat")
    )
    if silent > stale_seconds:
        return Standing("dead", record)
    return Standing("silent" if silent > stale_seconds / 4 else "held", record)


class Claim:
    """A run held by this process. Beats until it is released, or lost to somebody else."""

    def __init__(self, run_dir: Path, record: ClaimRecord, previous: ClaimRecord | None) -> None:
        self.run_dir = run_dir
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
                (self.run_dir / "heartbeat").touch()
            if self._stop.wait(BEAT_SECONDS):
                return

    def still_mine(self) -> bool:
        """Whether nobody has taken the run over, as far as this machine can see."""
        with self._lock:
            self.lost = self.lost or _claim_path(self.run_dir, self.record.fence + 1).exists()
            return not self.lost

    def commit(self) -> bool:
        """Take the next fence, just before a result is written; False means it must not be.

        Asking `still_mine` would leave a moment between the look and the write, and an NFS client
        may answer it from memory. Taking the number settles both.
        """
        with self._lock:
            record = dataclasses.replace(self.record, fence=self.record.fence + 1)
            if not self.lost and _create(self.run_dir, record):
                self.record = record
            else:
                self.lost = True
            return not self.lost

    def publish(self, name: str, value: Any) -> bool:
        """Write the run's outcome as JSON, once; False: another worker's stands, or is to come.

        Creating it, not replacing: a holder that is held up between the fence and the file must not
        write over what its successor measured meanwhile.
        """
        return self.commit() and create_once(self.run_dir / name, pretty_json(value) + "\n")

    def release(self, ended: str = "", excused: bool = False) -> None:
        """Stop beating and leave the run to anybody; safe to call twice, and after a loss."""
        self._stop.set()
        self._thread.join()
        if not self.record.released and self.still_mine():
            self.record = dataclasses.replace(
                self.record, released=True, ended=ended, excused=excused
            )
            path = _claim_path(self.run_dir, self.record.fence)
            write_text(path, json.dumps(dataclasses.asdict(self.record)))


def _create(run_dir: Path, record: ClaimRecord) -> bool:
    return create_once(_claim_path(run_dir, record.fence), json.dumps(dataclasses.asdict(record)))


def take(
    run_dir: Path,
    worker: str,
    *,
    step: int = 0,
    stalls: int = 0,
    to_train: bool = True,
    now: float | None = None,
    stale_seconds: float = STALE_SECONDS,
) -> Claim | None:
    """Claim `run_dir`, creating it if needed, when it is free or its holder is dead.

    Args:
        run: folder of the run.
        worker: name of the claimant, for people.
        step: what a start would go on from, kept in the claim: a successor sees if it moved.
        stalls: how many claims in a row before this one did not move it.
        to_train: counts as a start; False for a launcher that only tidies.
        now: the file system's clock, if the caller has just asked it.
        stale_seconds: silence that counts as death.

    Returns:
        The claim, or None when another worker holds the run or was faster.
    """
    make_dirs(run_dir)
    standing = look(run_dir, file_system_now(run_dir) if now is None else now, stale_seconds)
    if not standing.takeable:
        return None
    before = standing.record
    record = ClaimRecord(
        fence=(before.fence if before else 0) + 1,
        worker=worker,
        host=socket.gethostname(),
        processes=process_table(),
        pid=os.getpid(),
        pid_start=process_start(os.getpid()) or "",
        claimed_utc=utc_now(),
        step=step,
        starts=(before.starts if before else 0) + to_train,
        stalls=stalls,
        oom_kills=oom_kills(),
    )
    if not _create(run_dir, record):
        return None
    clean_leftovers(run_dir)
    if before and before.damaged:
        _put_aside(run_dir, before.fence)
    return Claim(run_dir, record, before)


def _put_aside(run_dir: Path, fence: int) -> None:
    """Keep a damaged claim under a name that is no claim's; a higher number holds the run now."""
    with contextlib.suppress(OSError):
        os.replace(_claim_path(run_dir, fence), run_dir / f"damaged-claim-{fence}.json")
    log.warning(
        "%s/claim-%d.json was damaged: it is put aside, the run goes on", run_dir.name, fence
    )

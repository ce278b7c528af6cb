"""Leases on runs: which worker trains which run, decided by files in one shared folder.

The claims on a run are numbered files, claim-1.json, claim-2.json, ... The highest number is the
current claim, and the number is its fencing token. A claim is created with link(), which succeeds
for exactly one worker, also on NFS, where the server decides. Taking over from a dead worker and
publishing a result both create the next claim, so they cannot both succeed. No number is reused.
The holder of a claim touches the file `heartbeat`; ages are measured with the file system's clock.
With more than 200 runs in training, heartbeats are rarer in proportion, and so is the age at which a holder
counts as dead. The claim records the number of runs, so that every worker computes the same age.
A claim file that cannot be read still counts: it expires when its heartbeat stops, and the next
worker renames it.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.core.files.folders import opened
from chinchilla.core.files.json_codec import decode
from chinchilla.core.files.reading import open_regular, read_json
from chinchilla.core.files.writing import (
    clean_leftovers,
    create_once,
    pretty_json,
    process_start,
    process_table,
    rename,
    temporary_path,
    touch,
    write_text,
)

HEARTBEAT_SECONDS = 5.0  # interval at which a holder touches `heartbeat`
STALE_SECONDS = 60.0  # age of the heartbeat above which a holder on another machine is dead
FULL_RATE_WORKERS = 200  # with more runs in training, both times grow in proportion
MAX_FACTOR = 6.0  # but not more: a heartbeat every 30 seconds, dead after 6 minutes
REVIEW_BEATS = 12  # heartbeats after which a holder counts the runs in training again
_CLAIM = re.compile(r"claim-(\d+)\.json")
log = logging.getLogger("chinchilla.sweep")


@dataclass(frozen=True)
class ClaimRecord:
    """One claim as stored: who made it, where and when."""

    fence: int  # the fencing token
    worker: str
    host: str  # for display
    processes: str  # identifies the process table of `pid`: host, boot and pid namespace
    pid: int
    pid_start: str  # distinguishes the process from a later one with the same pid
    claimed_utc: str
    step: int  # step of the newest checkpoint when the claim was made
    starts: int  # claims made for training so far, including this one
    released: bool = False
    stalls: int = 0  # consecutive claims before this one that ended without a new checkpoint
    ended: str = ""  # reason of the release; "" if the run or the worker ended
    excused: bool = False  # released for a reason that does not count as a stall
    workers: int = 1  # runs in training, which determines the time between heartbeats

    @property
    def damaged(self) -> bool:
        """Whether the file could not be read. Only the fencing token is known, from the name."""
        return not self.processes


@dataclass(frozen=True)
class ClaimStatus:
    """The latest claim on a run and its state.

    `state` is free (never claimed, or released), held, silent (the heartbeat is late, but not late
    enough to count as dead) or dead.
    """

    state: str
    record: ClaimRecord | None = None

    @property
    def available(self) -> bool:
        return self.state in ("free", "dead")


def heartbeat_factor(workers: int) -> float:
    """Factor of HEARTBEAT_SECONDS and STALE_SECONDS while so many runs are in training."""
    return min(max(1.0, workers / FULL_RATE_WORKERS), MAX_FACTOR)


def utc_now() -> str:
    """The current time as records store it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def file_system_now(folder: Path) -> float:
    """Time of the file system of `folder`, or of this machine if `folder` is not writable."""
    return _exact_now(folder) or time.time()


def _exact_now(folder: Path) -> float | None:
    """Time of the file system of `folder`; None if `folder` is not writable."""
    try:
        with opened(folder, wait=False) as opened_folder:
            probe = temporary_path(folder / "clock").name
            fd = opened_folder.create(probe)
            try:
                return os.fstat(fd).st_mtime
            finally:
                os.close(fd)
                os.unlink(probe, dir_fd=opened_folder.fd)
    except OSError:
        return None


def _modified(path: Path) -> float:
    """Time of the last change of `path`; 0 if it does not exist."""
    try:
        with open_regular(path) as f:  # open() asks an NFS server; stat() alone may be a minute old
            return os.fstat(f.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0
    except OSError:  # not a regular file, or not readable
        return os.lstat(path).st_mtime


def _age(path: Path, now: float) -> float:
    """Seconds since the last change of `path`.

    A time in the future (after the clock was set back, or of a damaged file) would never expire. The file is
    touched, so that it expires as if it had been changed now. The clock of this machine, which `now` may be of,
    may be late, so the time of the file system decides.
    """
    modified = _modified(path)
    if now - modified < -STALE_SECONDS:
        exact = _exact_now(path.parent)
        if exact is not None and exact - modified < -STALE_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(path, follow_symlinks=False)
    return now - modified


def _claim_path(run_dir: Path, fence: int) -> Path:
    return run_dir / f"claim-{fence}.json"


def latest_claim(run_dir: Path, names: Sequence[str] | None = None) -> ClaimRecord | None:
    """The claim with the highest fencing token; None if there never was one.

    `names` are the files in `run_dir`, if already listed.
    """
    try:
        names = os.listdir(run_dir) if names is None else names
    except FileNotFoundError:
        return None
    fences = [int(m[1]) for name in names if (m := _CLAIM.fullmatch(name))]
    if not fences:
        return None
    newest, *older = sorted(fences, reverse=True)
    if (record := _read(run_dir, newest)) is not None:
        return record
    # Only the token is known. With step=-1 the next claim counts as progress, not as a stall.
    before = next((r for fence in older if (r := _read(run_dir, fence))), None)
    starts = before.starts + 1 if before else 1
    return ClaimRecord(newest, "unknown", "", "", 0, "", "", step=-1, starts=starts)


def _read(run_dir: Path, fence: int) -> ClaimRecord | None:
    """The claim with this fencing token; None if its file cannot be read."""
    path = _claim_path(run_dir, fence)
    try:
        record: ClaimRecord = decode(ClaimRecord, read_json(path, "claim"), str(path))
    except InputError:
        return None
    whole = record.fence == fence and record.processes and 0 < record.pid < 2**31
    return record if whole else None


def claim_status(
    run_dir: Path,
    now: float,
    stale_seconds: float = STALE_SECONDS,
    names: Sequence[str] | None = None,
) -> ClaimStatus:
    """State of the latest claim at `now` (`file_system_now`).

    If the claim was made on this machine, the process table decides: a process that exists holds its
    claim even if its heartbeat is late (the machine may have been suspended). Otherwise the age of
    the heartbeat decides. `stale_seconds` applies to up to FULL_RATE_WORKERS runs in training.
    `names` are the files in `run_dir`, if already listed.
    """
    record = latest_claim(run_dir, names)
    if record is None or record.released:
        return ClaimStatus("free", record)
    if record.processes == process_table():
        start = process_start(record.pid)
        same = start is not None and (
            not start or not record.pid_start or start == record.pid_start
        )
        return ClaimStatus("held" if same else "dead", record)
    stale_seconds *= heartbeat_factor(record.workers)
    age = _age(run_dir / "heartbeat", now)
    if age > stale_seconds / 4:  # or the claim is newer than the last heartbeat of an earlier one
        age = min(age, _age(_claim_path(run_dir, record.fence), now))
    if age > stale_seconds:
        return ClaimStatus("dead", record)
    return ClaimStatus("silent" if age > stale_seconds / 4 else "held", record)


class Claim:
    """A claim held by this process. A thread sends heartbeats until it is released or lost."""

    def __init__(
        self,
        run_dir: Path,
        record: ClaimRecord,
        previous: ClaimRecord | None,
        count_workers: Callable[[], int] | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.record = record
        self.previous = previous  # the claim before; its worker died if it was not released
        self.lost = False
        self._count_workers = count_workers  # runs in training; None: only this one
        self._n_beats = 0
        self._lock = threading.Lock()  # `commit` changes the record that the heartbeat thread reads
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beats, name="heartbeat", daemon=True)
        self._thread.start()

    def _beats(self) -> None:
        while self.beat():
            factor = heartbeat_factor(self.record.workers)
            if self._stop.wait(HEARTBEAT_SECONDS * factor):
                return

    def beat(self) -> bool:
        """Send one heartbeat; False if the run was lost."""
        with contextlib.suppress(OSError):  # a file server may be unavailable for a while
            if not self.still_mine():
                return False
            touch(self.run_dir / "heartbeat", wait=False)
            self._n_beats += 1
            if self._count_workers and self._n_beats % REVIEW_BEATS == 0:
                self._space_out(self._count_workers())
        return True

    def _space_out(self, workers: int) -> None:
        """Record a larger number of runs in training, before heartbeats become rarer."""
        with self._lock:
            if heartbeat_factor(workers) > 1.25 * heartbeat_factor(self.record.workers):
                record = dataclasses.replace(self.record, workers=workers)
                path = _claim_path(self.run_dir, record.fence)
                write_text(path, json.dumps(dataclasses.asdict(record)), wait=False)
                self.record = record

    def still_mine(self) -> bool:
        """Whether no other worker has taken the run over, as far as this machine can see."""
        with self._lock:
            self.lost = self.lost or _claim_path(self.run_dir, self.record.fence + 1).exists()
            return not self.lost

    def commit(self) -> bool:
        """Acquire the next fencing token. A result may be written only if this returns True.

        `still_mine` would not be enough: another worker could take over between the check and the
        write, and an NFS client may answer from its cache.
        """
        with self._lock:
            record = dataclasses.replace(self.record, fence=self.record.fence + 1)
            if not self.lost and _create(self.run_dir, record):
                self.record = record
            else:
                self.lost = True
            return not self.lost

    def publish(self, name: str, value: Any) -> bool:
        """Write the run's result as JSON; False if another worker has taken the run over.

        The file is created and never replaced: a holder that is delayed after `commit` must not
        overwrite the result of its successor.
        """
        return self.commit() and create_once(self.run_dir / name, pretty_json(value) + "\n")

    def release(self, ended: str = "", excused: bool = False) -> None:
        """Stop the heartbeat and, unless the run was lost before, make it available."""
        self._stop.set()
        self._thread.join()
        if not self.record.released and self.still_mine():
            self.record = dataclasses.replace(
                self.record, released=True, ended=ended, excused=excused
            )
            path = _claim_path(self.run_dir, self.record.fence)
            with contextlib.suppress(FileNotFoundError):  # the run was deleted
                write_text(path, json.dumps(dataclasses.asdict(self.record)))


def _create(run_dir: Path, record: ClaimRecord) -> bool:
    return create_once(_claim_path(run_dir, record.fence), json.dumps(dataclasses.asdict(record)))


def _make_run_dir(run_dir: Path) -> bool:
    """Create the folder of a run; False if it exists."""
    with opened(run_dir.parent, create=True) as parent:
        return parent.mkdir(run_dir.name)


def acquire(
    run_dir: Path,
    worker: str,
    *,
    step: int = 0,
    stalls: int = 0,
    to_train: bool = True,
    now: float | None = None,
    stale_seconds: float = STALE_SECONDS,
    n_workers: int = 1,
    count_workers: Callable[[], int] | None = None,
    fresh: bool = False,
) -> Claim | None:
    """Claim a run that is free or whose holder is dead; create its folder if needed.

    Args:
        run_dir: folder of the run.
        worker: name of the claimant, for display.
        step: step of the newest checkpoint, stored so that the next claim can detect progress.
        stalls: consecutive earlier claims that made no progress.
        to_train: count the claim as a start; False for a launcher that only changes files.
        now: time of the file system, if already known.
        stale_seconds: age of the heartbeat from which the holder counts as dead.
        n_workers: runs in training, with this one.
        count_workers: counts them again later; default: the number stays.
        fresh: the run had no folder when it was listed. If it has one now, another worker was faster.

    Returns:
        The claim, or None if another worker holds the run or was faster.
    """
    created = _make_run_dir(run_dir)
    if fresh and not created:
        return None
    if created:
        status = ClaimStatus("free")
    else:
        now = file_system_now(run_dir) if now is None else now
        status = claim_status(run_dir, now, stale_seconds)
    if not status.available:
        return None
    before = status.record
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
        workers=n_workers,
    )
    if not _create(run_dir, record):
        return None
    if not created:
        clean_leftovers(run_dir)
    if before and before.damaged:  # its token is superseded, so the file can be renamed
        name = f"claim-{before.fence}.json"
        with contextlib.suppress(OSError):
            rename(run_dir / name, run_dir / f"damaged-{name}")
        log.warning("%s/%s was damaged and is renamed to damaged-%s", run_dir.name, name, name)
    return Claim(run_dir, record, before, count_workers)

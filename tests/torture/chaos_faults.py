"""The faults: each function of KINDS causes one, and returns what it hit, or None.

A fault of the surroundings (a stopped process, a full or read-only disk, a moved folder, a mode) ends by
itself after some seconds; damage to a file stays.
"""

import contextlib
import hashlib
import os
import random
import signal
import stat
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos_place import DISK_MB, Place, Process, mount, processes

from chinchilla.core.files.writing import temporary_path

FILES = {  # targets of damage; of each run's claims the newest
    "plan": "plan.jsonl",
    "runtime": "runtime.json",
    "launch": "launch/claim-*.json",
    "mark": "ended/*",
    "spec": "runs/*/spec.json",
    "claim": "runs/*/claim-*.json",
    "heartbeat": "runs/*/heartbeat",
    "progress": "runs/*/progress.json",
    "metrics": "runs/*/metrics.jsonl",
    "attempt": "runs/*/attempts/*.json",
    "checkpoint": "runs/*/checkpoints/step-*/*",
    "curve": "runs/*/curve.npz",
    "result": "runs/*/result.json",
}
FOLDERS = (
    ".",
    "runs",
    "ended",
    "launch",
    "workers",
    "runs/*",
    "runs/*/checkpoints",
    "runs/*/attempts",
)
TIMED = ("claim", "heartbeat", "launch", "plan", "runtime", "result")
SHIFTS = (60.0, 3_600.0, 86_400.0, 3e8)  # seconds
LONG_STOP = 90.0


@dataclass
class Hit:
    """What a fault hit, and how and when it ends."""

    target: str
    seconds: float = 0.0
    undo: Callable[[], None] | None = None


@dataclass
class Faults:
    """State of the faults of one soak."""

    place: Place
    draw: random.Random
    long_stop: float = LONG_STOP
    groups: Sequence[str] = tuple(FILES)  # of files that are damaged
    terminated: dict[int, float] = field(default_factory=dict)  # pid -> monotonic time of SIGTERM
    destroyed: set[str] = field(default_factory=set)  # SHA-256 of results that a fault has damaged
    problems: list[str] = field(default_factory=list)
    surroundings: set[str] = field(default_factory=set)  # faults in effect

    def process(self, *roles: str) -> Process | None:
        """A process in one of these roles that is not stopped."""
        found = [p for p in processes(self.place) if p.role in roles and p.state != "T"]
        return self.draw.choice(found) if found else None

    def file(self, *groups: str) -> Path | None:
        """A file of one of these groups, each being equally likely; default: `self.groups`."""
        groups = groups or tuple(self.groups)
        for group in self.draw.sample(groups, len(groups)):
            try:
                found = sorted(self.place.sweep_dir.glob(FILES[group]))
            except OSError:
                continue
            if group in ("claim", "launch"):
                found = newest_claims(found)
            found = [p for p in found if p.is_file() and not p.is_symlink()]
            if found:
                return self.draw.choice(found)
        return None

    def folder(self) -> Path | None:
        pattern = self.draw.choice(FOLDERS)
        sweep = self.place.sweep_dir
        found = [sweep] if pattern == "." else sorted(sweep.glob(pattern))
        found = [p for p in found if p.is_dir() and not p.is_symlink()]
        return self.draw.choice(found) if found else None

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.place.inside))

    def short(self) -> float:
        return self.draw.uniform(1, 6)

    def about_to_damage(self, path: Path) -> None:
        if path.name == "result.json":
            self.destroyed.add(hashlib.sha256(path.read_bytes()).hexdigest())

    def for_a_while(self, kind: str, target: str, undo: Callable[[], None]) -> Hit:
        """A fault of the surroundings, of which there is one of each kind at a time."""
        self.surroundings.add(kind)

        def end() -> None:
            self.surroundings.discard(kind)
            undo()

        return Hit(target, self.short(), end)


def newest_claims(paths: list[Path]) -> list[Path]:
    newest: dict[Path, tuple[int, Path]] = {}
    for path in paths:
        number = path.stem.partition("-")[2]
        if number.isdigit():
            key = (int(number), path)
            newest[path.parent] = max(newest.get(path.parent, key), key)
    return [path for _, path in newest.values()]


# Processes


def _kill(*roles: str) -> Callable[[Faults], Hit | None]:
    def kill(faults: Faults) -> Hit | None:
        process = faults.process(*roles)
        if process is None or not process.signal(signal.SIGKILL):
            return None
        return Hit(f"{process.role} {process.pid}")

    return kill


def _ask(number: int) -> Callable[[Faults], Hit | None]:
    """A signal that asks a process to end."""

    def ask(faults: Faults) -> Hit | None:
        process = faults.process("sweep", "worker")
        if process is None or not process.signal(number):
            return None
        faults.terminated.setdefault(process.pid, time.monotonic())
        return Hit(f"{process.role} {process.pid}")

    return ask


def _suspend(kind: str) -> Callable[[Faults], Hit | None]:
    def suspend(faults: Faults) -> Hit | None:
        process = faults.process("sweep", "worker")
        if process is None or not process.signal(signal.SIGSTOP):
            return None
        seconds = faults.long_stop if kind == "long" else faults.short()
        target = f"{process.role} {process.pid} for {seconds:.0f} s"
        return Hit(target, seconds, lambda: process.signal(signal.SIGCONT) and None)

    return suspend


# Surroundings


def clock(faults: Faults) -> Hit | None:
    """Set the time of a file to the past or to the future, as a node with another clock does."""
    if (path := faults.file(*TIMED)) is None:
        return None
    shift = faults.draw.choice(SHIFTS) * faults.draw.choice((-1, 1))
    os.utime(path, (time.time() + shift,) * 2)
    return Hit(f"{faults.name(path)} {shift:+g} s")


def full(faults: Faults) -> Hit | None:
    """Fill the disk."""
    if faults.place.lacks or "full" in faults.surroundings:
        return None
    filler = faults.place.inside / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as f:
        for _ in range(DISK_MB << 5):
            f.write(b"x" * 32_768)
    return faults.for_a_while("full", "disk", lambda: filler.unlink())


def read_only(faults: Faults) -> Hit | None:
    """Make the disk read-only for the workers: what is opened from now on."""
    if faults.place.lacks or "read_only" in faults.surroundings:
        return None
    disk = str(faults.place.outside)
    # A second mount, because a file system with open files cannot be remounted.
    if not mount("--bind", str(faults.place.inside), disk):
        return None
    mount("-o", "remount,bind,ro", disk)
    return faults.for_a_while("read_only", "disk", lambda: _unmount(disk))


def _unmount(path: str) -> None:
    subprocess.run(["umount", "--lazy", path], check=True)


def move_sweep(faults: Faults) -> Hit | None:
    """Rename the sweep's folder, and back."""
    return None if faults.surroundings else _move(faults, "move_sweep", faults.place.sweep_dir)


def move_run(faults: Faults) -> Hit | None:
    """Rename a run's folder, and back."""
    found = sorted(faults.place.sweep_dir.glob("runs/*"))
    if "move_run" in faults.surroundings or not found:
        return None
    return _move(faults, "move_run", faults.draw.choice(found))


def _move(faults: Faults, kind: str, path: Path) -> Hit | None:
    other = faults.place.inside / f"moved-{path.name}-{uuid.uuid4().hex[:6]}"
    try:
        os.rename(path, other)
    except OSError:
        return None

    def back() -> None:
        if not os.path.lexists(path) and path.parent.is_dir():
            os.rename(other, path)
        elif kind == "move_sweep":
            made = path.with_name(f"made-{uuid.uuid4().hex[:6]}")
            os.rename(path, made)
            os.rename(other, path)
            # A launcher that finds no folder begins a sweep. A worker must not make the folder again.
            if not (made / "plan.jsonl").exists():
                files = [str(p.relative_to(made)) for p in made.rglob("*")][:5]
                faults.problems.append(f"the sweep's folder was moved and made again, with {files}")
        # A run's folder that was made meanwhile stays; the moved one is beside the sweep.

    return faults.for_a_while(kind, faults.name(path), back)


def chmod(faults: Faults) -> Hit | None:
    """Take the permissions of a file or a folder, and give them back."""
    path = faults.draw.choice((faults.file, faults.folder))()
    if path is None or (
        faults.place.user is None and os.geteuid() == 0
    ):  # modes mean nothing to root
        return None
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW)  # finds the file if it is renamed meanwhile
    itself = f"/proc/self/fd/{handle}"
    before = stat.S_IMODE(os.stat(itself).st_mode)
    if before & 0o200 == 0:  # already taken
        os.close(handle)
        return None
    mode = faults.draw.choice((0, 0, 0o444, 0o555))
    os.chmod(itself, mode)

    def back() -> None:
        os.chmod(itself, before)
        os.close(handle)

    return Hit(f"{faults.name(path)} {mode:03o}", faults.short(), back)


# Damage


def _damage(change: Callable[[Faults, Path], object]) -> Callable[[Faults], Hit | None]:
    def damage(faults: Faults) -> Hit | None:
        path = faults.file()
        if path is None:
            return None
        try:
            if change in (truncate, flip, empty) and not path.stat().st_size:
                return None
            faults.about_to_damage(path)
            change(faults, path)
        except (OSError, ValueError, IndexError):  # a process was faster: gone, or shorter
            return None
        return Hit(faults.name(path))

    return damage


def truncate(faults: Faults, path: Path) -> None:
    os.truncate(path, faults.draw.randrange(path.stat().st_size))


def empty(faults: Faults, path: Path) -> None:
    os.truncate(path, 0)


def noise(faults: Faults, path: Path) -> None:
    """Replace a part, from a random position on, by random bytes."""
    size = path.stat().st_size
    at = faults.draw.randrange(size + 1)
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(faults.draw.randbytes(min(max(16, size - at), 4_096)))


def flip(faults: Faults, path: Path) -> None:
    with open(path, "r+b") as f:
        at = faults.draw.randrange(path.stat().st_size)
        f.seek(at)
        byte = f.read(1)[0] ^ 1 << faults.draw.randrange(8)
        f.seek(at)
        f.write(bytes([byte]))


def delete(faults: Faults, path: Path) -> None:
    path.unlink()


def directory(faults: Faults, path: Path) -> None:
    path.unlink()
    path.mkdir()
    if faults.draw.random() < 0.5:
        (path / "file").touch()
        faults.place.owned(path / "file")
    faults.place.owned(path)


def fifo(faults: Faults, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)
    faults.place.owned(path)


def link(faults: Faults, path: Path) -> None:
    path.unlink()
    path.symlink_to(faults.draw.choice(("nothing", path.name, "/nonexistent/file")))
    faults.place.owned(path)


def leftover(faults: Faults) -> Hit | None:
    """Temporary files of processes that have died, here and on other machines."""
    if (folder := faults.folder()) is None:
        return None
    final = faults.draw.choice(("result.json", "plan.jsonl", "step-00000010"))
    table = temporary_path(folder / final).name.rpartition("-")[0].rpartition("-")[0]
    table = faults.draw.choice((table, f".{final}.0badc0de"))
    path = folder / f"{table}-{faults.draw.randrange(10**8, 10**9)}-{uuid.uuid4().hex[:8]}.tmp"
    try:
        if faults.draw.random() < 0.3:
            path.mkdir()
        else:
            path.write_bytes(faults.draw.randbytes(100))
    except OSError:
        return None
    if path.is_file():
        os.chmod(path, 0o644)
    faults.place.owned(path)
    return Hit(faults.name(path))


KINDS: dict[str, Callable[[Faults], Hit | None]] = {
    "kill_worker": _kill("worker"),
    "kill_launcher": _kill("sweep"),
    "term": _ask(signal.SIGTERM),
    "interrupt": _ask(signal.SIGINT),
    "stop_long": _suspend("long"),
    "stop_short": _suspend("short"),
    "clock": clock,
    "full": full,
    "read_only": read_only,
    "move_sweep": move_sweep,
    "move_run": move_run,
    "chmod": chmod,
    "truncate": _damage(truncate),
    "empty": _damage(empty),
    "noise": _damage(noise),
    "flip": _damage(flip),
    "delete": _damage(delete),
    "directory": _damage(directory),
    "fifo": _damage(fifo),
    "link": _damage(link),
    "leftover": leftover,
}
NEED_A_DISK = ("full", "read_only")

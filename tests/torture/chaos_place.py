"""A small disk with a sweep on it, and processes of another user that work there.

As root on Linux everything happens in namespaces of its own: the disk is a tmpfs of DISK_MB, the
processes run as USER, and when this program ends, also by SIGKILL, the kernel ends its processes and
unmounts the disk. Without root the disk is a folder and the processes are the caller's; faults
that need a disk of their own, or another user, are then left out.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DISK_MB = 64
USER = 64_123  # any number that is nobody else's
NEW_NAMESPACES = 0x00020000 | 0x20000000  # CLONE_NEWNS | CLONE_NEWPID
PR_SET_PDEATHSIG = 1
END_SECONDS = 60.0  # after SIGTERM, a process ends within this time


@dataclass
class Place:
    """The disk and the processes; `outside` is what workers see, `inside` never is read-only."""

    work: Path
    outside: Path
    inside: Path
    user: int | None  # None: the caller
    lacks: str = ""  # why this is a plain folder
    marker: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def sweep_dir(self) -> Path:
        return self.inside / "sweep"

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start `chinchilla WORDS` as the other user; its output goes to work/output/NAME."""
        output = self.work / "output"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.work / "home"),
            "MPLCONFIGDIR": str(self.work / "home"),
            "CHAOS_MARKER": self.marker,
        }
        who = {} if self.user is None else {"user": self.user, "group": self.user}
        with open(output / name, "ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "chinchilla.cli", *words],
                env=environment,
                cwd=self.work / "home",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **({**who, "extra_groups": []} if who else {}),  # type: ignore[arg-type]
            )
        self.started[process.pid] = process
        return process

    def owned(self, path: Path) -> None:
        """Give a file that a fault has made to the workers' user."""
        if self.user is not None:
            os.lchown(path, self.user, self.user)


@dataclass(frozen=True)
class Process:
    """A process that this program has started, directly or not."""

    pid: int
    role: str  # the command: sweep, worker, status, ...
    state: str  # of /proc: T = stopped
    parent: int

    def signal(self, number: int) -> bool:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    @property
    def waits_for(self) -> str:
        """The command, and the system call in which it waits, for a report."""
        words = []
        for name in ("cmdline", "stack"):
            try:
                text = Path(f"/proc/{self.pid}/{name}").read_bytes()
            except OSError:
                text = b"?"
            words.append(text.replace(b"\0", b" ").decode(errors="replace").strip())
        return f"{words[0].partition('chinchilla.cli ')[2][:100]}; {' '.join(words[1].split()[1::2][:4])}"


def processes(place: Place) -> list[Process]:
    """The processes of `place` that run, found by a variable in their environment."""
    mark = f"CHAOS_MARKER={place.marker}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if mark not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            words = (entry / "cmdline").read_bytes().split(b"\0")
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX" and b"chinchilla.cli" in words:
            role = words[words.index(b"chinchilla.cli") + 1].decode()
            found.append(Process(int(entry.name), role, fields[0], int(fields[1])))
    return sorted(found, key=lambda p: p.pid)


def reap(place: Place) -> None:
    """Collect processes whose parent has died: as process 1 of its namespace, this one inherits them."""
    for entry in Path("/proc").iterdir() if os.getpid() == 1 else ():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if (
            entry.name.isdigit()
            and fields[:2] == ["Z", "1"]
            and int(entry.name) not in place.started
        ):
            os.waitpid(int(entry.name), os.WNOHANG)


def run_in(act: Callable[[Place], int], work: Path | None) -> int:
    """Make a place, call `act` with it, and remove it; `work` is kept, a temporary folder is not.

    Returns:
        The value of `act`; 143 after SIGTERM.
    """
    folder = work or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lacks = "" if os.geteuid() == 0 else "this is not root"
        if not lacks:
            code, lacks = _in_namespaces(act, folder)
            if not lacks:
                return code
        for name in ("home", "output", "disk"):
            (folder / name).mkdir(exist_ok=True)
        place = Place(folder, folder / "disk", folder / "disk", None, lacks)
        stop_on_term()
        try:
            return act(place)
        finally:
            for process in processes(place):
                process.signal(signal.SIGCONT)
                process.signal(signal.SIGKILL)
    finally:
        if work is None:
            shutil.rmtree(folder, ignore_errors=True)


def stop_on_term() -> None:
    def end(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _in_namespaces(act: Callable[[Place], int], folder: Path) -> tuple[int, str]:
    """Run `act` in a child process with its own mounts and process numbers.

    Returns:
        Its exit code, and why namespaces cannot be made, if so.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    probe = os.fork()
    if probe == 0:
        os._exit(min(255, ctypes.get_errno()) if libc.unshare(NEW_NAMESPACES) else 0)
    if error := os.waitstatus_to_exitcode(os.waitpid(probe, 0)[1]):
        return 0, f"no namespaces can be made here ({os.strerror(error)})"
    outer = os.fork()  # its children are in the new namespaces, so this process stays outside
    if outer == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.unshare(NEW_NAMESPACES)
        inner = os.fork()
        if inner == 0:
            code = 1
            try:
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                stop_on_term()
                code = act(_mounted(folder))
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
                if isinstance(error.code, str):
                    print(error.code, file=sys.stderr)
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _forward(inner)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 255)
    _forward(outer)
    return os.waitstatus_to_exitcode(os.waitpid(outer, 0)[1]) & 255, ""


def _forward(child: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda s, frame: os.kill(child, s))


def _mounted(folder: Path) -> Place:
    """Mount the disk twice, and let the other user reach Python and this package."""
    _must_mount("--make-rprivate", "/")
    _must_mount("-t", "proc", "proc", "/proc")
    outside, inside = folder / "disk", folder / "inside"
    for path in (outside, inside, folder / "home", folder / "output"):
        path.mkdir(exist_ok=True)
    for path in (Path(sys.base_prefix), Path(sys.prefix), ROOT, folder):
        _make_reachable(path, folder)
    _must_mount("-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "tmpfs", str(outside))
    _must_mount("--bind", str(outside), str(inside))
    place = Place(folder, outside, inside, USER)
    for path in (outside, folder / "home"):
        place.owned(path)
    return place


def _make_reachable(path: Path, folder: Path) -> None:
    """In this namespace, replace the first parent that others may not enter by one with `path` only."""
    path = path.resolve()
    closed = [p for p in reversed((path, *path.parents)) if not p.stat().st_mode & 0o001]
    if not closed:
        return
    if closed[0] in (path, folder):
        os.chmod(folder, 0o755)
        return
    kept = folder / "bound"
    kept.mkdir(exist_ok=True)
    _must_mount("--bind", str(path), str(kept))
    _must_mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(closed[0]))
    path.mkdir(parents=True)
    _must_mount("--move", str(kept), str(path))


def _must_mount(*words: str) -> None:
    if not mount(*words):
        raise SystemExit(f"mount {' '.join(words)} failed")


def mount(*words: str) -> bool:
    """Call mount; a fault may find the disk busy."""
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True

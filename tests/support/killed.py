"""Kill a command at each of its system calls that write, repeat it, and compare what is left on the disk.

The command runs in a child process that is forked from the test, so that each death costs milliseconds.
"""

import contextlib
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

# Audit events of functions that write; the event is raised before the system call.
EVENTS = (
    "os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod",
    "subprocess.Popen",
)  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Who held a folder, and when: different after a repetition.
TRACES = re.compile(r"claim-\d+\.json|heartbeat")
Action = Callable[[Path], object]


def survives(
    template: Path, tmp_path: Path, action: Action, n_points: int = 0, changing: str = "-"
) -> None:
    """Check that a command that was killed at a call and then repeated leaves the files of one that was not.

    Args:
        template: folder that the command changes; it is copied.
        tmp_path: an empty folder.
        action: the command, called with the copy.
        n_points: number of calls at which it is killed, spread evenly; 0 = all.
        changing: pattern of relative paths whose contents differ between any two executions, such as times.
    """
    folder = tmp_path / "killed"

    def fresh() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder, symlinks=True)

    fresh()
    calls = _calls(action, folder)
    expected = contents(folder, changing)
    n = len(calls)
    assert n > 3, f"the command writes nothing: {calls}"
    points = sorted(
        {1 + i * (n - 1) // (n_points - 1) for i in range(n_points)}
        if n_points
        else range(1, n + 1)
    )
    for point in points:
        fresh()
        code = _in_child(action, folder, point)
        assert code == -signal.SIGKILL, f"not killed at call {point} of {n}"
        assert _in_child(action, folder) == 0, f"killed at call {point} of {n} ({calls[point - 1]})"
        found = contents(folder, changing)
        differing = {name for name in {*found, *expected} if found.get(name) != expected.get(name)}
        assert not differing, f"{differing} after call {point} of {n} ({calls[point - 1]})"


def contents(folder: Path, changing: str = "-") -> dict[str, bytes]:
    """Files by relative path, without claims and heartbeats."""
    paths = (p for p in folder.rglob("*") if p.is_file() and not TRACES.fullmatch(p.name))
    return {
        name: b"" if re.search(changing, name) else p.read_bytes()
        for p in paths
        if (name := str(p.relative_to(folder)))
    }


def _calls(action: Action, folder: Path) -> list[str]:
    """The calls of an undisturbed execution."""
    read, write = os.pipe()
    assert _in_child(action, folder, report=write) == 0
    os.close(write)
    with open(read) as f:
        return f.read().splitlines()


def _in_child(action: Action, folder: Path, die_at: int = 0, report: int = -1) -> int:
    """Exit code of the action in a child process that dies at its call number `die_at` (0 = never)."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                calls = _count_calls(folder, die_at)
                action(folder)
                if report >= 0:
                    os.write(report, "\n".join(calls).encode())
                code = 0
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _count_calls(folder: Path, die_at: int) -> list[str]:
    calls: list[str] = []

    def count(event: str, args: tuple[object, ...]) -> None:
        path = str(args[0]) if args else ""
        if event == "open" and not (isinstance(args[2], int) and args[2] & WRITES):
            return
        elsewhere = path.startswith("/") and not path.startswith(str(folder))
        if (elsewhere and event != "subprocess.Popen") or "heartbeat" in path:  # of another thread
            return
        calls.append(f"{event} {path}")
        if len(calls) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(
        lambda event, args: count(event, args) if event == "open" or event in EVENTS else None
    )
    fsync = os.fsync

    def counted(file: int) -> None:  # there is no audit event
        count("os.fsync", ())
        fsync(file)

    os.fsync = counted
    return calls

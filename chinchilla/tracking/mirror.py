"""Trackers: mirrors of metrics.jsonl in Weights & Biases and TensorBoard.

metrics.jsonl is the record, a tracker shows it. While a run trains, each tracker is fed from a thread
of its own through a bounded queue (`Mirror`): if it hangs, raises or is missing, lines are dropped from
the mirror and training goes on with the same bits. `chinchilla sync` replays what a mirror missed. Keys
of such services live in their own environment variables; nothing here reads or writes one.
"""

import contextlib
import json
import queue
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import InputError, one_line
from chinchilla.plan.records import RunSpec

QUEUE_LINES = 10_000  # lines that wait for a tracker; later ones are dropped from the mirror
PATIENCE_SHARE = 0.01  # of a run's time, which its end may be held up by a tracker ...
PATIENCE_SECONDS = 10.0  # ... and at most so long; the same once more when the process ends
QUIET_SECONDS = 1.0  # of that, before it is said what is waited for
BY_SYNC = "`chinchilla sync` brings the rest."

Line = dict[str, Any]  # one of metrics.jsonl: step (updates done), tokens, loss, lr, ...


class Tracker(Protocol):
    """One run as a tracker shows it. Any call may raise, or never return."""

    def log(self, line: Line) -> None:
        """Show one line of metrics.jsonl at its step."""

    def close(self, summary: Line | None = None) -> None:
        """Write what the run came to, and let go."""


class WandbTracker:
    """Weights & Biases; one run there for every run of a sweep, whoever starts it and how often."""

    name = "Weights & Biases"

    def __init__(self, folder: Path, spec: RunSpec, project: str, mode: str) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        self.run = wandb.init(
            project=project, mode=mode, dir=str(folder), id=wandb_id(spec), name=spec.run_id,  # type: ignore[arg-type]
            group=spec.sweep, config=describe(spec), resume="allow" if mode == "online" else None,
            reinit="create_new", settings=settings,
        )  # fmt: skip

    def log(self, line: Line) -> None:
        self.run.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])

    def close(self, summary: Line | None = None) -> None:
        if summary:
            self.run.summary.update(summary)
        self.run.finish()


class TensorboardTracker:
    """TensorBoard event files in <run>/tensorboard; needs the package tensorboard."""

    name = "TensorBoard"

    def __init__(self, folder: Path, spec: RunSpec, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)
        self.writer.add_text("spec", json.dumps(describe(spec)))

    def log(self, line: Line) -> None:
        for key, value in line.items():
            if key != "step" and isinstance(value, int | float):
                self.writer.add_scalar(key, value, line["step"])

    def close(self, summary: Line | None = None) -> None:
        for key, value in (summary or {}).items():
            if isinstance(value, int | float):
                self.writer.add_scalar(f"final/{key}", value)
        self.writer.close()


def wandb_id(spec: RunSpec) -> str:
    """The same for every start of a run, another for the same run of another sweep."""
    return re.sub(r"[^\w.-]", "-", f"{spec.sweep}-{spec.run_id}")[-128:]


def describe(spec: RunSpec) -> Line:
    """A run's spec with N, D and C, for tables of runs."""
    return {**spec.to_dict(), "run_id": spec.run_id, "N": spec.N, "D": spec.D, "C": spec.C}


def trackers_of(
    runtime: RuntimeConfig, folder: Path, spec: RunSpec, first_step: int
) -> dict[str, Callable[[], Tracker]]:
    """What a runtime asks for, by name; each is opened by its own thread."""
    wanted: dict[str, Callable[[], Tracker]] = {}
    if runtime.wandb != "disabled":
        wanted[WandbTracker.name] = lambda: WandbTracker(
            folder, spec, runtime.wandb_project, runtime.wandb
        )
    if runtime.tensorboard:
        wanted[TensorboardTracker.name] = lambda: TensorboardTracker(folder, spec, first_step + 1)
    return wanted


class Mirror:
    """Feeds one tracker from a thread; never blocks and never raises."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker]) -> None:
        self.name, self._open = name, open_tracker
        self._queue: queue.Queue[Line | None] = queue.Queue(maxsize=QUEUE_LINES)
        self._opened = time.monotonic()
        # Not join: a Ctrl-C in it makes Python 3.11 forget the thread.
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()
        _mirrors[:] = [m for m in _mirrors if m.at_work] + [self]
        _watch_main()

    @property
    def at_work(self) -> bool:
        """Whether there is something left to show."""
        return self._thread.is_alive() and not self._done.is_set()

    def offer(self, line: Line) -> None:
        """Show a line soon, or drop it where too many wait already."""
        if not self._queue.full():
            self._queue.put_nowait(line)

    def close(self) -> None:
        """Let the tracker finish; wait for that a hundredth of the run's time, and not longer."""
        if self._queue.full():
            with contextlib.suppress(queue.Empty):
                self._queue.get_nowait()
        self._queue.put_nowait(None)
        self.wait(min(PATIENCE_SECONDS, PATIENCE_SHARE * (time.monotonic() - self._opened)))

    def wait(self, seconds: float) -> None:
        """Until all is shown, at most so long."""
        if self.at_work:
            self._done.wait(max(0.0, seconds))

    def _feed(self) -> None:
        try:
            tracker = self._open()
            while (line := self._queue.get()) is not None:
                tracker.log(line)
            tracker.close()
        except Exception as error:
            said = f"{type(error).__name__}: {one_line(error)}".rstrip(" .:")
            print(
                f"warning: the {self.name} mirror stopped: {said}. {BY_SYNC}",
                file=sys.stderr,
            )
        finally:
            self._done.set()


_mirrors: list[Mirror] = []  # of this process, while they have something to do
_watches: list[threading.Thread] = []


def finish() -> None:
    """Let the mirrors catch up, once for all of them; Ctrl-C leaves them as they are.

    Short runs end before their tracker has opened.
    """
    begin = time.monotonic()
    try:
        for mirror in _mirrors:
            mirror.wait(begin + QUIET_SECONDS - time.monotonic())
        if late := _at_work():
            print(f"waiting up to {PATIENCE_SECONDS:g} s for the {late} mirror", file=sys.stderr)
        for mirror in _mirrors:
            mirror.wait(begin + PATIENCE_SECONDS - time.monotonic())
    except KeyboardInterrupt:
        pass
    if late := _at_work():
        print(f"warning: the {late} mirror is not done. {BY_SYNC}", file=sys.stderr)
    _mirrors.clear()


def _at_work() -> str:
    return " and the ".join(sorted({m.name for m in _mirrors if m.at_work}))


def _finish_after_main() -> None:
    threading.main_thread().join()
    finish()


def _watch_main() -> None:
    """Have `finish` called when the process ends.

    A thread that the interpreter waits for, and not atexit: what a tracker registers there while it
    opens would come before, and wandb takes its service down so, under a run it is still opening.
    """
    if not any(t.is_alive() for t in _watches):  # a fork has none
        _watches[:] = [threading.Thread(target=_finish_after_main, daemon=False)]
        _watches[0].start()


def read_metrics(path: Path) -> list[Line]:
    """The lines of a metrics.jsonl up to one cut short by a kill; none where there is no file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    lines: list[Any] = []
    for row in text.splitlines():
        try:
            lines.append(json.loads(row))
        except (ValueError, RecursionError):
            break
    return [x for x in lines if isinstance(x, dict) and type(x.get("step")) is int]

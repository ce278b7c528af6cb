"""Mirror metrics.jsonl to Weights & Biases and TensorBoard.

metrics.jsonl is the record of a run; `replay` sends its lines to a tracker. While a run trains, each
tracker has a process of its own that follows the file:

    python -P -m chinchilla.tracking.mirror JOB     (JSON; its standard input is closed at the end of training)

The training process never imports or calls a tracker, so one that hangs, fails or is missing cannot
affect training. Afterwards `chinchilla sync` replays what a tracker has not received yet, as recorded
in the run's synced.json. Trackers read their API keys from their own environment variables; nothing
here reads or writes one.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import InputError, one_line
from chinchilla.core.files.folders import guard_of, register
from chinchilla.core.files.reading import LINE_BYTES, open_regular, read_json
from chinchilla.core.files.writing import make_dirs, write_json
from chinchilla.core.module_path import exclude_working_folder
from chinchilla.core.program import run_program
from chinchilla.core.terminal import print_message
from chinchilla.plan.records import RunSpec

POLL_SECONDS = 0.5  # between two reads of metrics.jsonl
TIMEOUT_SECONDS = 10.0  # for a tracker to finish after training has ended
SILENT_SECONDS = 1.0  # wait after which a message names the trackers

# One line of metrics.jsonl: step (optimizer steps done), tokens, loss, lr, ...
Line = dict[str, Any]
# Functions of an open tracker: send one line; send the run's result and close it.
Tracker = tuple[Callable[[Line], None], Callable[[Line], None]]


@dataclass(frozen=True)
class Target:
    """Where to send metrics."""

    tracker: str  # wandb or tensorboard
    project: str = "chinchilla"  # in Weights & Biases
    mode: str = "online"  # of Weights & Biases: online or offline

    @property
    def key(self) -> str:
        """Name of this target in synced.json."""
        if self.tracker == "tensorboard":
            return self.tracker
        host = os.environ.get("WANDB_BASE_URL") or "wandb.ai"
        return f"wandb {self.mode} {host} {self.project}"


def _open_wandb(run_dir: Path, spec: RunSpec, target: Target) -> Tracker:
    """Each run of a sweep is one run in Weights & Biases, also if it is resumed."""
    import wandb

    make_dirs(run_dir / "wandb")  # not through a link
    run = wandb.init(
        project=target.project,
        mode=target.mode,  # type: ignore[arg-type]
        dir=str(run_dir),
        id=wandb_id(spec),
        name=spec.run_id,
        group=spec.sweep,
        config=describe(spec),
        resume="allow" if target.mode == "online" else None,
        reinit="create_new",
        settings=wandb.Settings(silent=True, console="off"),
    )

    def log(line: Line) -> None:
        run.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])

    def close(summary: Line) -> None:
        if summary:
            run.summary.update(summary)
        run.finish()

    return log, close


def _open_tensorboard(run_dir: Path, spec: RunSpec, first_step: int) -> Tracker:
    """Event files in <run>/tensorboard; needs the package tensorboard."""
    from torch.utils.tensorboard.writer import SummaryWriter

    make_dirs(run_dir / "tensorboard")  # not through a link
    writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step)
    writer.add_text("spec", json.dumps(describe(spec)))

    def add(line: Line, prefix: str = "", step: int | None = None) -> None:
        for key, value in line.items():
            if key != "step" and isinstance(value, int | float):
                writer.add_scalar(prefix + key, value, step)

    def close(summary: Line) -> None:
        add(summary, "final/")
        writer.close()

    return lambda line: add(line, step=line["step"]), close


def wandb_id(spec: RunSpec) -> str:
    """Id in Weights & Biases: the same at every start of a run, different between sweeps."""
    return re.sub(r"[^\w.-]", "-", f"{spec.sweep}-{spec.run_id}")[-128:]


def describe(spec: RunSpec) -> Line:
    """A run's spec with N, D and C, for the tracker's table of runs."""
    return {**spec.to_dict(), "run_id": spec.run_id, "N": spec.N, "D": spec.D, "C": spec.C}


def replay(
    run_dir: Path,
    spec: RunSpec,
    target: Target,
    lines: Iterable[Line],
    *,
    after_step: int,
    summary: Line,
) -> None:
    """Send lines of metrics.jsonl to a tracker and record in synced.json that it has them.

    Args:
        run_dir: folder of the run.
        spec: the run.
        target: the tracker.
        lines: the lines to send.
        after_step: last step that the tracker has; TensorBoard discards later ones.
        summary: the run's result; empty while it has none.
    """
    if target.tracker == "wandb":
        log, close = _open_wandb(run_dir, spec, target)
    else:
        log, close = _open_tensorboard(run_dir, spec, after_step + 1)
    step = after_step
    for line in lines:
        log(line)
        step = line["step"]
    close(summary)
    record = {"step": step, "result": bool(summary), "id": wandb_id(spec)}
    write_json(run_dir / "synced.json", {**_read_synced(run_dir), target.key: record})


def synced(run_dir: Path, target: Target) -> dict[str, Any]:
    """The last `step` of a run that a tracker has, and whether it has the `result`; or {}.

    TensorBoard has nothing if its folder holds no event file.
    """
    if target.tracker == "tensorboard" and not any((run_dir / "tensorboard").glob("*tfevents*")):
        return {}
    record = _read_synced(run_dir).get(target.key)
    return record if isinstance(record, dict) and type(record.get("step", 0)) is int else {}


def _read_synced(run_dir: Path) -> dict[str, Any]:
    with contextlib.suppress(InputError):
        value = read_json(run_dir / "synced.json", "record of synced steps")
        return value if isinstance(value, dict) else {}
    return {}


def read_metrics(path: Path) -> Iterator[Line]:
    """Yield the complete lines of a metrics.jsonl; none without a file. Damaged lines are left out.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with open_regular(path) as f:
            for text in _texts(f):
                if line := _parsed(text):
                    yield line
    except FileNotFoundError:
        return


def _texts(f: BinaryIO) -> Iterator[bytes]:
    """The lines of a file from its position; an empty one in the place of one of over LINE_BYTES."""
    while text := f.readline(LINE_BYTES):
        is_long = False
        while len(text) == LINE_BYTES and not text.endswith(b"\n"):
            is_long, text = True, f.readline(LINE_BYTES)
        if not is_long:
            yield text
        elif text.endswith(b"\n"):
            yield b"\n"


def _parsed(text: bytes) -> Line | None:
    """A line of metrics.jsonl; None if it is damaged."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        if isinstance(value, dict) and type(value.get("step")) is int:
            return value
    return None


def follow(path: Path, after_step: int, ended: threading.Event) -> Iterator[Line]:
    """Yield the lines of a growing metrics.jsonl until `ended` is set and all lines are read."""
    position, last = 0, False
    while not last:
        last = ended.is_set()  # before the read, so that no line is missed
        with open_regular(path) as f:
            f.seek(position)
            for text in _texts(f):
                if not text.endswith(b"\n"):  # incomplete
                    break
                position = f.tell()
                line = _parsed(text)
                if line and line["step"] > after_step:
                    yield line
        if not last:
            ended.wait(POLL_SECONDS)


_processes: dict[subprocess.Popen[bytes], str] = {}  # mirrors of this process, with their trackers


def start_mirrors(
    run_dir: Path, spec: RunSpec, runtime: RuntimeConfig
) -> list[subprocess.Popen[bytes]]:
    """Start a process for each tracker that `runtime` names. Failures are printed, not raised.

    Closing the standard input of a process tells it that training has ended: it sends the remaining
    lines and exits.
    """
    targets, guard = [], guard_of(run_dir)
    if runtime.wandb != "disabled":
        targets.append(Target("wandb", runtime.wandb_project, runtime.wandb))
    if runtime.tensorboard:
        targets.append(Target("tensorboard"))
    for ended in [process for process in _processes if process.poll() is not None]:
        del _processes[ended]
    started = []
    for target in targets:
        job = {
            "run_dir": str(run_dir.resolve()),
            "spec": spec.to_dict(),
            "target": asdict(target),
            "timeout_seconds": TIMEOUT_SECONDS,
            "guard": [str(guard.root), guard.identity] if guard else [],
        }
        # Slurm sends its warnings to every process of a job; they must not end the mirror.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "chinchilla.tracking.mirror", json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # so that Ctrl-C does not reach it
            )
            started.append(process)
            _processes[process] = target.tracker
        except OSError as error:
            _warn(target.tracker, f"did not start ({error})")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return started


def wait_for_mirrors() -> None:
    """Give the mirrors of this process time to finish; Ctrl-C stops the wait.

    Each mirror ends by itself at most TIMEOUT_SECONDS after its run.
    """
    start = time.monotonic()

    def running(seconds: float) -> list[str]:
        """Wait until this long after the start; trackers of processes that have not ended."""
        for process in _processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, start + seconds - time.monotonic()))
        return sorted({name for p, name in _processes.items() if p.poll() is None})

    for process in _processes:
        assert process.stdin is not None
        process.stdin.close()
    with contextlib.suppress(KeyboardInterrupt):
        if late := running(SILENT_SECONDS):
            text = f"waiting up to {TIMEOUT_SECONDS:g} s for {' and '.join(late)}"
            print_message(text, file=sys.stderr)
            running(TIMEOUT_SECONDS + SILENT_SECONDS)
    _processes.clear()


def _warn(tracker: str, problem: str) -> None:
    text = f"warning: the {tracker} mirror {problem.rstrip(' .:')}. Run `chinchilla sync` to send the rest."
    print_message(text, file=sys.stderr)


def main() -> int:
    """Follow one run until standard input closes because training has ended or was killed."""
    job = json.loads(sys.argv[1])
    run_dir, target = Path(job["run_dir"]), Target(**job["target"])
    ended = threading.Event()

    def watch_training() -> None:
        sys.stdin.read()
        ended.set()
        time.sleep(job["timeout_seconds"])
        _warn(target.tracker, f"did not finish in {job['timeout_seconds']:g} s")
        os._exit(1)

    threading.Thread(target=watch_training, daemon=True).start()
    try:
        if job["guard"]:
            register(Path(job["guard"][0]), job["guard"][1])
        spec = RunSpec.from_dict(job["spec"], "mirror")
        step = synced(run_dir, target).get("step", 0)
        lines = follow(run_dir / "metrics.jsonl", step, ended)
        replay(run_dir, spec, target, lines, after_step=step, summary={})
    except Exception as error:
        _warn(target.tracker, f"stopped: {type(error).__name__}: {one_line(error)}")
        return 1
    return 0


if __name__ == "__main__":
    exclude_working_folder()
    sys.exit(run_program(main))

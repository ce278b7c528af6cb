"""Mirror metrics.jsonl to Weights & Biases and TensorBoard.

metrics.jsonl is the record of a run; `replay` sends its lines to a tracker. While a run trains, each
tracker has a process of its own that follows the file:

    python -m chinchilla.tracking.mirror JOB     (JSON; its standard input is closed at the end of training)

The training process never imports or calls a tracker, so one that hangs, fails or is missing cannot
affect training. Afterwards `chinchilla sync` replays what a tracker has not received yet, as recorded
in the run's synced.json. Trackers read their API keys from their own environment variables; nothing
here reads or writes one.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import InputError, one_line
from chinchilla.core.files import read_json, write_json
from chinchilla.plan.records import RunSpec

POLL_SECONDS = 0.5  # between two reads of metrics.jsonl
TIMEOUT_SECONDS = 10.0  # for a tracker to finish after training has ended
SILENT_SECONDS = 1.0  # wait after which a message names the trackers
SYNC_HINT = "Run `chinchilla sync` to send the rest."

# One line of metrics.jsonl: step (optimizer steps done), tokens, loss, lr, ...
Line = dict[str, Any]


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


class WandbTracker:
    """Weights & Biases: each run of a sweep is one run there, also if it is resumed."""

    def __init__(self, run_dir: Path, spec: RunSpec, project: str, mode: str) -> None:
        import wandb

        self.run = wandb.init(
            project=project,
            mode=mode,  # type: ignore[arg-type]
            dir=str(run_dir),
            id=wandb_id(spec),
            name=spec.run_id,
            group=spec.sweep,
            config=describe(spec),
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, line: Line) -> None:
        self.run.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])

    def close(self, summary: Line) -> None:
        if summary:
            self.run.summary.update(summary)
        self.run.finish()


class TensorboardTracker:
    """TensorBoard event files in <run>/tensorboard; needs the package tensorboard."""

    def __init__(self, run_dir: Path, spec: RunSpec, first_step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step)
        self.writer.add_text("spec", json.dumps(describe(spec)))

    def log(self, line: Line) -> None:
        for key, value in line.items():
            if key != "step" and isinstance(value, int | float):
                self.writer.add_scalar(key, value, line["step"])

    def close(self, summary: Line) -> None:
        for key, value in summary.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(f"final/{key}", value)
        self.writer.close()


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
    tracker: WandbTracker | TensorboardTracker
    if target.tracker == "wandb":
        tracker = WandbTracker(run_dir, spec, target.project, target.mode)
    else:
        tracker = TensorboardTracker(run_dir, spec, after_step + 1)
    step = after_step
    for line in lines:
        tracker.log(line)
        step = line["step"]
    tracker.close(summary)
    record = {"step": step, "result": bool(summary), "id": wandb_id(spec)}
    write_json(run_dir / "synced.json", {**_read_synced(run_dir), target.key: record})


def synced(run_dir: Path, target: Target) -> dict[str, Any]:
    """The last `step` of a run that a tracker has, and whether it has the `result`; or {}."""
    record = _read_synced(run_dir).get(target.key)
    if isinstance(record, dict) and type(record.get("step")) is int:
        return record
    return {}


def _read_synced(run_dir: Path) -> dict[str, Any]:
    try:
        value = read_json(run_dir / "synced.json", "record of synced steps")
    except InputError:
        return {}
    return value if isinstance(value, dict) else {}


def read_metrics(path: Path) -> list[Line]:
    """The lines of a metrics.jsonl before the first incomplete one; [] without a file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None


def _parse(text: bytes) -> list[Line]:
    lines: list[Any] = []
    for row in text.decode(errors="replace").splitlines():
        try:
            lines.append(json.loads(row))
        except (ValueError, RecursionError):
            break
    return [x for x in lines if isinstance(x, dict) and type(x.get("step")) is int]


def follow(path: Path, after_step: int, ended: threading.Event) -> Iterator[Line]:
    """Yield the lines of a growing metrics.jsonl until `ended` is set and all lines are read."""
    position, last = 0, False
    while not last:
        last = ended.is_set()  # before the read, so that no line is missed
        with open(path, "rb") as f:
            f.seek(position)
            text = f.read()
        text = text[: text.rfind(b"\n") + 1]
        position += len(text)
        yield from (line for line in _parse(text) if line["step"] > after_step)
        if not last:
            ended.wait(POLL_SECONDS)


class MirrorProcess:
    """A process that follows the metrics.jsonl of one run for one tracker."""

    def __init__(self, run_dir: Path, spec: RunSpec, target: Target) -> None:
        self.tracker = target.tracker
        job = {
            "run_dir": str(run_dir.resolve()),
            "spec": spec.to_dict(),
            "target": asdict(target),
            "timeout_seconds": TIMEOUT_SECONDS,
        }
        # Slurm sends its warnings to every process of a job; they must not end the mirror.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chinchilla.tracking.mirror", json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # so that Ctrl-C does not reach it
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def training_ended(self) -> None:
        """Let the process send the remaining lines and exit; does not wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self, deadline: float) -> bool:
        """Wait until `deadline` (time.monotonic); return whether the process has ended."""
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True


_processes: list[MirrorProcess] = []


def start_mirrors(run_dir: Path, spec: RunSpec, runtime: RuntimeConfig) -> list[MirrorProcess]:
    """Start a mirror for each tracker that `runtime` names. Failures are printed, not raised."""
    targets = []
    if runtime.wandb != "disabled":
        targets.append(Target("wandb", runtime.wandb_project, runtime.wandb))
    if runtime.tensorboard:
        targets.append(Target("tensorboard"))
    started = []
    for target in targets:
        try:
            started.append(MirrorProcess(run_dir, spec, target))
        except OSError as error:
            print(_warning(target.tracker, f"did not start ({error})"), file=sys.stderr)
    _processes[:] = [m for m in _processes if m.process.poll() is None] + started
    return started


def wait_for_mirrors() -> None:
    """Give the mirrors of this process time to finish; Ctrl-C stops the wait.

    Each mirror ends by itself at most TIMEOUT_SECONDS after its run.
    """
    for mirror in _processes:
        mirror.training_ended()
    start = time.monotonic()
    try:
        late = [m for m in _processes if not m.wait(start + SILENT_SECONDS)]
        if late:
            names = " and ".join(sorted({m.tracker for m in late}))
            print(f"waiting up to {TIMEOUT_SECONDS:g} s for {names}", file=sys.stderr)
        for mirror in late:
            mirror.wait(start + TIMEOUT_SECONDS + SILENT_SECONDS)
    except KeyboardInterrupt:
        pass
    _processes.clear()


def _warning(tracker: str, problem: str) -> str:
    return f"warning: the {tracker} mirror {problem.rstrip(' .:')}. {SYNC_HINT}"


def main() -> None:
    """Follow one run until standard input closes because training has ended or was killed."""
    job = json.loads(sys.argv[1])
    run_dir, target = Path(job["run_dir"]), Target(**job["target"])
    ended = threading.Event()

    def watch_training() -> None:
        sys.stdin.read()
        ended.set()
        time.sleep(job["timeout_seconds"])
        text = _warning(target.tracker, f"did not finish in {job['timeout_seconds']:g} s")
        print(text, file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch_training, daemon=True).start()
    try:
        spec = RunSpec.from_dict(job["spec"], "mirror")
        step = synced(run_dir, target).get("step", 0)
        lines = follow(run_dir / "metrics.jsonl", step, ended)
        replay(run_dir, spec, target, lines, after_step=step, summary={})
    except Exception as error:
        problem = f"stopped: {type(error).__name__}: {one_line(error)}"
        print(_warning(target.tracker, problem), file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""`chinchilla sync`: a sweep's metrics.jsonl and results into a tracker, as often as one likes.

runs/<run_id>/synced.json remembers, for each tracker and place, the last step that was brought and
whether the result was, so that a second call brings only what is new. A run that was started again from an
older checkpoint has written the same steps anew, with the same numbers.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json, write_json
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep.retry import find_runs
from chinchilla.sweep.run_files import planned_specs, run_dir_of
from chinchilla.tracking.mirror import (
    Line,
    TensorboardTracker,
    Tracker,
    WandbTracker,
    read_metrics,
    wandb_id,
)

LEDGER = "synced.json"


@dataclass
class Synced:
    """What one call brought."""

    to: str
    runs: dict[str, int] = field(default_factory=dict)  # run id -> lines brought
    unchanged: int = 0  # runs that had nothing new
    without: int = 0  # runs that have measured nothing yet

    @property
    def lines(self) -> int:
        return sum(self.runs.values())

    def text(self) -> str:
        text = f"{self.to}: {self.lines} lines of {len(self.runs)} runs brought"
        for n, what in ((self.unchanged, "had nothing new"), (self.without, "have measured nothing yet")):  # fmt: skip
            text += f", {n} {what}" if n else ""
        return text + "."


def sync(
    sweep_dir: Path,
    to: str = "wandb",
    *,
    project: str = "chinchilla",
    mode: str = "online",
    runs: list[str] | None = None,
    again: bool = False,
) -> Synced:
    """Bring what is new of a sweep into a tracker.

    Args:
        sweep_dir: the sweep's folder.
        to: wandb or tensorboard.
        project: the project in Weights & Biases.
        mode: online, or offline: files under each run that `wandb sync` uploads later.
        runs: ids, or beginnings of them; default: the whole plan.
        again: from the first step on, whatever was brought before.

    Raises:
        InputError: the tracker is missing or refuses; what was brought before it did stays brought.
    """
    place = f"wandb {mode} {_host()} {project}" if to == "wandb" else "tensorboard"
    done = Synced(to)
    for spec in find_runs(sweep_dir, runs) if runs else planned_specs(sweep_dir):
        run_dir = run_dir_of(sweep_dir, spec)
        lines, summary = read_metrics(run_dir / "metrics.jsonl"), _summary(run_dir)
        if not lines:
            done.without += 1
            continue
        ledger = _ledger(run_dir)
        known = {} if again else ledger.get(place, {})
        new = [line for line in lines if line["step"] > known.get("step", 0)]
        if not new and (not summary or known.get("result")):
            done.unchanged += 1
            continue
        _bring(run_dir, spec, to, project, mode, new, summary)
        ledger[place] = {"step": lines[-1]["step"], "result": bool(summary), "id": wandb_id(spec)}
        write_json(run_dir / LEDGER, ledger)
        done.runs[spec.run_id] = len(new)
    return done


def _bring(
    run_dir: Path, spec: RunSpec, to: str, project: str, mode: str, lines: list[Line], summary: Line
) -> None:
    opening: dict[str, Callable[[], Tracker]] = {
        "wandb": lambda: WandbTracker(run_dir, spec, project, mode),
        "tensorboard": lambda: TensorboardTracker(
            run_dir, spec, lines[0]["step"] if lines else None
        ),
    }
    try:
        tracker = opening[to]()
        for line in lines:
            tracker.log(line)
        tracker.close(summary)
    except ImportError as error:
        raise InputError(
            f"to={to}: {error}. Install it: pip install {to if to == 'tensorboard' else 'wandb'}."
        ) from None
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"to={to}: {type(error).__name__} at run {spec.run_id}: {said} Run the same command again "
            "to go on from there."
        ) from None


def _summary(run_dir: Path) -> Line:
    """What the run came to; empty while it has no result that can be read."""
    try:
        result = asdict(RunResult.load(run_dir))
    except (InputError, OSError):
        return {}
    return dict(_flat({k: v for k, v in result.items() if k not in ("spec", "schema")}))


def _flat(value: dict[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    for key, x in value.items():
        if isinstance(x, dict):
            yield from _flat(x, f"{head}{key}.")
        else:
            yield f"{head}{key}", x


def _ledger(run_dir: Path) -> dict[str, dict[str, Any]]:
    """What was brought before; nothing where the file cannot say."""
    try:
        value = read_json(run_dir / LEDGER, "record of what was brought")
    except InputError:
        return {}
    if not isinstance(value, dict):
        return {}
    return {
        place: known
        for place, known in value.items()
        if isinstance(known, dict) and type(known.get("step")) is int
    }


def _host() -> str:
    """Where Weights & Biases is: its own public service, or the one the environment names."""
    return os.environ.get("WANDB_BASE_URL", "") or "wandb.ai"

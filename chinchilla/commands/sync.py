"""The command `sync`: send a sweep's metrics to a tracker."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.core.errors import EXIT_FAILED, EXIT_OK, InputError, one_line
from chinchilla.core.files.folders import register
from chinchilla.core.files.writing import clean_leftovers
from chinchilla.core.terminal import print_error, print_message
from chinchilla.plan.records import RunResult, RunSpec


def sync(command: config.SyncCommand) -> int:
    """Send what is new of a sweep to Weights & Biases or TensorBoard.

    A run whose files cannot be read or written is named, and the others are sent; the exit code is then 1.
    """
    from chinchilla.sweep.damage.access import blocked_reason
    from chinchilla.sweep.damage.repair import repair_mirror
    from chinchilla.sweep.retry import find_runs
    from chinchilla.sweep.run_files import planned_specs, run_dir_of
    from chinchilla.tracking.mirror import Target, read_metrics, synced

    sweep_dir = Path(command.sweep_dir)
    register(sweep_dir)
    specs = find_runs(sweep_dir, command.runs) if command.runs else planned_specs(sweep_dir)
    target = Target(command.to, command.wandb_project, command.wandb)
    sent: dict[str, int] = {}  # run id -> lines
    problems: dict[str, str] = {}
    n_unchanged = n_without = 0
    for spec in specs:
        run_dir = run_dir_of(sweep_dir, spec)
        path = run_dir / "metrics.jsonl"
        try:
            clean_leftovers(run_dir)
            summary, before = _summary(run_dir), synced(run_dir, target)
            step = before.get("step", 0)
            is_new = Counter(line["step"] > step for line in read_metrics(path))
            if not is_new:
                n_without += 1
            elif not is_new[True] and (not summary or before.get("result")):
                n_unchanged += 1
            else:
                repair_mirror(run_dir, command.to)
                new = (line for line in read_metrics(path) if line["step"] > step)
                _replay(run_dir, spec, target, new, after_step=step, summary=summary)
                sent[spec.run_id] = is_new[True]
        except OSError as error:
            problems[spec.run_id] = blocked_reason(error, run_dir)
    for run_id, problem in problems.items():
        print_error(f"run {run_id} was not sent: {problem}")
    code = EXIT_FAILED if problems else EXIT_OK
    if command.format == "json":
        counts = {"unchanged": n_unchanged, "without": n_without, "blocked": [*problems]}
        return print_json({"to": command.to, "runs": sent, **counts}) or code
    text = f"{command.to}: sent {sum(sent.values())} lines of {len(sent)} runs"
    text += f"; {n_unchanged} had nothing new" if n_unchanged else ""
    text += f"; {n_without} have no metrics yet" if n_without else ""
    print_message(f"{text}.")
    if command.to == "tensorboard" and sent:
        print_message(f"To view them: tensorboard --logdir {sweep_dir / 'runs'}")
    return code


def _replay(run_dir: Path, spec: RunSpec, target: Any, *args: Any, **settings: Any) -> None:
    """`replay`, with its failures as an InputError, except for those of files."""
    from chinchilla.tracking.mirror import replay

    try:
        replay(run_dir, spec, target, *args, **settings)
    except ImportError as error:
        raise InputError(
            f"to={target.tracker}: {error}. Install it: pip install {target.tracker}."
        ) from None
    except (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError):
        raise
    except Exception as error:
        message = one_line(error, 300)
        raise InputError(
            f"to={target.tracker}: {type(error).__name__} at run {spec.run_id}: {message} Run the "
            "same command again to continue."
        ) from None


def _summary(run_dir: Path) -> dict[str, Any]:
    """The run's result with nested keys joined by dots; empty if there is none to read."""
    try:
        result = dataclasses.asdict(RunResult.load(run_dir))
    except (InputError, OSError):
        return {}
    return dict(_flat({k: v for k, v in result.items() if k not in ("spec", "schema")}))


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, x in value.items():
        if isinstance(x, dict):
            yield from _flat(x, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", x

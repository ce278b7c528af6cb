"""Make failed or diverged runs trainable again. Their results are renamed, never deleted."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from chinchilla.config.words import shell_word
from chinchilla.core.errors import InputError, nearest
from chinchilla.core.files import rename
from chinchilla.core.folders import register
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.claims import acquire
from chinchilla.sweep.preflight import worker_name
from chinchilla.sweep.run_files import (
    DamagedResult,
    load_result,
    planned_specs,
    run_dir_of,
    unmark_ended,
)

# Also renamed for a diverged run: from its checkpoints it would diverge again.
DIVERGED_FILES = ("checkpoints", "metrics.jsonl", "curve.npz")


def find_runs(sweep_dir: Path, names: Sequence[str]) -> list[RunSpec]:
    """The plan's runs with these ids or unique prefixes of ids.

    Raises:
        InputError: no run or several runs match, or there is no plan.
    """
    specs = {s.run_id: s for s in planned_specs(sweep_dir)}
    runs = []
    for name in names:
        matches = [name] if name in specs else [r for r in specs if name and r.startswith(name)]
        if len(matches) != 1:
            problem = (
                f"{len(matches)} runs match, such as {matches[0]}" if matches else "no such run"
            )
            raise InputError(
                f"run {name!r}: {problem}.{'' if matches else nearest(name, specs)} "
                f"`chinchilla status {shell_word(sweep_dir)}` lists them."
            )
        runs.append(specs[matches[0]])
    return runs


def retry(
    sweep_dir: Path, runs: Sequence[str] = (), diverged: bool = False
) -> dict[str, list[str]]:
    """Make failed runs of a sweep trainable again.

    Args:
        sweep_dir: the sweep's folder.
        runs: ids or unique prefixes; default: every failed run.
        diverged: include diverged runs, which start from scratch.

    Returns:
        Run ids: `again`, trainable again; `busy`, claimed by another process at the moment;
        `kept_diverged`, diverged and not requested.

    Raises:
        InputError: no such run, or a named run has not failed.
    """
    register(sweep_dir)
    statuses = ("failed", "damaged", *(["diverged"] if diverged else []))
    specs = find_runs(sweep_dir, runs) if runs else planned_specs(sweep_dir)
    states = {s.run_id: state_of(run_dir_of(sweep_dir, s)) for s in specs}
    for run_id, state in states.items():
        if runs and state not in statuses:
            hint = {
                "diverged": "Set diverged=true to train it from scratch.",
                "finished": "To train another seed, plan another run (recipe.seed).",
                "": "It has no result yet: launch the sweep.",
            }[state]
            raise InputError(f"run {run_id} is {state or 'unfinished'}, not failed. {hint}")
    selected = [s for s in specs if states[s.run_id] in statuses]
    renamed = {s.run_id: set_aside(run_dir_of(sweep_dir, s), statuses) for s in selected}
    return {
        "again": [run_id for run_id, done in renamed.items() if done],
        "busy": [run_id for run_id, done in renamed.items() if not done],
        "kept_diverged": [] if diverged else [r for r, s in states.items() if s == "diverged"],
    }


def state_of(run_dir: Path) -> str:
    """Status in result.json: finished, diverged, failed or damaged; "" without a result.

    Raises:
        InputError: the result was written by another version.
    """
    try:
        result = load_result(run_dir)
    except DamagedResult:
        return "damaged"
    return result.status if result else ""


def set_aside(run_dir: Path, statuses: Collection[str] = ("failed", "damaged")) -> bool:
    """Rename a run's result to result-failed-<n>.json, if it has one of `statuses`, and its files.

    Files are renamed under a claim, so that no other process writes to the folder. result.json is
    renamed last: if this process dies before that, the next call finds it and continues.

    Returns:
        Whether it was renamed.
    """
    if state_of(run_dir) not in statuses:
        return False
    claim = acquire(run_dir, worker_name(), to_train=False)
    if claim is None:
        return False
    try:
        state = state_of(run_dir)  # another process may have been faster
        if state not in statuses:
            return False
        label, k = "diverged" if state == "diverged" else "failed", 1
        while (run_dir / f"result-{label}-{k}.json").exists():
            k += 1
        extra = DIVERGED_FILES if state == "diverged" else ()
        unmark_ended(run_dir)
        for name in ("attempts", "error.txt", *extra, "result.json"):
            stem, dot, suffix = name.partition(".")
            if os.path.lexists(run_dir / name):
                rename(run_dir / name, run_dir / f"{stem}-{label}-{k}{dot}{suffix}")
        unmark_ended(run_dir)
        return True
    finally:
        claim.release()

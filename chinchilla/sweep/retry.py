"""Make failed, diverged or damaged runs trainable again. Their results are renamed, never deleted."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from chinchilla.config.command_line.words import shell_word
from chinchilla.core.errors import InputError, nearest
from chinchilla.core.files.folders import register
from chinchilla.core.files.writing import rename
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.claims import acquire
from chinchilla.sweep.damage.access import blocked_reason, restore_access
from chinchilla.sweep.damage.repair import ALL, MIRRORS, warn
from chinchilla.sweep.damage.run_state import run_state, runs_to_train
from chinchilla.sweep.preflight import worker_name
from chinchilla.sweep.run_files import clean_sweep, planned_specs, run_dir_of, unmark_ended

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
        `kept_diverged`, diverged and not requested; `blocked`, with files that only a person can correct.

    Raises:
        InputError: no such run, or a named run has not failed.
    """
    register(sweep_dir)
    statuses = ("failed", "damaged", *(["diverged"] if diverged else []))
    clean_sweep(sweep_dir)
    specs = find_runs(sweep_dir, runs) if runs else planned_specs(sweep_dir)
    found = {s.run_id: run_state(run_dir_of(sweep_dir, s), with_curve=True) for s in specs}
    states = {run_id: state.name for run_id, state in found.items()}
    for run_id, state in states.items():
        if runs and state not in statuses:
            hint = {
                "diverged": "Set diverged=true to train it from scratch.",
                "finished": "To train another seed, plan another run (recipe.seed).",
                "": "It has no result yet: launch the sweep.",
                "blocked": found[run_id].problem,
            }[state]
            raise InputError(f"run {run_id} is {state or 'unfinished'}, not failed. {hint}")
    selected = [s for s in specs if states[s.run_id] in statuses]
    renamed: dict[str, bool] = {}
    for spec in selected:
        try:
            renamed[spec.run_id] = set_aside(run_dir_of(sweep_dir, spec), statuses, with_curve=True)
        except OSError:  # as `status` explains
            states[spec.run_id] = "blocked"
    return {
        "again": [run_id for run_id, done in renamed.items() if done],
        "busy": [run_id for run_id, done in renamed.items() if not done],
        "kept_diverged": [] if diverged else [r for r, s in states.items() if s == "diverged"],
        "blocked": [run_id for run_id, state in states.items() if state == "blocked"],
    }


def make_trainable(sweep_dir: Path, specs: Sequence[RunSpec]) -> None:
    """Prepare the folders of runs for a launch: rename failed and damaged results, restore permissions.

    A warning states each run that is trained again, and why. A run that only a person can make trainable
    stays as it is.
    """
    for spec in runs_to_train(sweep_dir, specs):
        run_dir = run_dir_of(sweep_dir, spec)
        if not os.path.lexists(run_dir):
            continue
        try:
            if not os.access(run_dir, ALL) or run_state(run_dir).name == "blocked":
                restore_access(run_dir, skip=MIRRORS)
            state = run_state(run_dir)
            if set_aside(run_dir):
                cause = state.problem.removesuffix(": launch the sweep again")
                if state.result and state.name == "failed":
                    cause = f"it failed ({state.result.reason})"
                warn(
                    f"run {run_dir.name} is trained again, and its earlier files are kept: {cause}"
                )
        except OSError as error:
            warn(f"run {run_dir.name} is left as it is: {blocked_reason(error, run_dir)}")


def set_aside(
    run_dir: Path, statuses: Collection[str] = ("failed", "damaged"), with_curve: bool = False
) -> bool:
    """Rename a run's result to result-failed-<n>.json, if it has one of `statuses`, and its files.

    Files are renamed under a claim, so that no other process writes to the folder. result.json is
    renamed last: if this process dies before that, the next call finds it and continues.

    Args:
        run_dir: folder of the run.
        statuses: states of `run_state`.
        with_curve: as of `run_state`.

    Returns:
        Whether it was renamed.

    Raises:
        OSError: a file cannot be renamed.
    """
    if run_state(run_dir, with_curve).name not in statuses:
        return False
    claim = acquire(run_dir, worker_name(), to_train=False)
    if claim is None:
        return False
    try:
        found = run_state(run_dir, with_curve)  # another process may have been faster
        if found.name not in statuses:
            return False
        # Its curve is missing if a process was killed after renaming it.
        diverged = found.result is not None and found.result.status == "diverged"
        extra = DIVERGED_FILES if diverged else ()
        names = ("attempts", "error.txt", *extra, "result.json")
        left = [name for name in names if os.path.lexists(run_dir / name)]
        label, k = "diverged" if diverged else "failed", 1
        while any(os.path.lexists(run_dir / _kept(name, label, k)) for name in left):
            k += 1
        unmark_ended(run_dir)
        for name in left:
            rename(run_dir / name, run_dir / _kept(name, label, k))
        unmark_ended(run_dir)
        return True
    finally:
        claim.release()


def _kept(name: str, label: str, k: int) -> str:
    """Name under which a file of an earlier result is kept."""
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{label}-{k}{dot}{suffix}"

"""Runs that are over made trainable again; what they left is put aside, never deleted."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from chinchilla.core.errors import InputError, nearest
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep.claims import take
from chinchilla.sweep.hints import given
from chinchilla.sweep.preflight import worker_name
from chinchilla.sweep.run_files import has_result, is_damaged, planned_specs, run_dir_of

# A diverged run starts anew: its checkpoints lead to the same end, or hold it already.
STARTS_ANEW = ("checkpoints", "metrics.jsonl", "curve.npz")


@dataclass(frozen=True)
class Retried:
    """What `chinchilla retry` did; lists hold run ids."""

    again: list[str]  # trainable again
    busy: list[str]  # somebody else is at them just now
    kept_diverged: list[str]  # diverged, and not asked for
    kept: list[str]  # what the results of those that are trained again are called now

    @property
    def sentence(self) -> str:
        n = len(self.again)
        said = f"{n or 'no'} run{'' if n == 1 else 's'} will be trained again"
        if self.busy:
            said += f"; {len(self.busy)} are being looked at by somebody else: try again"
        if self.kept_diverged:
            said += f"; {len(self.kept_diverged)} diverged stay as they are (diverged=true retries them, too)"
        return said + "."


def find_runs(sweep_dir: Path, words: Sequence[str]) -> list[RunSpec]:
    """The plan's runs that are meant by their ids, or by the beginning of one each.

    Raises:
        InputError: none or several begin so; or no plan there.
    """
    specs = {s.run_id: s for s in planned_specs(sweep_dir)}
    found = []
    for word in words:
        meant = [word] if word in specs else [r for r in specs if word and r.startswith(word)]
        if len(meant) != 1:
            which = f"{len(meant)} runs begin so, such as {meant[0]}" if meant else "no run begins so"  # fmt: skip
            raise InputError(
                f"run {word!r}: {which}.{'' if meant else nearest(word, specs)} "
                f"`chinchilla status {given('sweep_dir', sweep_dir)}` lists them."
            )
        found.append(specs[meant[0]])
    return found


def retry(sweep_dir: Path, runs: Sequence[str] = (), diverged: bool = False) -> Retried:
    """Make failed runs of a sweep trainable again.

    Args:
        sweep_dir: the sweep's folder.
        runs: ids, or beginnings of them; default: every failed run.
        diverged: diverged runs too; they start anew.

    Raises:
        InputError: no such run, or one that is named has not failed.
    """
    statuses = ("failed", "diverged") if diverged else ("failed",)
    specs = find_runs(sweep_dir, runs) if runs else planned_specs(sweep_dir)
    states = {s.run_id: state_of(run_dir_of(sweep_dir, s)) for s in specs}
    if runs:
        wrong = {r: state for r, state in states.items() if state not in (*statuses, "damaged")}
        if wrong:
            run_id, state = next(iter(wrong.items()))
            hint = {
                "diverged": "Say diverged=true to train it anew.",
                "finished": "Its result stands; another seed is another run (recipe.seed).",
                "": "It has no result yet: launch the sweep.",
            }[state]
            raise InputError(f"run {run_id} is {state or 'not over'}, not failed. {hint}")
    asked = [s for s in specs if states[s.run_id] in (*statuses, "damaged")]
    done = {s.run_id: put_aside(run_dir_of(sweep_dir, s), statuses) for s in asked}
    return Retried(
        kept=sorted({name for name in done.values() if name}),
        again=[r for r, went in done.items() if went],
        busy=[r for r, went in done.items() if not went],
        kept_diverged=[] if diverged else [r for r, s in states.items() if s == "diverged"],
    )


def state_of(run_dir: Path) -> str:
    """finished, diverged, failed or damaged, as result.json says; "" if there is none.

    Raises:
        InputError: it is another version's.
    """
    if not has_result(run_dir):
        return ""
    try:
        return RunResult.load(run_dir).status
    except InputError:
        if is_damaged(run_dir):
            return "damaged"
        if not has_result(run_dir):  # somebody has put it aside just now
            return ""
        raise


def put_aside(run_dir: Path, statuses: Collection[str] = ("failed",)) -> str:
    """Move a run's result, if it has one of `statuses` or is damaged, and what belongs to it.

    Under a claim, so that nobody else writes there. result.json goes last: a death on the way
    leaves a run that is over, and the next call goes on.

    Returns:
        What its result is called now, "" when it was not moved.
    """
    if state_of(run_dir) not in (*statuses, "damaged"):
        return ""
    claim = take(run_dir, worker_name(), to_train=False)
    if claim is None:
        return ""
    try:
        state = state_of(run_dir)  # somebody may have been faster
        if state not in (*statuses, "damaged"):
            return ""
        k = 1
        while (run_dir / f"result-{_ending(state)}-{k}.json").exists():
            k += 1
        for name in (
            "attempts",
            "error.txt",
            *(STARTS_ANEW if state == "diverged" else ()),
            "result.json",
        ):
            stem, dot, kind = name.partition(".")
            if os.path.lexists(run_dir / name):
                os.rename(run_dir / name, run_dir / f"{stem}-{_ending(state)}-{k}{dot}{kind}")
        return f"result-{_ending(state)}-{k}.json"
    finally:
        claim.release()


def _ending(state: str) -> str:
    return "diverged" if state == "diverged" else "failed"

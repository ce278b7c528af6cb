"""Stable phases: the steps before a cool-down, trained once for all horizons (Haegele et al. 2024).

Before its cool-down a run of `schedule=cooldown` depends on everything in its spec but how far it
goes (`RunSpec.stable_phase`). One that reaches its cool-down leaves a checkpoint there,

    <sweep_dir>/stable_phases/<stable_phase_id>/step-00000080/

and one that starts without a checkpoint of its own goes on from the newest such step that is not
behind its cool-down's start: to the same bits on a CPU as if it had trained alone, its curve
included, because the losses so far are in the checkpoint. What is left there says nothing of who
left it, so that it does not matter which of several runs came first. All are kept: a horizon that is
planned later goes on from them. Deleting the folder costs nothing but training time.
"""

from dataclasses import replace
from pathlib import Path

from chinchilla.core.errors import InputError, one_line
from chinchilla.plan.records import RunSpec
from chinchilla.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from chinchilla.train.distributed import SINGLE, RankGroup

NOBODY = {"train_seconds": 0.0, "evaluations": []}  # progress that is anybody's


def load_stable_phase(
    stable_phases: Path, spec: RunSpec, tokenizer: str = "", ranks: RankGroup = SINGLE
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of its stable phase that `spec` can start from; a line for each damaged one.

    Args:
        stable phases: folder of the sweep's stable phases.
        spec: the run that starts.
        tokenizer: SHA-256 of the tokenizer that made the data.
        ranks: those that load together; each gets its rows.
    """
    if spec.stable_phase is None:
        return None, []
    folder = stable_phases / spec.stable_phase_id
    try:
        return load_checkpoint(
            folder, spec.stable_phase, tokenizer, ranks, max_step=spec.stable_steps
        )
    except InputError as error:  # of another version: then this run trains alone
        if ranks.world_size > 1:
            raise
        return None, [one_line(error)]


def save_stable_phase(
    stable_phases: Path,
    spec: RunSpec,
    checkpoint: Checkpoint,
    tokenizer: str = "",
    ranks: RankGroup = SINGLE,
) -> None:
    """Leave the state at the start of `spec`'s cool-down for other horizons.

    Raises:
        OSError: no room for it.
    """
    assert spec.stable_phase is not None
    assert checkpoint.step == spec.stable_steps, (checkpoint.step, spec.stable_steps)
    anybodys = replace(checkpoint, progress=NOBODY)
    save_checkpoint(
        stable_phases / spec.stable_phase_id, spec.stable_phase, anybodys, tokenizer, ranks, keep_all=True
    )  # fmt: skip

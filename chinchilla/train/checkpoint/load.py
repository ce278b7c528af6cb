"""Load the newest intact checkpoint of a run, on one rank or on several."""

import functools
from concurrent.futures import wait
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError

from chinchilla.core.files.writing import clean_leftovers
from chinchilla.plan.records import RunSpec
from chinchilla.train.checkpoint.files import (
    OPTIMIZER,
    WEIGHTS,
    Checkpoint,
    Damaged,
    newest_first,
    read_rows,
    read_state,
    refuse_another,
    set_aside,
    shard_file,
    step_of,
    verify,
)
from chinchilla.train.checkpoint.host import POLL_SECONDS, in_thread
from chinchilla.train.distributed import SINGLE, RankGroup


def load_checkpoint(
    folder: Path,
    spec: RunSpec,
    group: RankGroup = SINGLE,
    max_step: int | None = None,
) -> tuple[Checkpoint | None, list[str]]:
    """Load the newest intact checkpoint.

    Temporary folders of killed processes are deleted, and damaged checkpoints renamed.

    Args:
        folder: the run's checkpoints.
        spec: the run.
        group: the ranks that load together; each gets its rows.
        max_step: ignore later checkpoints; None = no limit.

    Returns:
        The checkpoint, or None if there is none, and a warning for each that could not be used.

    Raises:
        InputError: the newest intact checkpoint belongs to another spec or version.
    """
    if group.rank == 0:
        clean_leftovers(folder)
    paths = [p for p in newest_first(folder) if max_step is None or step_of(p) <= max_step]
    warnings: list[str] = []
    for name in group.gather([path.name for path in paths])[0]:  # as rank 0 lists them
        path = folder / name
        checkpoint: Checkpoint | None = None
        problem: _Problem | None = None
        # Parts of ranks take different times, and a collective has a time limit.
        reading = in_thread(functools.partial(_read, path, spec, group))
        while any(group.any_rank(not reading.done())):
            wait([reading], timeout=POLL_SECONDS)
        with group.raise_together():
            try:
                checkpoint = reading.result()
            except Damaged as error:
                problem = _Problem(0, True, str(error))
            except SafetensorError as error:  # possibly of a file whose hash another rank checks
                problem = _Problem(1, True, str(error))
            except OSError as error:  # an error of the file server does not prove damage
                problem = _Problem(2, False, str(error))
        problems = [_Problem(*p) for p in group.gather(problem) if p]
        if not problems:
            return checkpoint, warnings
        first = min(problems)
        state = "is damaged" if first.damaged else "cannot be read"
        warnings.append(f"checkpoint {path} {state} ({first.reason}); trying an older one.")
        if group.rank == 0 and first.damaged:
            set_aside(path)
    if warnings:
        warnings.append(
            f"no checkpoint in {folder} can be used: the run starts from the beginning."
        )
    return None, warnings


class _Problem(NamedTuple):
    """Why a rank could not read a checkpoint; of all ranks' problems the smallest counts."""

    order: int  # damage that was proved comes before errors that it may have caused on other ranks
    damaged: bool
    reason: str


def _read(path: Path, spec: RunSpec, group: RankGroup) -> Checkpoint:
    """Verify this rank's part of the files, then read this rank's rows of all of them."""
    n_shards = verify(path, group)
    state = read_state(path)
    refuse_another(path, state, spec)
    weights, optimizer = (
        read_rows([path / shard_file(name, i, n_shards) for i in range(n_shards)], group)
        for name in (WEIGHTS, OPTIMIZER)
    )
    return Checkpoint(state["step"], weights, optimizer, state["progress"])

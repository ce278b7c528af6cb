"""Names of checkpoints and how many a run keeps, for readers that do not load torch."""

import re

KEPT_CHECKPOINTS = 2  # of a run in training: the newest and the one before it
_NAME = re.compile(r"step-(\d{8,18})")


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def checkpoint_step(name: str) -> int | None:
    """Updates done, from the name of a checkpoint's folder; None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None

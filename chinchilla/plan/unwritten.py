"""Curves of finished runs that are not written yet, because the folder of their sweep was not writable.

`train` hands over a curve before it returns the result, and `sweep` writes both: a worker keeps them
until they can be written (`sweep.rescue`).
"""

from pathlib import Path
from typing import Any

from chinchilla.core.files.folders import guard_of
from chinchilla.plan.records import Curve

_curves: dict[Path, Curve] = {}  # run folder -> curve


def hand_over(run_dir: Path, curve: Curve) -> dict[str, Any]:
    """Write a curve; in a guarded folder, where a worker publishes the result, keep it if that fails.

    Returns:
        The fields by which the run's RunResult names it.

    Raises:
        OSError: it cannot be written to a folder that is not guarded.
    """
    try:
        curve.save(run_dir)
    except OSError:
        if guard_of(run_dir) is None:
            raise
        _curves[run_dir] = curve
    return curve.named()


def curve_of(run_dir: Path) -> Curve | None:
    """The run's curve, if it is not written."""
    return _curves.get(run_dir)


def forget(run_dir: Path) -> None:
    """Keep the run's curve no longer."""
    _curves.pop(run_dir, None)

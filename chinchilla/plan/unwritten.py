"""Curves of finished runs that are not written yet: a worker writes them together with the result.

In the folder of a sweep, only the holder of the last claim may write the curve that result.json names. So
`train` keeps the curve here until the worker publishes the result (`sweep.rescue`).
"""

from pathlib import Path
from typing import Any

from chinchilla.core.files.folders import guard_of
from chinchilla.plan.records import Curve

_curves: dict[Path, Curve] = {}  # run folder -> curve


def save_curve_or_keep(run_dir: Path, curve: Curve) -> dict[str, Any]:
    """Write a curve; in the folder of a sweep, keep it for the worker that publishes the result.

    Returns:
        The fields by which the run's RunResult names it.

    Raises:
        OSError: it cannot be written.
    """
    guard = guard_of(run_dir)
    if guard and guard.identity:
        _curves[run_dir] = curve
        return curve.file_fields()
    return curve.save(run_dir)


def kept_curve(run_dir: Path) -> Curve | None:
    """The run's curve, if it was kept."""
    return _curves.get(run_dir)


def forget_curve(run_dir: Path) -> None:
    """Keep the run's curve no longer."""
    _curves.pop(run_dir, None)

"""The records in a run's folder, which must belong together.

result.json contains a hash of itself, the run's spec and the hash of curve.npz; the spec's run_id is the
name of the folder. So a file that was changed, or copied from another run, is found.
"""

import math
from pathlib import Path

import numpy as np

from chinchilla.core.files.sealed import DamagedRecord
from chinchilla.plan.records import CURVE_REMEDY, Curve, RunResult


def load_curve(run_dir: Path, result: RunResult) -> Curve:
    """The curve of a result that has one (that did not fail).

    Raises:
        DamagedRecord: the curve is missing or damaged, is not the one that `result` names, or has other
            steps or losses than `result` states.
    """
    curve = Curve.load(run_dir, result.curve_sha256 or "none")
    if difference := _difference(curve, result):
        where = f"training curve {run_dir / 'curve.npz'}"
        raise DamagedRecord(where, f"does not agree with result.json: {difference}", CURVE_REMEDY)
    return curve


def _difference(curve: Curve, result: RunResult) -> str:
    """In what `curve` is not that of `result`; "" if it is."""
    if not np.array_equal(curve.step, np.arange(result.steps_done)):
        return f"its steps are not those from 0 to {result.steps_done - 1}"
    if result.status != "finished":
        return ""
    mean = float(curve.loss[-result.final_loss_steps :].mean())
    if result.final_loss is None or not math.isclose(mean, result.final_loss, rel_tol=1e-9):
        return f"its last {result.final_loss_steps} losses have the mean {mean:.9g}, not {result.final_loss}"
    last = curve.validation_loss[-1:].tolist()
    if result.validation_loss and not {*last} & {*result.validation_loss.values()}:
        return f"its last validation loss is {last}, not one of {result.validation_loss}"
    return ""


def curve_problem(run_dir: Path, result: RunResult) -> str:
    """What is wrong with curve.npz as far as its size shows; "" if nothing is, or the run has none.

    `load_curve` reads the file, which takes too long for the status of thousands of runs.
    """
    if not result.curve_sha256:
        return ""
    try:
        size = (run_dir / "curve.npz").stat().st_size
    except OSError as error:
        return f"curve.npz cannot be read ({error.strerror})"
    return "" if size == result.curve_bytes else "curve.npz is not the one that result.json names"

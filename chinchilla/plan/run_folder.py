"""The records in a run's folder, which must belong together.

result.json contains a hash of itself, the run's spec and the hash of curve.npz; the spec's run_id is the
name of the folder. So a file that was changed, or copied from another run, is found.
"""

import errno
import math
import os
from pathlib import Path

import numpy as np

from chinchilla.core.files.sealed import DamagedRecord
from chinchilla.plan.records import CURVE_REMEDY, Curve, RunResult


def load_curve(run_dir: Path, result: RunResult) -> Curve:
    """The curve of a result that has one (that did not fail).

    Raises:
        DamagedRecord: the curve is missing or damaged, is not the one that `result` names, or has other
            steps or losses than `result` states.
        UnreadableFile: the system does not let this process read it.
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


def check_curve_file(run_dir: Path, result: RunResult) -> None:
    """Check curve.npz, if the run has one, as far as its size and permissions show.

    `load_curve` reads the file, which takes too long for thousands of runs.

    Raises:
        DamagedRecord: the curve is missing, or has another size than `result` states.
        OSError: the system does not let this process read it.
    """
    if not result.curve_sha256:
        return
    path, problem = run_dir / "curve.npz", "is not the one that result.json names"
    try:
        size = path.stat().st_size
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):  # also a broken link, or one to itself
            raise
        size, problem = -1, "is missing"
    if size != result.curve_bytes:
        raise DamagedRecord(f"training curve {path}", problem, CURVE_REMEDY)
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

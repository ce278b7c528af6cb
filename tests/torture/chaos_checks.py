"""What is checked after a soak: the bits of the runs, and tracebacks in output and logs."""

import hashlib
import itertools
import os
import re
import shutil
from pathlib import Path
from typing import Any

from chaos_place import Place

from chinchilla.core.errors import InputError
from chinchilla.plan.records import Curve, RunResult

TRACEBACK = re.compile(r"Traceback \(most recent call last\)|Fatal Python error")


def tracebacks(place: Place) -> list[str]:
    """Files of output and logs with a traceback, and its last line."""
    logs = [*place.work.glob("output/*"), *place.inside.rglob("workers/*.log")]
    found = []
    for path in logs:
        text = path.read_text(errors="replace") if path.is_file() else ""
        for match in TRACEBACK.finditer(text):
            first, *rest = text[match.start() :].splitlines()
            frames = list(itertools.takewhile(lambda line: line.startswith(" "), rest))
            last = rest[len(frames)] if len(rest) > len(frames) else first
            # Before it imports the first module of the package, Ctrl-C ends Python with one.
            if last != "KeyboardInterrupt" or any("chinchilla" in line for line in frames):
                found.append(f"traceback in {path.name}: {last[:200]}")
    return found


def bits_of(run_dir: Path) -> dict[str, Any]:
    """What must be equal: all losses of a finished run."""
    for name in ("result.json", "curve.npz"):
        if not (run_dir / name).is_file():  # reading a FIFO would not end
            raise InputError(f"{name} is missing or not a file")
    result, curve = RunResult.load(run_dir), Curve.load(run_dir)
    return {
        "status": result.status,
        "final_loss": result.final_loss,
        "validation_loss": result.validation_loss,
        "curve": [hashlib.sha256(array.tobytes()).hexdigest() for array in vars(curve).values()],
    }


def compare(runs: list[str], reference: Path, sweep_dir: Path) -> list[str]:
    """Runs whose bits differ from those of the comparison."""
    wrong = []
    for run_id in runs:
        expected = bits_of(reference / "runs" / run_id)
        try:
            found = bits_of(sweep_dir / "runs" / run_id)
        except (InputError, OSError) as error:
            wrong.append(f"{run_id}: {error}")
            continue
        different = [key for key in expected if expected[key] != found[key]]
        if different:
            wrong.append(f"{run_id}: other {', '.join(different)}")
    return wrong


def keep(place: Place) -> None:
    """Copy the disk's folders to work/kept; special files are left out."""

    def special(folder: str, names: list[str]) -> list[str]:
        paths = ((name, os.path.join(folder, name)) for name in names)
        return [n for n, p in paths if not (os.path.isfile(p) or os.path.isdir(p))]

    shutil.copytree(place.inside, place.work / "kept", ignore=special, dirs_exist_ok=True)

"""Run every torture test at its full count (minutes) and write docs/results/torture.json.

    python tests/torture/run.py [OUT.json]

Exits with 1 if any case failed; the file lists them.
"""

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PLACES = [HERE, HERE.parents[1], HERE.parent / "support"]
sys.path[:0] = map(str, PLACES)
ENVIRONMENT = {  # for the processes started here; tests set it for their own time only
    "PYTHONPATH": os.pathsep.join(map(str, PLACES)),
    "OMP_NUM_THREADS": "1",
}

CLAIMS = {  # torture -> what it is called, counts
    "race": ("64 processes claim 200 runs: each is trained once", 64, 200),
    "writers": ("64 processes publish the result of one run, 20 runs: one stands", 64, 20),
    "late": ("a worker's lease expires and it comes back late, or was killed", 30),
    "killed_workers": ("a worker is SIGKILLed after each of its calls on the disk",),
    "damaged_claims": ("claim files are damaged; status and the sweep go on", 200),
}
LAUNCHERS = 30
OF_LAUNCHERS = (
    "a launcher of a Slurm sweep is SIGKILLed at a random point: each job is submitted once"
)
SOAKS = (1, 2)  # seeds
FAULTS, SOAK_MINUTES = 250, 8


def of_chaos(seed: int, faults: int, minutes: float, runs: int = 26) -> dict[str, Any]:
    """Run torture_chaos.py."""
    numbers = {"seed": seed, "faults": faults, "minutes": minutes, "runs": runs}
    return _apart("torture_chaos.py", *(f"--{key}={value}" for key, value in numbers.items()))


def of_claims(name: str, work: Path, *counts: int) -> dict[str, Any]:
    """Run one test of torture_claims.py in a process without torch."""
    return _apart("torture_claims.py", name, str(work), *map(str, counts))


def of_launchers(work: Path, n: int) -> dict[str, Any]:
    """Run torture_launch.py in its own process."""
    return _apart("torture_launch.py", str(work), str(n))


def _apart(program: str, *words: str) -> dict[str, Any]:
    command = [sys.executable, str(HERE / program), *words]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **ENVIRONMENT}
    )
    if not run.stdout:
        return {"asked": 1, "passed": 0, "wrong": [run.stderr[-500:]], "details": {}}
    return json.loads(run.stdout)


def of_runs(work: Path, n_kills: int, n_inside: int, n_damages: int) -> dict[str, Callable]:
    """The tests of torture_runs.py by name."""
    import torture_runs
    from small_world import make_speeches

    data_dir = make_speeches(work / "data")

    def kills() -> dict[str, Any]:
        found = torture_runs.killed_runs(data_dir, fresh(work / "kills"), n_kills, n_inside)
        return vars(found) | {"passed": found.passed}

    def damages() -> dict[str, Any]:
        found = torture_runs.damaged_checkpoints(data_dir, fresh(work / "damages"), n_damages)
        return vars(found) | {"passed": found.passed}

    return {
        "runs are SIGKILLed, resumed, and end in the same loss and weights": kills,
        "the newest checkpoint is damaged: detected, fall back, the same loss and weights": damages,
    }


def fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main(out: Path) -> int:
    from chinchilla.core.provenance import code_here
    from chinchilla.train.device import device_name, versions

    results, began = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tortures = of_runs(work, n_kills=100, n_inside=49, n_damages=204)
        for name, (what, *counts) in CLAIMS.items():
            tortures[what] = lambda name=name, counts=counts: of_claims(name, work / name, *counts)
        tortures[OF_LAUNCHERS] = lambda: of_launchers(work / "launchers", LAUNCHERS)
        for seed in SOAKS:
            what = f"{FAULTS} faults of all kinds in a sweep, then plain launches (seed {seed})"
            tortures[what] = lambda seed=seed: of_chaos(seed, FAULTS, SOAK_MINUTES)
        for what, run in tortures.items():
            start = time.perf_counter()
            found = run()
            seconds = round(time.perf_counter() - start, 1)
            row = {"what": what, "asked": found["asked"], "passed": found["passed"]}
            results.append(row | {"seconds": seconds, **found["details"], "wrong": found["wrong"]})
            print(f"{found['passed']}/{found['asked']}  {what}  ({seconds:.0f} s)", flush=True)
            for line in found["wrong"]:
                print(f"    {line}", flush=True)
    import torch

    output = {
        "build_command": "make torture",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": code_here().label,
        "machine": f"{os.cpu_count()} cores, {device_name(torch.device('cpu'))}, {platform.system()}",
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 1),
        "results": results,
    }
    out.write_text(json.dumps(output, indent=1) + "\n", encoding="utf-8")
    return int(any(row["wrong"] for row in results))


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    default = HERE.parents[1] / "docs" / "results" / "torture.json"
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else default))

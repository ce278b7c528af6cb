"""Launchers of a Slurm sweep are SIGKILLed at random points and run again: each job is submitted once.

Slurm is the fake of tests/support/slurm_fakes.py, whose sbatch takes 0.3 s and outlives its launcher;
the sweep has two job classes. A point is any access to the sweep's files or start of a program.

    python tests/torture/torture_launch.py FOLDER N
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))

from slurm_fakes import FakeSlurm, on_slurm
from sweep_fakes import make_specs

from chinchilla.config import ResourceConfig
from chinchilla.core.shapes import ModelShape
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.slurm import queue

UNIT = Path(__file__).resolve().parents[1] / "support"
JOBS = {"small": 3, "large": 2}  # that a launch submits
LAUNCHER = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from torture_launch import launch_it
sweep, last = Path(sys.argv[3]), int(sys.argv[4])
left = last
def count(event, args):
    global left
    touches = event == "subprocess.Popen" or (
        event in ("open", "os.mkdir", "os.rename", "os.remove", "os.link")
        # A name without a folder is relative to an open folder of the sweep.
        and (sys.argv[3] in str(args[0]) or "/" not in str(args[0]))
        and "heartbeat" not in str(args[0])  # of another thread
    )
    left -= touches
    if touches and left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
launch_it(sweep)
print(f"{last - left} points")
"""


def specs() -> list[RunSpec]:
    """Five small runs, four large ones."""
    large = ModelShape(64, 256, 32, 2, 8, 512, 64)
    return [*make_specs(5), *(replace(s, model=large) for s in make_specs(4, first_seed=500))]


def launch_it(sweep_dir: Path) -> None:
    """Launch the sweep, as the command does."""
    from chinchilla.sweep.launch import launch

    queue.SETTLE_SECONDS = 1.0
    settings = on_slurm(gpus_per_node=1)
    settings.cluster.resources = [
        ResourceConfig(name="small", max_params=specs()[0].N),
        ResourceConfig(name="large", n_workers=JOBS["large"]),
    ]
    launch(settings, specs(), sweep_dir, sweep_dir)


def start(sweep_dir: Path, last: int) -> subprocess.Popen[str]:
    """A launcher that is killed at its `last` point."""
    here = str(Path(__file__).resolve().parent)
    command = [sys.executable, "-c", LAUNCHER, here, str(UNIT), str(sweep_dir), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed_launchers(work: Path, n: int) -> dict[str, Any]:
    """`n` launchers, each killed at a random point (two in five near an sbatch), and one after each."""
    fake = FakeSlurm(work / "slurm")
    os.environ["PATH"] = fake.path
    (fake.folder / "sbatch_sleeps").write_text("0.3")
    whole = start(work / "whole", 10**9).communicate(timeout=120)[0]
    n_points = int(whole.split()[-2])
    draw, cases, seen = random.Random(0), [], Counter()
    for i in range(n):
        fake.set_jobs([])
        sweep_dir, last = work / f"sweep{i}", draw.randrange(1, n_points + 1)
        if i % 5 < 2:  # the submissions are the last part
            last = draw.randrange(n_points * 3 // 5, n_points + 1)
        victim = start(sweep_dir, last)
        victim.communicate(timeout=120)
        seen[_how_far(sweep_dir)] += 1
        launch = start(sweep_dir, 10**9)
        launch.communicate(timeout=120)
        problems = [] if victim.returncode == -9 else [f"the victim ended with {victim.returncode}"]
        if launch.returncode:
            problems.append(f"the next launcher ended with {launch.returncode}")
        cases.append((f"point {last} of {n_points}", problems + wrong_jobs(fake, sweep_dir)))
    wrong = [f"{name}: {'; '.join(problems)}" for name, problems in cases if problems]
    details = {"points": n_points, "died": dict(seen)}
    return {"asked": n, "passed": n - len(wrong), "wrong": wrong, "details": details}


def _how_far(sweep_dir: Path) -> str:
    """The part of the launch in which the launcher was killed."""
    intended, known = (
        len(list(sweep_dir.glob(f"slurm/*/{name}.json"))) for name in ("job", "answer")
    )
    if intended > known:
        return "between an intention and its number"
    return "after the last number" if known == len(JOBS) else "before or between submissions"


def wrong_jobs(fake: FakeSlurm, sweep_dir: Path) -> list[str]:
    """Differences from the jobs of one undisturbed launch."""
    classes = {folder.name: a.job_class for folder, a in queue.job_arrays(sweep_dir).items()}
    counts = Counter(classes.get(row.rpartition(":")[2], "?") for row in fake.jobs())
    return [] if counts == JOBS else [f"jobs in the queue: {dict(counts)}"]


if __name__ == "__main__":
    folder, n = Path(sys.argv[1]), int(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(json.dumps(killed_launchers(folder, n)))

"""One sweep with three job classes and many failures at once.

Two launchers start together; a node fails, a job is preempted, one reaches its time limit, one is
cancelled, and one run has a folder in place of a file. All runs finish; launching again trains nothing;
all losses are bit-identical to an undisturbed local sweep. CHINCHILLA_RECORD=FILE.json stores a record.
"""

import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm_world import RUNTIME, Sweep, queue, slurm

from chinchilla.core.files.writing import write_json
from chinchilla.core.provenance import code_here
from chinchilla.plan.plan_file import load_plan
from chinchilla.plan.records import Curve, RunResult
from chinchilla.sweep.slurm.queue import job_arrays
from chinchilla.sweep.view.status import sweep_status
from chinchilla.train.device import versions

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(2400)]

GRID = [
    "grid=demo", "grid.name=all", "grid.budgets=[4e9,4.4e9,4.8e9,5.6e9,6.4e9,7.2e9,8e9]",
    "grid.models=[8x1,16x1,24x2]", "grid.sizes_per_budget=0", "grid.min_sizes=1", "grid.min_side=0",
    "grid.kv_size=8", "grid.seq_len=32", "grid.min_steps=8", "grid.horizon_models=[24x2]",
    "recipe=demo", "recipe.batch_tokens=384",
    "recipe.precision=fp32", "epochs=1000",
]  # fmt: skip
N_CELLS = 24
# A node for each job, so that whatever happens to one happens to no other.
SHAPES = (
    "{name:small,max_params:6e3,n_workers:2},"
    "{name:middle,max_params:1.2e4,n_workers:1,partition:scavenge},"
    "{name:large,n_workers:1,timeout_min:1}"
)
JOBS = [
    "cluster=slurm", f"cluster.resources=[{SHAPES}]", "cluster.cpus_per_task=4", "cluster.host_memory_gb=1",
    "cluster.threads_per_worker=1", "cluster.gpus_per_node=0", "cluster.timeout_min=30",
]  # fmt: skip
LOCAL = ["cluster=local", "cluster.n_workers=2", "cluster.threads_per_worker=1"]
PATIENCE = 900  # seconds, for a machine that has other things to do
LONG_SECONDS = (
    40  # of the longest run, alone; with the others of its class more than a job of a minute
)


class Large(Sweep):
    """The sweep of these tests."""

    def __init__(self, folder: Path, data_dir: Path, longest: int) -> None:
        super().__init__(folder, data_dir)
        horizons = f"grid.horizon_tokens_per_param=[2,3,{longest}]"
        self.words = [*GRID, horizons, *RUNTIME, f"data_dir={data_dir}", f"sweep_dir={folder}"]

    def say(self, *words: str) -> str:
        """Output of a launch with exit code 0."""
        process = self.start(*words)
        out = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == 0, out
        return out

    def jobs(self) -> dict[str, str]:
        """Job class -> number of its array."""
        found = {}
        for folder, array in job_arrays(self.folder).items():
            assert array.job_class not in found, "an array of this class was submitted twice"
            found[array.job_class] = json.loads((folder / "answer.json").read_text())["job_id"]
        return found

    def trained_by(self, job: str) -> list[str]:
        """Runs that this job, or element of an array, is training."""
        rows = sweep_status(self.folder).rows
        return [r.run_id for r in rows if r.step and r.worker.startswith(f"slurm{job}-")]

    def files(self) -> dict[str, bytes]:
        return {p.parent.name: p.read_bytes() for p in self.folder.glob("runs/*/result.json")}


def tokens_per_param(data_dir: Path, folder: Path) -> int:
    """How many tokens per parameter the largest model trains on in LONG_SECONDS on this machine.

    Measured on one thread, as the jobs have: two threads are slowed many times by any other load.
    """
    trial = Sweep(folder, data_dir)
    grid = [w for w in GRID if not w.startswith(("grid.models", "grid.budgets", "grid.horizon"))]
    more = ["grid.models=[24x2]", "grid.budgets=[4e9]", "grid.horizon_models=[]", *LOCAL]
    trial.words = [*grid, *more, "grid.horizon_tokens_per_param=[]", *RUNTIME, *trial.words[-2:]]
    trial.launch()
    [result] = trial.results()
    return max(5, round(LONG_SECONDS * result.tokens_per_second / result.n_params))


def patiently(condition: Callable[[], Any]) -> None:
    """Wait with few queries, which take time from the jobs."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain; queue: {queue('%i %T %r')}"
        time.sleep(1.0)


def of_job(job: str, key: str) -> str:
    """A value of `scontrol show job`, such as Restarts or JobState."""
    words = slurm("scontrol", "show", "job", job).split()
    return next(w.partition("=")[2] for w in words if w.startswith(f"{key}="))


def node_of(job: str) -> str:
    return dict(row.split() for row in queue("%i %N") if len(row.split()) == 2)[job]


def test_all_failures_at_once(data_dir: Path, tmp_path: Path):
    began = time.monotonic()
    longest = tokens_per_param(data_dir, tmp_path / "trial")
    reference, sweep = (Large(tmp_path / name, data_dir, longest) for name in ("local", "slurm"))
    reference.say(*LOCAL)
    reference_seconds = time.monotonic() - began
    output = json.loads(sweep.say("dry_run=true", "format=json"))["runs"]
    assert len(output) == N_CELLS
    damaged = min((r for r in output if r["N"] < 6e3), key=lambda r: r["C"])["run_id"]
    in_the_way = sweep.folder / "runs" / damaged / "metrics.jsonl"
    in_the_way.mkdir(parents=True)  # where a file must be

    # Two launchers at once.
    launchers = [sweep.start(*JOBS) for _ in range(2)]
    printed = [p.communicate(timeout=PATIENCE)[0] for p in launchers]
    assert [p.returncode for p in launchers] == [0, 0], printed
    assert sorted("submitted no workers" in out for out in printed) == [False, True], printed
    jobs = sweep.jobs()
    assert set(jobs) == {"small", "middle", "large"}
    assert len(queue()) == 4
    killed, cancelled = f"{jobs['small']}_0", f"{jobs['small']}_1"

    # A preemption, as soon as the job has got somewhere.
    patiently(lambda: sweep.trained_by(jobs["middle"]))
    preemptor = slurm(
        "sbatch", "--parsable", "--output=/dev/null", "-w", node_of(jobs["middle"]), "-c", "4",
        "--wrap", "sleep 1",
    ).strip()  # fmt: skip
    # A node fails and the other job of that class is cancelled: for a while the class has no job.
    patiently(lambda: sweep.trained_by(killed))
    victim = node_of(killed)
    slurm("node-kill", victim)
    try:
        patiently(lambda: sweep.trained_by(cancelled))
        slurm("scancel", cancelled)
        # The time limit is a minute, and the longest run takes more.
        patiently(lambda: int(of_job(jobs["large"], "Restarts")) >= 1)
        patiently(lambda: not queue())
    finally:
        slurm("node-start", victim)
    undisturbed = json.loads(sweep.say(*JOBS, "dry_run=true", "format=json"))
    restarts = {name: int(of_job(job, "Restarts")) for name, job in
                [("node killed", killed), ("preempted", jobs["middle"]), ("timed out", jobs["large"])]}  # fmt: skip
    assert min(restarts.values()) >= 1, restarts
    assert of_job(cancelled, "JobState") == "CANCELLED"
    assert of_job(preemptor, "JobState") == "COMPLETED"
    counts = sweep_status(sweep.folder).counts
    assert counts["finished"] == N_CELLS, (counts, sweep.logs()[-9000:])
    assert undisturbed["n_left"] == 0
    assert in_the_way.is_file(), "a worker has repaired the run"
    assert in_the_way.with_name("damaged-1-metrics.jsonl").is_dir()

    # Launching again trains nothing.
    before = sweep.files()
    assert "24/24 runs" in sweep.say(*JOBS)
    assert sweep.files() == before
    found = compare(sweep, reference)
    assert len(sweep.arrays()) == 3
    if record := os.environ.get("CHINCHILLA_RECORD"):
        write_json(
            Path(record),
            {
                "build_command": "CHINCHILLA_RECORD=FILE python -m pytest tests/slurm/test_all_at_once.py",
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "commit": code_here().label,
                "machine": f"{os.cpu_count()} cores, four Slurm nodes on one machine",
                "slurm": slurm("sinfo", "--version").strip(),
                "versions": versions(),
                "seconds": round(time.monotonic() - began),
                "runs": N_CELLS,
                "seconds_of_reference": round(reference_seconds),
                "jobs_of_two_launchers": 4,
                "restarts": restarts,
                "one_damaged_run_was_repaired": True,
                **found,
            },
        )


def compare(sweep: Large, reference: Large) -> dict[str, Any]:
    """Check that the losses of both sweeps are bit-identical."""
    specs = load_plan(reference.folder / "plan.jsonl")
    starts = []
    for spec in specs:
        here, there = (s.folder / "runs" / spec.run_id for s in (sweep, reference))
        ours, theirs = RunResult.load(here), RunResult.load(there)
        assert ours.status == theirs.status == "finished"
        assert ours.final_loss == theirs.final_loss
        assert ours.validation_loss == theirs.validation_loss
        assert Curve.load(here).loss.tobytes() == Curve.load(there).loss.tobytes()
        starts.append(ours.attempts)
    assert len(specs) == N_CELLS
    return {
        "equal_bit_for_bit": len(specs),
        "runs_started_more_than_once": sum(n > 1 for n in starts),
    }

"""A tiny sweep to launch on Slurm."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chinchilla.plan.plan_file import load_plan
from chinchilla.plan.records import Curve, RunResult

SCRIPT = Path(__file__).resolve().parents[2] / "slurm" / "local_slurm.py"
GRID = [
    "grid=demo", "grid.name=tiny", "grid.budgets=[2e9,4e9]", "grid.models=[8x1,12x1,24x1]",
    "grid.sizes_per_budget=0", "grid.min_sizes=1", "grid.min_side=0", "grid.kv_size=8",
    "grid.seq_len=32", "grid.min_steps=8",
    "grid.horizon_models=[]", "grid.horizon_tokens_per_param=[]",
    "recipe=demo", "recipe.batch_tokens=384", "recipe.precision=fp32", "epochs=1000",
]  # fmt: skip
N_CELLS = 6
RUNTIME = [
    "runtime.device=cpu", "runtime.validation_tokens=2048", "runtime.validation_evals=3",
    "runtime.checkpoint_minutes=0.01",
]  # fmt: skip
LOCAL = ["cluster=local", "cluster.n_workers=2", "cluster.threads_per_worker=1"]
SLURM = [
    "cluster=slurm", "cluster.n_workers=2", "cluster.gpus_per_node=1", "cluster.cpus_per_task=1",
    "cluster.threads_per_worker=1", "cluster.host_memory_gb=1", "cluster.timeout_min=30",
]  # fmt: skip
WHOLE_NODES = ["cluster.cpus_per_task=4"]  # so no two jobs share a node


def slurm(*words: str) -> str:
    """Output of one of Slurm's commands, or of local_slurm.py."""
    if words[0] in ("up", "down", "node-kill", "node-start"):
        words = (sys.executable, str(SCRIPT), "--dir", os.environ["LOCAL_SLURM_DIR"], *words)
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def queue(form: str = "%i") -> list[str]:
    """A line for each job, array elements one by one."""
    return slurm("squeue", "-h", "-r", "-o", form).splitlines()


def wait_until(condition: Callable[[], Any], seconds: float = 150) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"timed out; queue: {queue('%i %T %r')}"
        time.sleep(0.3)  # each query takes time from the jobs
    return value


class Sweep:
    """A sweep in its own folder."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.folder = folder
        self.words = [*GRID, *RUNTIME, f"data_dir={data_dir}", f"sweep_dir={folder}"]

    def start(self, *more: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "chinchilla.cli", "sweep", *self.words, *more]
        return subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def launch(self, *more: str, **environment: str) -> str:
        """Output of the command."""
        process = self.start(*more, **environment)
        out = process.communicate(timeout=200)[0]
        assert process.returncode == 0, out
        return out

    def launch_on_slurm(self, *more: str, **environment: str) -> dict[str, Any]:
        """JSON of the command: job_ids, n_submitted, n_earlier, ..."""
        words = {word.split("=")[0]: word for word in (*SLURM, *more)}  # a word is given once
        out = self.launch(*words.values(), "format=json", **environment)
        return json.loads(out.splitlines()[-1])

    def results(self) -> list[RunResult]:
        run_dirs = [self.folder / "runs" / s.run_id for s in load_plan(self.folder / "plan.jsonl")]
        return [
            RunResult.load(run_dir) for run_dir in run_dirs if (run_dir / "result.json").exists()
        ]

    def running(self) -> dict[str, int]:
        """Run id and step of each unfinished run that has progressed."""
        found = {}
        for path in self.folder.glob("runs/*/progress.json"):
            if not (path.parent / "result.json").exists():
                found[path.parent.name] = json.loads(path.read_text()).get("step", 0)
        return {run_id: step for run_id, step in found.items() if step > 0}

    def arrays(self) -> list[str]:
        """Numbers of its arrays that sbatch has answered."""
        found = self.folder.glob("slurm/*/answer.json")
        return sorted(json.loads(p.read_text())["job_id"] for p in found)

    def logs(self) -> str:
        """Output of its jobs and workers."""
        files = [*self.folder.glob("slurm/*/*_log.out"), *self.folder.glob("workers/*.log")]
        return "\n".join(f"{p.name}: {p.read_text()}" for p in files)

    def wait_for_the_end(self) -> None:
        """Wait until none of its jobs is in the queue."""
        tokens = {p.name for p in self.folder.glob("slurm/*")}
        wait_until(lambda: not {k.split(":")[-1] for k in queue("%k")} & tokens, 240)

    def assert_measured_as(self, reference: "Sweep", n_interrupted: int = 0) -> None:
        """Check that every run has the reference's bits and that at most n_interrupted were restarted."""
        found = self.results()
        assert len(found) == N_CELLS, self.logs()
        # Fewer when a run ended by itself in the moment before it was to be interrupted.
        assert sum(r.attempts for r in found) <= N_CELLS + n_interrupted
        for result in found:
            assert result.status == "finished"
            there, here = (s.folder / "runs" / result.spec.run_id for s in (reference, self))
            other = RunResult.load(there)
            assert result.final_loss == other.final_loss
            assert result.validation_loss == other.validation_loss
            assert Curve.load(here).loss.tobytes() == Curve.load(there).loss.tobytes()

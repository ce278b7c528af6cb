"""Time of commands on large sweep folders: launching a finished sweep again, and `chinchilla status`.

    python scripts/bench/bench_sweep_files.py [OUT.json]

Each command runs in its own process. Its CPU seconds (user and system) and wall seconds include imports; the
figures are medians of five rounds, in which the commands alternate. Writes docs/results/sweep_files.json. The
exit code is 1 if the CPU seconds of a command exceed its limit. Wall times have no limit, because they depend
on the load of the machine.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench_tools import RESULTS, Arguments, children_cpu_seconds, out_file, provenance

from chinchilla.core.files import pretty_json, write_json
from chinchilla.plan.records import RunResult, RunSpec, save_plan

ROUNDS = 5
GRID = [
    "grid=demo", "grid.name=large", "grid.sizes_per_budget=0", "grid.min_sizes=1", "grid.min_side=0",
    "grid.kv_size=8", "grid.seq_len=32", "grid.min_steps=1", "grid.horizon_models=[]",
    "grid.horizon_tokens_per_param=[]", "recipe=demo", "recipe.batch_tokens=384", "epochs=1e9",
    "recipe.precision=fp32", "cluster=slurm", "cluster.n_workers=8",
]  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A timed command with its limit in CPU seconds, its arguments and its environment."""

    what: str
    limit: float
    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def chinchilla(*words: str, **environment: str) -> tuple[str, float, float]:
    """Standard output, CPU seconds and wall seconds of one command.

    Raises:
        RuntimeError: the command failed.
    """
    began, cpu_before = time.perf_counter(), children_cpu_seconds()
    run = subprocess.run(
        [sys.executable, "-m", "chinchilla.cli", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - began
    if run.returncode:
        raise RuntimeError(f"{' '.join(words)}: {run.stderr}")
    return run.stdout, children_cpu_seconds() - cpu_before, wall


def result_of(spec: RunSpec, status: str = "finished") -> RunResult:
    """A result like those that workers write."""
    return RunResult(
        spec=spec, status=status, reason="" if status == "finished" else "loss is not finite",
        final_loss=3.25 if status == "finished" else None, final_loss_se=0.01, final_loss_steps=5,
        validation_loss={"validation": 3.5}, validation_tokens={"validation": 65536},
        bits_per_byte={"validation": 1.25}, n_params=spec.N, n_params_non_embedding=spec.N // 2,
        steps_done=spec.steps, flops_spent=spec.C, train_seconds=100.0,
        tokens_per_second=spec.D / 100.0, mfu=None, peak_memory_bytes=0, device="CPU",
        versions={"torch": "2.13.0", "python": "3.11.7", "chinchilla": "0.1.0"}, git="",
        started_utc="2026-01-01T00:00:00+00:00", finished_utc="2026-01-01T00:01:40+00:00",
    )  # fmt: skip


def write_run(sweep_dir: Path, spec: RunSpec, state: str, now: str) -> None:
    """Write the files of a run that is finished, diverged, failed, running or waiting."""
    run_dir = sweep_dir / "runs" / spec.run_id
    run_dir.mkdir(parents=True)
    if state == "waiting":
        return
    (run_dir / "spec.json").write_text(pretty_json(spec.to_dict()) + "\n")
    claim = {
        "fence": 1, "worker": "slurm41_3-node-77-0", "host": "node", "processes": "another machine",
        "pid": 77, "pid_start": "12345", "claimed_utc": now, "step": 0, "starts": 1,
        "released": state != "running",
    }  # fmt: skip
    (run_dir / "claim-1.json").write_text(json.dumps(claim))
    (run_dir / "heartbeat").touch()
    step = spec.steps // 2 if state == "running" else spec.steps
    progress = {"step": step, "steps": spec.steps, "loss": 3.25, "utc": now, "tokens_per_second": 1e4}  # fmt: skip
    (run_dir / "progress.json").write_text(json.dumps(progress))
    if state != "running":
        (run_dir / "result.json").write_text(pretty_json(asdict(result_of(spec, state))) + "\n")


def large_sweep(folder: Path, n: int) -> list[RunSpec]:
    """Write a sweep of `n` runs: 80% finished, 2% diverged, 1% failed, 2% running, the rest waiting."""
    data_id, now = "none", datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    shares = ["finished"] * 80 + ["diverged"] * 2 + ["failed"] + ["running"] * 2 + ["waiting"] * 15
    from chinchilla.config import GridConfig, RecipeConfig
    from chinchilla.plan.grid import plan_grid

    models = [f"{8 * w}x{d}" for w in range(1, 21) for d in (1, 2)]
    grid = GridConfig(
        name="large", budgets=[2e9 * 1.3**i for i in range(10)], models=models, kv_size=8,
        seq_len=32, vocab_size=384, min_sizes=1, min_side=0, min_steps=1,
    )  # fmt: skip
    specs = plan_grid(
        grid, RecipeConfig(batch_tokens=384), vocab_size=0, data_id=data_id, precision="fp32"
    )
    many = [replace(s, seed=seed) for seed in range(-(-n // len(specs))) for s in specs][:n]
    folder.mkdir()
    save_plan(many, folder / "plan.jsonl")
    for i, spec in enumerate(many):
        write_run(folder, spec, shares[i % 100], now)
    return many


def finished_sweep(work: Path, n: int) -> list[str]:
    """Write a sweep of `n` finished runs on real tokens; returns the arguments that launch it again."""
    data_dir, sweep_dir = work / "data", work / "finished"
    chinchilla(
        "data", "corpus=sotu", "corpus.max_documents=12", "tokenizer.vocab_size=384",
        "validation_fraction=0.2", "n_workers=1", f"data_dir={data_dir}",
    )  # fmt: skip
    widths = [f"{8 * w}x{d}" for w in range(1, -(-n // 20) + 1) for d in (1, 2)]
    budgets = ",".join(f"{2e9 * 1.3**i:.6g}" for i in range(10))
    words = [
        *GRID, f"grid.models=[{','.join(widths)}]", f"grid.budgets=[{budgets}]",
        f"data_dir={data_dir}", f"sweep_dir={sweep_dir}",
    ]  # fmt: skip
    planned = json.loads(chinchilla("sweep", *words, "dry_run=true", "format=json")[0])["runs"]
    keys = RunSpec.__dataclass_fields__
    specs = [RunSpec.from_dict({k: r[k] for k in keys}, "plan") for r in planned]
    sweep_dir.mkdir()
    save_plan(specs, sweep_dir / "plan.jsonl")
    for spec in specs:
        write_run(sweep_dir, spec, "finished", "2026-01-01T00:00:00+00:00")
    return words


def timed(commands: Sequence[Command]) -> list[dict[str, Any]]:
    """Median CPU and wall seconds of each command, and its last output."""
    rounds = [[chinchilla(*c.words, **c.environment) for c in commands] for _ in range(ROUNDS)]
    rows = []
    for i, command in enumerate(commands):
        cpu, wall = ([round(runs[i][k], 2) for runs in rounds] for k in (1, 2))
        rows.append({
            "what": command.what, "limit_seconds": command.limit,
            "cpu_seconds": statistics.median(cpu), "wall_seconds": statistics.median(wall),
            "all_cpu": cpu, "all_wall": wall, "out": rounds[-1][i][0],
        })  # fmt: skip
    return rows


def measure(work: Path, n_finished: int = 400, n_large: int = 10_000) -> list[dict[str, Any]]:
    """All rows of the record."""
    words, finished, large = finished_sweep(work, n_finished), work / "finished", work / "large"
    large_sweep(large, n_large)
    status = ("status", f"sweep_dir={large}")
    with tempfile.TemporaryDirectory() as path:  # without Slurm, so submitting a job would fail
        again, text, as_json = timed([
            Command(f"a finished sweep of {n_finished} runs is launched again", 2.0,
                    ("sweep", *words), {"PATH": path}),
            Command(f"status of {n_large} runs, format=text", 6.0, (*status, "format=text")),
            Command(f"status of {n_large} runs, format=json", 6.0, (*status, "format=json")),
        ])  # fmt: skip
    again["jobs_submitted"] = len(list(finished.glob("slurm/*")))
    expected = {
        f"{n_finished}/{n_finished} runs": again["out"],
        f"{n_large * 83 // 100}/{n_large} runs": text["out"],
        '"finished": ': as_json["out"],
    }
    if again["jobs_submitted"] or not all(text in out for text, out in expected.items()):
        raise RuntimeError(f"unexpected output: {[out[-300:] for out in expected.values()]}")
    return [{k: v for k, v in row.items() if k != "out"} for row in (again, text, as_json)]


def main(out: Path) -> int:
    from chinchilla.train.device import versions

    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    record = {
        "build_command": "python scripts/bench/bench_sweep_files.py",
        **provenance(),
        "load_average": round(os.getloadavg()[0], 1),
        "versions": versions(),
        "results": rows,
    }
    write_json(out, record)
    for row in rows:
        print(
            f"{row['cpu_seconds']:5.2f} s CPU (limit {row['limit_seconds']:g}), "
            f"{row['wall_seconds']:5.2f} s wall: {row['what']}"
        )
    return int(any(row["cpu_seconds"] > row["limit_seconds"] for row in rows))


if __name__ == "__main__":
    default = RESULTS / "sweep_files.json"
    parser = Arguments(__doc__)
    parser.add_argument("out", metavar="OUT.json", nargs="?", type=out_file, default=default)
    sys.exit(main(parser.parse_args().out))

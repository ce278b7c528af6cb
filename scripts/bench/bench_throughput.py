"""Training speed beside public programs: same shapes, tokens, weights, clipping and precision.

    python scripts/bench/bench_throughput.py [--device cpu|cuda] [--nanogpt DIR] [--litgpt DIR]
        [--torchtitan DIR] [--shapes NAME,...] [--rounds 5] [--minutes M] [--out FILE]
    python scripts/bench/bench_throughput.py --sweep [--device cpu|cuda] [--rounds 5] [--minutes M]
        [--finished SWEEP_DIR --worker-seconds S] [--out FILE]

DIR is a checkout of https://github.com/karpathy/nanoGPT, https://github.com/Lightning-AI/litgpt or
https://github.com/pytorch/torchtitan (588fc12fd560, of 2026-06-12, is its last commit that can be
imported without triton), whose own dependencies must be importable; a peer that is not given or does
not run is recorded as not run, with the reason. A DIR that is not there is refused. Each side is
measured eager and compiled, in a fresh process per side and round, forwards and backwards in turn
(ABBA).

Nobody wins by doing less. Ours and litgpt are the same network (RMSNorm, rotary positions), nanoGPT is
nearly so (LayerNorm, learned positions): from equal weights their first 10 losses must be equal to
0.15 nats. torchtitan's feed-forward is a SwiGLU, whose weights cannot be ours: its loss before the
first update and after the last must be equal to 0.15 nats. And of everybody the weights in matrix
products, counted in the built models, must be ours to 2%. Who fails is marked "other work".

Tokens per second are of process CPU time with one thread on a CPU, of wall time on a GPU; medians, and of
ratios the median over rounds.
MFU = (6 N_matmul + 12 n_layers d_model seq_len) x tokens/s / data-sheet bf16 peak, where N_matmul are
the weights of matrix products, the head's included.

--sweep trains the same small runs twice: one worker that takes all of them, and a process per run
(`bench_worker.py`).

Results are kept after every process: started again with the same --out, it goes on where it was. Exit
code 75 says that something is left.
"""

import argparse
import datetime
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

from bench_tools import Arguments, amount, count, existing_folder, positive

ROOT = Path(__file__).resolve().parents[2]
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
        "torchtitan+compile": {"10m": 1.1, "124m": 1.05, "600m": 1.0},
    },
}
ASKED_MFU = {"cuda": {"10m": 0.24, "124m": 0.42, "600m": 0.48}}
PEERS = ("nanogpt", "litgpt", "torchtitan")
MOST_APART = 0.15  # nats between the losses of two sides
MOST_FLOPS_APART = 0.02  # between the weights that a token is multiplied with


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


def one(side: str, folder: Path, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """A side's measurement in a process of its own, or why there is none."""
    name, _, how = side.partition("+")
    with tempfile.TemporaryDirectory() as scratch:
        told, out = Path(scratch, "job.json"), Path(scratch, "out.json")
        told.write_text(json.dumps({**job, "compile": how == "compile"}))
        env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        env |= {"OMP_NUM_THREADS": str(job["threads"])} if job["device"] == "cpu" else {}
        command = [sys.executable, str(STEPS), name, str(folder), str(told), str(out)]
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
    same_machine(result, args)
    folders: dict[str, Path | None] = {
        "ours": ROOT,
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
                kept = runs.setdefault(name, {}).setdefault(side, [])
                program = side.partition("+")[0]
                folder = folders[program]
                if not folder and not kept:
                    kept[:] = [{"not_run": f"no --{program} DIR given"}]
                elif folder and any("no --" in k.get("not_run", "") for k in kept):
                    kept.clear()
                if not folder or len(kept) > r or any("not_run" in k for k in kept):
                    continue
                if time.monotonic() > end:
                    return summed(result, args.device) | {"complete": False}
                kept.append(one(side, folder, job, args.seconds))
                print(name, side, r, kept[-1].get("tokens_per_second", kept[-1]), flush=True)
                save(args.out, summed(result, args.device))
    return summed(result, args.device) | {"complete": True}


def summed(result: dict[str, Any], device: str) -> dict[str, Any]:
    """Medians, ratios and how far the first losses are apart."""
    result["summary"] = {}
    for name, sides in result["runs"].items():
        rows, ours = {}, None
        job = job_of(device, name, 0)
        for side, kept in sides.items():
            speeds = [k["tokens_per_second"] for k in kept if "not_run" not in k]
            if not speeds:
                rows[side] = {"not_run": kept[0]["not_run"]} if kept else {"not_run": "not yet"}
                continue
            ours = ours or kept[0]
            apart = losses_apart(side, ours, kept[0])
            more_flops = kept[0]["matmul_weights"] / ours["matmul_weights"] - 1
            rows[side] = {
                "tokens_per_second": statistics.median(speeds),
                "spread": (max(speeds) - min(speeds)) / statistics.median(speeds),
                "rounds": len(speeds),
                "losses_apart_nats": apart,
                "matmul_flops_over_ours": more_flops,
                "same_work": apart <= MOST_APART and abs(more_flops) <= MOST_FLOPS_APART,
                "ready_seconds": statistics.median(k["ready_seconds"] for k in kept),
                "peak_bytes": max(k["peak_bytes"] for k in kept),
            }
            if peak := result["machine"].get("peak_flops"):
                speed = rows[side]["tokens_per_second"]
                rows[side]["mfu"] = flops_per_token(job["shape"]) * speed / peak
                if side == "ours+compile" and (least := ASKED_MFU.get(device, {}).get(name)):
                    rows[side]["asked_mfu"] = least
        for side, row in rows.items():
            asked = ASKED[device].get(side, {}).get(name)
            for mine in ("ours", "ours+compile"):
                pairs = zip(sides.get(mine, []), sides[side], strict=False)
                # Round by round: between rounds a machine's clock moves more than programs differ.
                ratios = [
                    x["tokens_per_second"] / y["tokens_per_second"]
                    for x, y in pairs
                    if "not_run" not in x and "not_run" not in y
                ]
                if ratios and not side.startswith("ours"):
                    row[f"{mine}_over_it"] = statistics.median(ratios)
                    row[f"{mine}_over_it_range"] = [min(ratios), max(ratios)]
            if asked:
                row["asked"] = asked
        result["summary"][name] = rows
    return result


def losses_apart(side: str, ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest difference, in nats, of the losses that have to agree."""
    if side.startswith("torchtitan"):
        ends = [(x["first_losses"][0], x["last_loss"]) for x in (ours, theirs)]
        return max(abs(a - b) for a, b in zip(*ends, strict=True))
    firsts = zip(ours["first_losses"], theirs["first_losses"], strict=True)
    return max(abs(a - b) for a, b in firsts)


def source_of(folder: Path) -> str:
    """The commit of a checkout; without its history, a hash over its Python files."""
    if (folder / ".git").exists():
        ask = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        return subprocess.run(ask, capture_output=True, text=True).stdout.strip()
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"sha256 of its Python files {digest.hexdigest()[:16]}"


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


def same_machine(result: dict[str, Any], args: argparse.Namespace) -> None:
    """Say where this is measured; refuse to add to what was measured elsewhere or with other code."""
    here = machine(args.device)
    there = result.setdefault("machine", here)
    here["device"] = here["device"].split(",")[0]  # threads have a key of their own
    for key in ("device", "commit", "versions", "threads"):
        if there.get(key) != here[key]:
            print(
                f"{args.out} was measured with {key} {there.get(key)}, and this is {here[key]}. "
                "Give another --out, or move the file away.",
                file=sys.stderr,
            )
            sys.exit(2)


def load(path: Path) -> dict[str, Any]:
    """What earlier calls measured."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        if isinstance(kept.get("machine", {}), dict):
            return kept
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
            mfu += f" (asked {row['asked_mfu']:.0%})" if "asked_mfu" in row else ""
            speed = f"{row['tokens_per_second']:,.0f}"
            other = "" if row["same_work"] else " (other work)"
            lines.append(f"| {name} | {side}{other} | {speed} | {mfu} | {' | '.join(told)} |")
    return "\n".join(lines)


def run_sweep(args: argparse.Namespace) -> int:
    """`--sweep`."""
    import bench_worker

    result = load(args.out)
    same_machine(result, args)
    work = ROOT / "runs" / f"bench_worker_{args.device}"  # outlives a call
    result = bench_worker.sweep(
        args.device, args.rounds, args.minutes, work, result, lambda r: save(args.out, r)
    )
    if args.finished:
        result["sweep"] = bench_worker.of_finished(
            args.finished, args.worker_seconds, result["summary"]
        )
    save(args.out, result)
    print(bench_worker.told(result, args.device))
    if result["summary"]["rounds"] < args.rounds:
        return again(args)
    shutil.rmtree(work, ignore_errors=True)
    return 0


def again(args: argparse.Namespace) -> int:
    """The exit code of a measurement that is not complete."""
    print(f"out of time: start again with --out {args.out} to go on")
    return 75


def main() -> int:
    """Command line."""
    parser = Arguments(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    for peer in PEERS:
        parser.add_argument(f"--{peer}", type=existing_folder, metavar="DIR", help="its checkout")
    parser.add_argument("--shapes", default="", help="names, comma-separated; default: all")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--steps", type=count, default=30, help="timed, in each process")
    parser.add_argument(
        "--seconds", type=positive, default=400, help="most that one process may take"
    )
    parser.add_argument(
        "--minutes", type=amount, default=1e9, help="stop before the next one after"
    )
    parser.add_argument("--sweep", action="store_true", help="a worker beside a process per run")
    parser.add_argument(
        "--finished", type=existing_folder, help="--sweep: a finished sweep to set beside it"
    )
    parser.add_argument(
        "--worker-seconds", type=amount, default=0, help="... that its workers took"
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
    if args.finished and not args.worker_seconds:
        parser.error("--finished needs the seconds its workers took. Give --worker-seconds.")
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("--device cuda: PyTorch finds no CUDA device here. Give --device cpu.")
    kind = "sweep" if args.sweep else "steps"
    args.out = args.out or ROOT / f"docs/results/throughput_{kind}_{args.device}.json"
    sys.path.insert(0, str(ROOT))
    if args.finished:
        import bench_worker

        from chinchilla.core.errors import InputError

        try:
            bench_worker.of_finished(args.finished, args.worker_seconds, {})
        except (InputError, OSError) as error:
            parser.error(f"--finished {args.finished} cannot be read: {error}")
    if args.sweep:
        return run_sweep(args)
    result = compare(args)
    save(args.out, result)
    print(table(result))
    if not result["complete"]:
        return again(args)
    mine = [rows[s] for rows in result["summary"].values() for s in ("ours", "ours+compile")]
    if any("not_run" in row for row in mine):
        print("what this package does could not be measured everywhere: see not_run")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

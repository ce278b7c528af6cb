"""Validation loss by batch size, learning rate and seed: the study behind the demo recipe.

    python scripts/studies/study_demo.py DATA_DIR OUT_DIR [--budget 1e11] [--models 16x2,24x2,32x2]
        [--batches 512,1024] [--rates 0.012,0.017,0.024] [--seeds 0,1,2] [--heads 16]

Trains every combination on all cores, except for finished runs of an earlier call, and prints the mean and
standard deviation over seeds.
"""

import argparse
import dataclasses
import itertools
import statistics
import sys
from pathlib import Path

from chinchilla.cli import compose
from chinchilla.core.shapes import shape_named
from chinchilla.data.dataset import TokenData
from chinchilla.plan.grid import plan_run
from chinchilla.plan.records import RunResult
from chinchilla.sweep.launch import launch


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--budget", type=float, default=1e11)
    parser.add_argument("--models", default="16x2,24x2,32x2")
    parser.add_argument("--batches", default="512,1024")
    parser.add_argument("--rates", default="0.012,0.017,0.024")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--heads", type=int, default=16, help="kv_size")
    args = parser.parse_args()

    command = compose("sweep", ["recipe=demo", "runtime=demo", "runtime.validation_evals=1"])
    tokens = TokenData.open(args.data_dir)
    seeds = [int(s) for s in args.seeds.split(",")]
    groups = {}
    for model, batch, rate in itertools.product(
        args.models.split(","), args.batches.split(","), args.rates.split(",")
    ):
        shape = shape_named(model, tokens.vocab_size, 128, args.heads, "rope")
        groups[model, batch, rate] = [
            plan_run(
                shape,
                dataclasses.replace(
                    command.recipe, batch_tokens=int(batch), peak_lr=float(rate), seed=seed
                ),
                flop_convention="with_head",
                data_id=tokens.data_id,
                precision="fp32",
                budget_flops=args.budget,
            )
            for seed in seeds
        ]
    args.out_dir.mkdir(parents=True, exist_ok=True)
    launch(command, [s for specs in groups.values() for s in specs], args.out_dir, args.data_dir)
    print(f"{'model':>6} {'N':>7} {'steps':>6} {'batch':>6} {'peak_lr at 32':>13}  validation loss")
    for (model, batch, rate), specs in groups.items():
        results = [RunResult.load(args.out_dir / "runs" / s.run_id) for s in specs]
        losses = [r.validation_loss.get("validation", float("nan")) for r in results]
        spread = statistics.stdev(losses) if len(losses) > 1 else float("nan")
        print(
            f"{model:>6} {specs[0].N:>7} {specs[0].steps:>6} {batch:>6} {rate:>13}  "
            f"{statistics.fmean(losses):.4f} ± {spread:.4f}  {[round(x, 3) for x in losses]}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""CPU seconds and memory of the commands on large inputs.

    python scripts/bench/bench_growth.py [--rounds 3] [--only sweep|table|status] [--out FILE]

sweep: `fit` and `report` of 1,000 runs x 5,000 steps. table: `fit`, `diagnose` and `report` of 5,000 rows.
status: `status` of 10,000 finished runs.
`simulate_claims.py` measures claims. Each command is a separate process; CPU seconds are user and system time of the whole
process, memory is its largest resident set. Medians over rounds. Writes docs/results/growth.json.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_tools import RESULTS, ROOT, Arguments, count, out_file, provenance, save_json

sys.path.insert(0, os.fspath(ROOT))

WANTED = {  # command -> CPU seconds, MB (0: not limited)
    "fit, 1,000 runs x 5,000 steps": (6.0, 600),
    "report, 1,000 runs x 5,000 steps": (8.0, 600),
    "diagnose, 5,000 rows": (6.0, 0),
    "report, 5,000 rows": (6.0, 0),
    "status, 10,000 runs": (3.0, 0),
}
PEAK = "import resource, sys; from chinchilla.cli import main; code = main(sys.argv[1:]); "
PEAK += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"


def make_sweep(folder: Path, n_runs: int = 1_000, n_steps: int = 5_000) -> None:
    """The files of a finished sweep: ten budgets, losses drawn from a law with noise."""
    import numpy as np

    from chinchilla.core.provenance import Code
    from chinchilla.core.shapes import ModelShape, flops_per_token
    from chinchilla.plan.plan_file import save_plan
    from chinchilla.plan.records import Curve, RunResult, RunSpec

    rng, specs = np.random.default_rng(0), []
    seeds = -(-n_runs // (10 * 10))
    for budget in np.geomspace(1e16, 1e19, 10).tolist():
        best = 300 * (budget / 1e16) ** 0.25
        for width in (16 * np.rint(best / 16 * np.geomspace(0.45, 2.2, 10)).astype(int)).tolist():
            shape = ModelShape(width, width * 4, 16, width // 16, 4, vocab_size=4096, seq_len=512)
            batch = max(1, round(budget / flops_per_token(shape, "with_head") / n_steps))
            for seed in range(seeds):
                spec = RunSpec(
                    sweep="large", budget_flops=budget, flop_convention="with_head", model=shape,
                    data_id="d0", batch_tokens=batch, steps=n_steps, cosine_steps=n_steps,
                    warmup_steps=n_steps // 20, peak_lr=3e-3, final_lr_ratio=0.1, weight_decay=0.1,
                    beta1=0.9, beta2=0.95, adam_eps=1e-8, grad_clip=1.0, precision="fp32", seed=seed,
                )  # fmt: skip
                specs.append(spec)
    specs = specs[:n_runs]
    step = np.arange(n_steps)
    for spec in specs:
        run_dir = folder / "runs" / spec.run_id
        run_dir.mkdir(parents=True)
        noise = 1 + 0.003 * rng.standard_normal()
        final = noise * (1.7 + 400 / spec.N**0.34 + 410 / spec.D**0.28)
        D = (step + 1) * spec.batch_tokens
        loss = noise * (1.7 + 400 / spec.N**0.34 + 410 / D**0.28) + 0.1 * (1 - D / spec.D) ** 0.5
        loss = np.minimum(loss, 8.3) + 0.02 * rng.standard_normal(n_steps)
        loss = loss.astype(np.float32).astype(float)
        final = loss[-50:].mean()
        some = np.arange(n_steps // 20, n_steps + 1, n_steps // 20)
        curve = Curve(step, loss, some, loss[some - 1]).save(run_dir)
        last = {"held_out": float(loss[-1])}
        RunResult(
            spec=spec, status="finished", reason="", final_loss=float(final), final_loss_se=0.004,
            final_loss_steps=50, validation_loss=last, validation_tokens={"held_out": 65_536},
            bits_per_byte={"held_out": final / 2.1}, n_params=spec.N,
            n_params_non_embedding=spec.N - 4096 * spec.model.d_model, steps_done=n_steps,
            flops_spent=spec.C, train_seconds=30.0, tokens_per_second=1e5, mfu=None,
            peak_memory_bytes=10**8, device="cpu", versions={"torch": "2"}, code=Code("0.1.0"),
            started_utc="2026-01-01T00:00:00Z", finished_utc="2026-01-01T00:00:30Z", **curve,
        ).save(run_dir)  # fmt: skip
    save_plan(specs, folder / "plan.jsonl")


def write_table(path: Path, n: int = 5_000) -> None:
    """A table of runs: 50 budgets, sizes over a factor of 16 around the optimum."""
    import numpy as np

    rng = np.random.default_rng(0)
    C = np.repeat(np.geomspace(1e17, 1e21, 50), n // 50)
    N = 0.09 * C**0.5 * np.exp(rng.uniform(-1.4, 1.4, len(C)))
    D = C / (6 * N)
    L = (1.8 + 400 / N**0.34 + 2000 / D**0.36) * np.exp(0.004 * rng.standard_normal(len(C)))
    rows = zip(*(x.tolist() for x in (C, C, N, D, L)), strict=True)
    lines = [",".join([f"run{i}", *map(repr, row)]) for i, row in enumerate(rows)]
    path.write_text("\n".join(["run_id,budget_flops,C,N,D,L", *lines]) + "\n", encoding="utf-8")


def measured(name: str, words: list[str], folder: Path, rounds: int) -> dict[str, Any]:
    """Medians of CPU seconds and of the largest resident set of one command."""
    seconds, memory = [], []
    for _ in range(rounds):
        before = os.times()
        run = subprocess.run(
            [sys.executable, "-c", PEAK, *words], cwd=folder, capture_output=True, text=True,
            check=True, env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
        )  # fmt: skip
        after = os.times()
        seconds.append(
            after.children_user + after.children_system
            - before.children_user - before.children_system
        )  # fmt: skip
        memory.append(int(run.stderr.split()[-1]) / 1024)
    wanted = dict(zip(("cpu_seconds_at_most", "mb_at_most"), WANTED.get(name, (0, 0)), strict=True))
    row = {"command": name, "cpu_seconds": round(statistics.median(seconds), 2)}
    row |= {"cpu_seconds_range": [round(min(seconds), 2), round(max(seconds), 2)]}
    row |= {"peak_mb": round(statistics.median(memory)), "wanted": wanted}
    print(f"{name}: {row['cpu_seconds']:.1f} CPU-s, {row['peak_mb']} MB", flush=True)
    return row


def commands(only: str, scratch: Path, rounds: int) -> list[dict[str, Any]]:
    """The commands on a sweep and on a table."""
    rows = []
    if only in ("", "sweep"):
        make_sweep(scratch / "sweep")
        for command in ("fit", "report"):
            words = [command, f"sweep_dir={scratch / 'sweep'}"]
            rows.append(measured(f"{command}, 1,000 runs x 5,000 steps", words, scratch, rounds))
    if only in ("", "table"):
        write_table(scratch / "runs.csv")
        inputs = [f"observations={scratch / 'runs.csv'}", f"out_dir={scratch / 'fits'}"]
        rows.append(measured("fit, 5,000 rows", ["fit", *inputs], scratch, rounds))
        fits = f"fits={scratch / 'fits'}"
        rows += [
            measured(f"{command}, 5,000 rows", [command, fits], scratch, rounds)
            for command in ("diagnose", "report")
        ]
    if only in ("", "status"):
        make_sweep(scratch / "many", n_runs=10_000, n_steps=100)
        rows.append(
            measured("status, 10,000 runs", ["status", str(scratch / "many")], scratch, rounds)
        )
    return rows


def main() -> None:
    parser = Arguments(__doc__)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--only", choices=("sweep", "table", "status"), default="")
    parser.add_argument("--out", type=out_file, default=RESULTS / "growth.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = commands(options.only, Path(folder), options.rounds)
    save_json(options.out, {**provenance(), "commands": rows})


if __name__ == "__main__":
    main()

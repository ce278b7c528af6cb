"""Rate of false warnings of `chinchilla diagnose` on runs that follow the fitted law.

    python scripts/studies/false_warnings.py [SWEEPS]

Draws SWEEPS sweeps of each design from the published law, with random errors in ln L and without stated conventions
for N and C. Prints, for each design and for all, the share of sweeps with a warning, and the verdicts of each item.
About 3 sweeps per CPU second.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "bench")]

from bench_tools import Arguments, count

from chinchilla.config import FitCommand
from chinchilla.diagnose.verdicts import ITEMS, diagnose
from chinchilla.fit import fit_all
from chinchilla.fit.loss_law import named_law
from chinchilla.observations.table import Observations

LAW = named_law("hoffmann")
N_BOOTSTRAP = 200


def profiles(
    budgets: np.ndarray, n_sizes: int, half_width: float, off_centre: float = 1.0
) -> dict[str, np.ndarray]:
    """IsoFLOP profiles: sizes within a factor `half_width` of `off_centre` times the optimum."""
    a = LAW.beta / (LAW.alpha + LAW.beta)
    G = (LAW.alpha * LAW.A / (LAW.beta * LAW.B)) ** (1 / (LAW.alpha + LAW.beta))
    C = np.repeat(budgets, n_sizes)
    factors = off_centre * np.geomspace(1 / half_width, half_width, n_sizes)
    N = G * (C / 6) ** a * np.tile(factors, len(budgets))
    return {"N": N, "D": C / (6 * N), "C": C, "budget_flops": C}


def grid(n_sizes: int, ratios: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Grid of sizes and tokens per parameter, without budgets."""
    N = np.repeat(np.geomspace(5e7, 5e9, n_sizes), len(ratios))
    D = N * np.tile(ratios, n_sizes)
    return {"N": N, "D": D, "C": 6 * N * D}


DESIGNS = {  # name -> runs, standard deviation of ln L, heavy tails
    "6 budgets x 9 sizes": (profiles(np.geomspace(6e18, 2e21, 6), 9, 4), 0.004, False),
    "4 budgets x 7 sizes": (profiles(np.geomspace(6e18, 6e20, 4), 7, 5), 0.003, False),
    "9 budgets x 12 sizes, wide": (profiles(np.geomspace(6e18, 3e21, 9), 12, 10), 0.005, False),
    "5 budgets x 6 sizes, off centre": (
        profiles(np.geomspace(1e18, 1e20, 5), 6, 4, 1.6), 0.004, False
    ),
    "8 sizes x 5 D/N, no budgets": (grid(8, (5, 10, 20, 40, 80)), 0.004, False),
    "7 budgets x 8 sizes, Student's t(3)": (
        profiles(np.geomspace(1e18, 1e21, 7), 8, 6), 0.003, True
    ),
}  # fmt: skip


def sweep(name: str, seed: int) -> Observations:
    """One sweep of a design."""
    runs, sd, heavy = DESIGNS[name]
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    n = len(runs["N"])
    error = rng.standard_t(3, n) / np.sqrt(3) if heavy else rng.normal(size=n)
    return Observations.of(L=LAW(runs["N"], runs["D"]) * np.exp(sd * error), **runs)


def main(n_sweeps: int) -> None:
    """Print the table."""
    command = FitCommand(
        observations="runs.csv", out_dir="fits", approaches=["isoflop", "parametric"],
        n_bootstrap=N_BOOTSTRAP,
    )  # fmt: skip
    verdicts: Counter[tuple[str, str]] = Counter()
    total = 0
    for name in DESIGNS:
        warned = 0
        for seed in range(n_sweeps):
            obs = sweep(name, seed)
            diagnostics = diagnose(obs, fit_all(obs, None, command), n_bootstrap=N_BOOTSTRAP)
            verdicts.update((item, one.verdict) for item, one in diagnostics.items.items())
            warned += diagnostics.count("warning") > 0
        total += warned
        print(f"{name:<36} {warned} of {n_sweeps} sweeps with a warning", flush=True)
    n = n_sweeps * len(DESIGNS)
    print(f"{'all':<36} {total} of {n} sweeps with a warning ({total / n:.1%})")
    for item in ITEMS:
        counts = (
            f"{v.replace('_', ' ')} {k}" for (i, v), k in sorted(verdicts.items()) if i == item
        )
        print(f"  {item:<22} {', '.join(counts)}")


if __name__ == "__main__":
    parser = Arguments(__doc__)
    parser.add_argument("sweeps", metavar="SWEEPS", nargs="?", type=count, default=40)
    main(parser.parse_args().sweeps)

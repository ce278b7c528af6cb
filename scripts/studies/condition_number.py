"""Error of the exponent of approach 3 as a function of the condition number of the design.

    python scripts/studies/condition_number.py [DESIGNS]

Draws random designs with several budgets, whose tokens per parameter vary by a factor of up to 30. The losses follow
laws that differ slightly from L = E + A/N^alpha + B/D^beta: another size term, an interaction, a dependence on D/N,
or a beta that varies with N. Prints, by condition number, the error of the fitted a with respect to the exponent of
the true optima, and the width of its 80% interval. `chinchilla.fit.parametric.approach3.ILL_CONDITIONED` is based on
this table. 50 designs take about 15 CPU seconds.
"""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "bench")]

from bench_tools import Arguments, count

from chinchilla.core.errors import FitError
from chinchilla.fit import fit_parametric
from chinchilla.fit.loss_law import named_law
from chinchilla.observations.table import Observations

LAW = named_law("hoffmann")
EDGES = (0, 100, 150, 200, 300, 500, 1000, 3000, np.inf)
Loss = Callable[[np.ndarray, np.ndarray], np.ndarray]
SURFACES: dict[str, Loss] = {
    "another size term": lambda N, D: LAW(N, D) * (1 + 0.03 * (N / 1e8) ** -0.7),
    "interaction": lambda N, D: LAW(N, D) * np.exp(0.002 * np.log(N / 1e9) * np.log(D / 2e10)),
    "interaction, reversed": lambda N, D: (
        LAW(N, D) * np.exp(-0.002 * np.log(N / 1e9) * np.log(D / 2e10))
    ),
    "D/N": lambda N, D: LAW(N, D) * np.exp(0.0015 * np.log(D / N / 20) ** 2),
    "D/N, reversed": lambda N, D: LAW(N, D) * np.exp(-0.0015 * np.log(D / N / 20) ** 2),
    "beta of N": lambda N, D: (
        LAW.E + LAW.A / N**LAW.alpha + LAW.B / D ** (LAW.beta * (1 + 0.008 * np.log(N / 1e9)))
    ),
}


def true_exponent(loss: Loss, C: np.ndarray) -> float:
    """Slope of ln N_opt against ln C over the range of C, by search on a grid."""
    N = np.geomspace(1e6, 1e12, 6001)
    at = np.geomspace(C.min(), C.max(), 25)
    best = [np.log(N[np.argmin(loss(N, c / (6 * N)))]) for c in at]
    return float(np.polyfit(np.log(at), best, 1)[0])


def main(n_designs: int) -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    rows: list[tuple[float, float, float, float]] = []
    for _ in range(n_designs):
        width = np.exp(rng.uniform(np.log(1.15), np.log(30)))
        n_budgets, n_ratios = int(rng.integers(5, 9)), int(rng.integers(3, 8))
        budgets = 1e19 * np.geomspace(1, np.exp(rng.uniform(np.log(30), np.log(1000))), n_budgets)
        ratios = 20 * np.exp(rng.uniform(-1, 1)) * np.geomspace(width**-0.5, width**0.5, n_ratios)
        C = np.repeat(budgets, n_ratios)
        N = np.sqrt(C / 6 / (np.tile(ratios, n_budgets) * np.exp(0.03 * rng.normal(size=len(C)))))
        D = C / (6 * N)
        noise = np.exp(rng.uniform(np.log(0.0005), np.log(0.004))) * rng.normal(size=len(C))
        for loss in SURFACES.values():
            obs = Observations.of(N=N, D=D, L=loss(N, D) * np.exp(noise), C=C, budget_flops=C)
            try:
                fit = fit_parametric(obs, n_bootstrap=200)
            except FitError:
                continue
            a = fit.N_opt
            if fit.certificate is not None and a.p10 is not None and a.p90 is not None:
                error = a.exponent - true_exponent(loss, C)
                low, high = a.p10 - a.exponent, a.p90 - a.exponent  # around the fitted a
                outside = max(low + error, -error - high, 0.0)
                condition = float(fit.certificate["condition_number"])
                rows.append((condition, abs(error), (high - low) / 2, outside))
    condition, error, half, outside = np.array(rows).T
    print("condition number   fits  median |error|  90th pct  median half-width  over .05 outside")
    for low, high in itertools.pairwise(EDGES):
        part = (low <= condition) & (condition < high)
        if part.sum() >= 5:
            print(
                f"{low:>6g} to {high:<8g} {part.sum():>5}  {np.median(error[part]):>14.3f}"
                f"  {np.quantile(error[part], 0.9):>8.3f}  {np.median(half[part]):>17.3f}"
                f"  {(outside[part] > 0.05).mean():>16.0%}"
            )


if __name__ == "__main__":
    parser = Arguments(__doc__)
    parser.add_argument("designs", metavar="DESIGNS", nargs="?", type=count, default=200)
    main(parser.parse_args().designs)

"""Score forecasts of approach 3 with and without the saturating law on held-out budgets.

    python scripts/studies/score_richer_law.py DIR [--out FILE]

DIR contains porian_refinedweb_isoflop.csv, openathena_isoflop.csv and hoffmann_fig4.csv. Every sweep is fitted
without its largest budget and without all budgets above an eighth of it, with the paper's law alone (power)
and with the saturating law where it is fitted (both). Approach 3's weighted forecast at the largest budget is
compared with the minimum of a parabola through that budget's runs. Errors are |ln predicted - ln measured|, of
N_opt and of the loss. Writes docs/results/richer_law.json and prints it as a Markdown table.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "bench")]

from bench_tools import RESULTS, Arguments, existing_folder, out_file, save_json
from score_extrapolation import SPLITS, TABLES, observations, rows_of, sweeps_of

from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend.forecast import forecasts_of_laws
from chinchilla.recommend.held_out import errors_of_laws
from chinchilla.recommend.isoflop_minima import minima_of
from chinchilla.recommend.laws import candidate_laws, fit_windows

HOW = {"huber_delta": 1e-3, "objective": "huber"}
LAWS = ("power", "both")
SAME = {"N": 5e-3, "L": 5e-4}  # errors that differ by less count as equal


def errors(obs: Observations, split: float) -> dict[str, list[float]]:
    """Errors of ln N_opt and ln L at the largest budget with each set of laws; one sweep and split."""
    largest = float(np.nanmax(obs.budget_flops))
    limit = largest / split * 1.01 if split > 1 else largest * 0.999
    smaller = obs.where(obs.budget_flops <= limit)
    truth, fits = minima_of(obs, FitResults.of({}, {}, obs)), FitResults.of({}, {}, smaller)
    measured = np.log([truth.N[-1], truth.L[-1]])
    windows, minima = fit_windows(smaller, HOW), minima_of(smaller, fits)
    result = {}
    for name, laws in (("power", windows), ("both", candidate_laws(smaller, windows))):
        parts = forecasts_of_laws(laws, errors_of_laws(smaller, laws, minima, fits.cost, HOW))
        logs = [parts[q].log_at(float(truth.C[-1]), fits.cost) for q in ("N", "L")]
        result[name] = np.abs(logs - measured).tolist()
    return result


def summary(scores: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Mean and median errors of each set of laws, and how often it is better and worse than power."""
    result: dict[str, Any] = {"n": len(scores)}
    for law in LAWS:
        result[law] = {}
        for i, q in enumerate("NL"):
            own = np.array([s[law][i] for s in scores])
            excess = own - np.array([s["power"][i] for s in scores])
            result[law][q] = {
                "mean": float(own.mean()),
                "median": float(np.median(own)),
                "nearer": int((excess < -SAME[q]).sum()),
                "further": int((excess > SAME[q]).sum()),
            }
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = Arguments(__doc__)
    parser.add_argument("folder", type=existing_folder, help="with the public tables")
    parser.add_argument("--out", type=out_file, default=RESULTS / "richer_law.json")
    args = parser.parse_args(arguments)
    sweeps: dict[str, Observations] = {}
    for name, column in TABLES.items():
        sweeps |= sweeps_of(args.folder / name, column)
    points = [r for r in rows_of(args.folder / "hoffmann_fig4.csv") if r["budget_flops"]]
    sweeps["hoffmann_fig4"] = observations(points)
    scores = {
        split: {name: errors(obs, factor) for name, obs in sweeps.items()}
        for split, factor in SPLITS.items()
    }
    record = {
        "summary": {split: summary(list(by_sweep.values())) for split, by_sweep in scores.items()},
        "sweeps": scores,
    }
    save_json(args.out, record)
    print("| split | law | N_opt: mean, median, nearer, further | loss |\n|---|---|---|---|")
    for split, of in record["summary"].items():
        for law in LAWS:
            cells = [
                f"{x['mean']:.{d}f}, {x['median']:.{d}f}, {x['nearer']}, {x['further']}"
                for x, d in ((of[law]["N"], 3), (of[law]["L"], 4))
            ]
            print(f"| {split} | `{law}` | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

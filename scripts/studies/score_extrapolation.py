"""Score the recommendation on held-out budgets: N_opt, loss and 80% intervals.

    python scripts/studies/score_extrapolation.py DIR [--out FILE]
    python scripts/studies/score_extrapolation.py --table sweeps.csv:config [--table ...]

Writes docs/results/extrapolation.json and prints it as Markdown tables. A table is a CSV of IsoFLOP runs
(budget_flops, C, N, D, L), followed by a colon and the column that identifies its sweeps. DIR contains the public
tables under the names in TABLES. Missing ones are reported and left out.

Every sweep is fitted twice with the defaults of `chinchilla fit`: without its largest budget, and without
all budgets above an eighth of it. The recommendation at the C of the largest budget is compared with that
budget's own runs. A profile of five to ten sizes does not have a unique minimum, so N_opt is measured in
two ways: the minimum of a parabola in the window that `chinchilla fit` uses ("parabola"), and Akima's
interpolation of ln L ("akima", Porian et al. 2024; missing if its minimum is at an edge). The loss is
that of the parabola. Errors are |predicted / measured - 1|. `sd` is the standard error of the parabola's ln N_opt,
from the scatter of the runs about it. This part of the error is not due to the prediction.

If their tables are in DIR, three more results are scored: exponents of approach 2 against published ones
(porian_refinedweb_published.csv), the recommendation on the paper's 245 points at the Gopher budget
(hoffmann_fig4.csv), and forecasts of later losses from minima alone (marin_moe_minima.csv).
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import Akima1DInterpolator

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "bench")]

from bench_tools import RESULTS, Arguments, existing_folder, out_file, provenance, save_json

from chinchilla.config import FitCommand
from chinchilla.core.errors import Refusal
from chinchilla.fit import fit_isoflop
from chinchilla.fit.isoflop.profile import fit_budget
from chinchilla.fit.isoflop.window import find_window
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.results import FitResults
from chinchilla.observations.read_table import read_frame
from chinchilla.observations.table import Observations
from chinchilla.recommend import fit_and_recommend, recommendation
from chinchilla.recommend.isoflop_minima import minima_of
from chinchilla.recommend.minima import fit_minima

TABLES = {"porian_refinedweb_isoflop.csv": "config", "openathena_isoflop.csv": "experiment"}
SPLITS = {"without the largest budget": 1.0, "without budgets above an eighth": 8.0}
GOPHER = 5.76e23  # FLOPs
COLUMNS = ("budget_flops", "C", "N", "D", "L")


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def observations(rows: Sequence[dict[str, str]]) -> Observations:
    """Observations of the rows of an IsoFLOP table; an empty budget is NaN."""
    columns = {name: [float(row[name] or "nan") for row in rows] for name in COLUMNS}
    names = [row.get("run_id") or f"run{i:04d}" for i, row in enumerate(rows)]
    return Observations.of(**columns, run_id=names)


def fitted(obs: Observations) -> FitResults:
    """Fits with the defaults of `chinchilla fit`."""
    return fit_and_recommend(obs, None, FitCommand(observations="-"))


def akima_minimum(N: np.ndarray, L: np.ndarray) -> float:
    """Size with the lowest loss on Akima's curve of ln L over ln N (Porian et al. 2024).

    NaN if the smallest or the largest size has the lowest loss, or there are fewer than four sizes.
    """
    sizes, index = np.unique(N, return_inverse=True)
    if len(sizes) < 4:
        return np.nan
    x, y = np.log(sizes), np.bincount(index, np.log(L)) / np.bincount(index)
    at = np.linspace(x[0], x[-1], 2_000)
    best = int(Akima1DInterpolator(x, y)(at).argmin())
    return np.nan if best in (0, len(at) - 1) else float(np.exp(at[best]))


def measured(obs: Observations) -> dict[str, float]:
    """N_opt by both methods and the loss at the minimum of one budget's runs; NaN if missing."""
    empty = FitResults.of({}, {}, obs)
    minimum = minima_of(obs, empty)
    near = obs.where(find_window(obs, "auto").keep)
    profile = fit_budget(near, 1.0, None, FlopsPerToken.from_observations(near))
    sd = np.nan
    if profile.c is not None:
        square = profile.pull**2 * profile.residuals**2 / (1 - profile.leverage)
        sd = float(np.sqrt(square.sum()))
    return {
        "parabola": float(minimum.N[0]) if len(minimum) else np.nan,
        "akima": akima_minimum(obs.N, obs.L),
        "L": float(minimum.L[0]) if len(minimum) else np.nan,
        "sd": sd,
    }


def score(obs: Observations, split: float) -> dict[str, Any]:
    """Errors of one sweep and split, and whether the intervals contain the measured values."""
    largest = float(np.nanmax(obs.budget_flops))
    held = obs.where(obs.budget_flops == largest)
    limit = largest / split * 1.01 if split > 1 else largest * 0.999
    smaller = obs.where(obs.budget_flops <= limit)
    C = float(np.exp(np.log(held.C).mean()))
    entry: dict[str, Any] = {"C": C, "beyond": C / float(smaller.C.max())}
    try:
        r = recommendation(fitted(smaller), C)
    except Refusal as error:
        return {**entry, "refused": str(error)}
    truth = measured(held)
    for name, value, interval in (
        ("parabola", r.N, r.N_interval80),
        ("akima", r.N, r.N_interval80),
        ("L", r.L, r.L_interval80),
    ):
        if value is None or interval is None or np.isnan(truth[name]):
            entry[name] = None
            continue
        entry[name] = {
            "predicted": value,
            "interval80": interval,
            "measured": truth[name],
            "error": value / truth[name] - 1,
            "inside": bool(interval[0] <= truth[name] <= interval[1]),
        }
    return {**entry, "sd": None if np.isnan(truth["sd"]) else truth["sd"], "approach": r.approach}


def summary(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median errors and the share of intervals that contain the measured values."""
    result: dict[str, Any] = {
        "n": len(scores),
        "refused": sum("refused" in s for s in scores),
        "approaches": sorted({s["approach"] for s in scores if "approach" in s}),
    }
    sds = [s["sd"] for s in scores if s.get("sd") is not None]
    result["median_sd"] = float(np.median(sds)) if sds else None
    for name in ("parabola", "akima", "L"):
        cases = [s[name] for s in scores if s.get(name)]
        errors = [abs(k["error"]) for k in cases]
        result[name] = {
            "n": len(cases),
            "median_error": float(np.median(errors)) if errors else None,
            "largest_error": max(errors, default=None),
            "inside": float(np.mean([k["inside"] for k in cases])) if cases else None,
        }
    return result


def sweeps_of(path: Path, column: str) -> dict[str, Observations]:
    """The sweeps of a table by the values of a column."""
    rows = [row for row in rows_of(path) if row["budget_flops"]]
    names = dict.fromkeys(row[column] for row in rows)
    return {name: observations([r for r in rows if r[column] == name]) for name in names}


def exponents(folder: Path) -> dict[str, Any]:
    """Approach 2 with its defaults against the published exponents."""
    published = {
        r["config"]: float(r["a_weighted"])
        for r in rows_of(folder / "porian_refinedweb_published.csv")
    }
    sweeps = sweeps_of(folder / "porian_refinedweb_isoflop.csv", "config")
    errors = {
        name: fit_isoflop(sweeps[name], n_bootstrap=0).N_opt.exponent - a
        for name, a in published.items()
    }
    within = sum(abs(x) <= 0.03 for x in errors.values())
    return {"off": errors, "n": len(errors), "within_0.03": within}


def gopher(folder: Path) -> dict[str, Any]:
    """The recommendation on the paper's points at the Gopher budget."""
    fits = fitted(observations(rows_of(folder / "hoffmann_fig4.csv")))
    assert fits.recommended is not None
    outliers = [o["run_id"] for o in fits.recommended["outliers"]]
    return {**recommendation(fits, GOPHER).to_dict(), "outliers": outliers}


def from_minima(folder: Path) -> list[dict[str, Any]]:
    """Forecasts of later losses from six minima alone, as by `chinchilla fit minima=`."""
    rows = rows_of(folder / "marin_moe_minima.csv")
    of = {
        use: np.array([(float(r["C"]), float(r["L"])) for r in rows if r["use"] == use])
        for use in ("fit", "held_out")
    }
    fits = fit_minima(read_frame(dict(zip("CL", of["fit"].T, strict=True))))
    forecasts = []
    for at, loss in of["held_out"]:
        e = recommendation(fits, float(at))
        assert e.L is not None
        assert e.L_interval80 is not None
        low, high = e.L_interval80
        forecasts.append(
            {
                "C": float(at),
                "predicted": e.L,
                "interval80": e.L_interval80,
                "measured": float(loss),
                "error": e.L / loss - 1,
                "width": high / low - 1,
                "inside": bool(low <= loss <= high),
            }
        )
    return forecasts


def text(record: dict[str, Any]) -> str:
    """The record as Markdown tables."""
    lines = [
        "| sweeps | split | n | N_opt, parabola: median error, inside | N_opt, Akima | loss | sd of the parabola's N_opt |",
        "|---|---|---|---|---|---|---|",
    ]

    def cell(s: dict[str, Any], digits: int) -> str:
        if s["median_error"] is None:
            return "none"
        return f"{100 * s['median_error']:.{digits}f}%, {s['inside']:.2f} of {s['n']}"

    for table, splits in record["summary"].items():
        for split, s in splits.items():
            lines.append(
                f"| {table} | {split} | {s['n']} | {cell(s['parabola'], 1)} | {cell(s['akima'], 1)} | "
                f"{cell(s['L'], 2)} | {100 * s['median_sd']:.0f}% |"
            )
    if a := record.get("exponents"):
        lines.append(
            f"\nApproach 2: {a['within_0.03']} of {a['n']} published exponents within .03."
        )
    if g := record.get("gopher"):
        low, high = g["N_interval80"]
        lines.append(
            f"The paper's points at {GOPHER:.3g} FLOPs: {g['N'] / 1e9:.1f}B parameters "
            f"({low / 1e9:.1f}B to {high / 1e9:.1f}B), {len(g['outliers'])} outliers excluded."
        )
    lines += [
        f"Minima alone, {m['C']:.0e} FLOPs: {100 * m['error']:+.3f}%, 80% interval "
        f"{100 * m['width']:.2f}% wide, {'contains' if m['inside'] else 'misses'} the loss."
        for m in record.get("minima", [])
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = Arguments(__doc__)
    parser.add_argument("folder", type=existing_folder, nargs="?", help="with the public tables")
    parser.add_argument("--table", action="append", default=[], help="FILE.csv:COLUMN")
    parser.add_argument("--out", type=out_file, default=RESULTS / "extrapolation.json")
    args = parser.parse_args(arguments)
    tables: dict[str, tuple[Path, str]] = {}
    for option in args.table:
        name, _, column = option.rpartition(":")
        if not name or not Path(name).is_file():
            parser.error(f"--table: {option!r} is not FILE.csv:COLUMN with an existing file.")
        tables[Path(name).name] = (Path(name), column)
    if args.folder:
        tables |= {n: (args.folder / n, c) for n, c in TABLES.items()}
    absent = [name for name, (path, _) in tables.items() if not path.is_file()]
    for name in absent:
        print(f"{name}: left out, it is not in {args.folder}.", file=sys.stderr)
    tables = {name: place for name, place in tables.items() if name not in absent}
    if not tables:
        print("no table to score: give a folder or --table FILE.csv:COLUMN.", file=sys.stderr)
        return 1
    sweeps: dict[str, Any] = {}
    for table, (path, column) in tables.items():
        if column not in rows_of(path)[0]:
            parser.error(f"--table: {path} has no column {column!r}.")
        sweeps[table] = {
            name: {split: score(obs, factor) for split, factor in SPLITS.items()}
            for name, obs in sweeps_of(path, column).items()
        }
    record: dict[str, Any] = {
        **provenance(),
        "summary": {
            table: {split: summary([s[split] for s in scores.values()]) for split in SPLITS}
            for table, scores in sweeps.items()
        },
        "sweeps": sweeps,
    }
    every = [s[split] for scores in sweeps.values() for s in scores.values() for split in SPLITS]
    record["summary"]["all"] = {"both": summary(every)}
    for key, file, of in (
        ("exponents", "porian_refinedweb_published.csv", exponents),
        ("gopher", "hoffmann_fig4.csv", gopher),
        ("minima", "marin_moe_minima.csv", from_minima),
    ):
        if args.folder and (args.folder / file).is_file():
            record[key] = of(args.folder)
    save_json(args.out, record)
    print(text(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())

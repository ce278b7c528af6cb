"""Measure the coverage of intervals on synthetic sweeps of known laws.

    python scripts/studies/coverage.py [OUT.json] [--approach NAME] [--design NAME]

Draws sweeps (coverage_designs.py), fits each, and counts how often the 80% and 95% intervals of a and of N_opt at
ten times the largest C contain the true values. Writes docs/results/coverage.json (or OUT.json) after every study,
with the date and commit of each study. Studies that the file already contains under these settings are skipped, so
the script can be interrupted. Delete the file, or a study in it, to repeat it. --approach and --design select the
approaches and designs whose name contains NAME. All studies take an hour on one core.

The study "recommended" measures the recommendation of `chinchilla fit` at ten times the largest C
(chinchilla/recommend): the coverage of its 80% intervals of N_opt and of the loss, and its root mean square errors
with those of approaches 2 and 3. With IsoFLOP profiles it is fitted without resamples, which can only widen its
interval.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "bench")]

from bench_tools import RESULTS, Arguments, provenance
from coverage_designs import LADDERS, MISFITS, NOISES, PENALTY, PROFILES, SPARSE, A, Design

from chinchilla.config import FitCommand
from chinchilla.core.errors import FitError, Refusal
from chinchilla.core.files.reading import read_json
from chinchilla.core.files.writing import write_json
from chinchilla.fit import fit_envelope, fit_isoflop
from chinchilla.fit.bootstrap import draw_counts, power_laws, random_weights
from chinchilla.fit.loss_law import FrontierSolver
from chinchilla.fit.parametric.approach3 import fit_loss_law, refit_loss_law
from chinchilla.fit.result import PowerLaw
from chinchilla.observations.table import Observations
from chinchilla.recommend import fit_and_recommend, recommendation

N_SWEEPS = 300  # binomial standard error 1.3% at 95%, 2.3% at 80%
N_SLOW = 200  # for approaches 1 and 2, which are slower: 1.5% and 2.8%
N_PARABOLA = 100  # for the paper's approach 2, as a comparison: 2.2% and 4%
N_RECOMMENDED = 60  # 5.2% at 80%
N_BOOTSTRAP = {"parametric": 400, "isoflop": 1_000, "envelope": 200}

Fit = Callable[[Observations, int], PowerLaw]  # (observations, seed of the resampling) -> N_opt
Designs = Mapping[str, Callable[[], Design]]
Study = Callable[[Design, str, int], dict[str, Any]]  # (design, noise, number of sweeps) -> record


def parametric(draw: Callable[[int, int, int], np.ndarray]) -> Fit:
    """Fit of N_opt as in `fit_parametric`, with resamples by a function of `bootstrap`."""

    def fit(obs: Observations, seed: int) -> PowerLaw:
        law, _ = fit_loss_law(obs.N, obs.D, obs.L)
        weights = draw(len(obs), N_BOOTSTRAP["parametric"], seed)
        laws = refit_loss_law(obs.N, obs.D, obs.L, weights, law)
        solver = FrontierSolver.of(obs)
        samples = solver.all_lines(laws.theta)
        return power_laws(*solver.lines(law), samples)[0]

    return fit


def isoflop(**settings: str) -> Fit:
    n = N_BOOTSTRAP["isoflop"]
    return lambda obs, seed: fit_isoflop(obs, n_bootstrap=n, seed=seed, **settings).N_opt


def envelope(obs: Observations, seed: int) -> PowerLaw:
    return fit_envelope(obs, n_bootstrap=N_BOOTSTRAP["envelope"], seed=seed).N_opt


def study(fit: Fit, design: Design, noise: str, n_sweeps: int) -> dict[str, Any]:
    """Coverage and bias over sweeps with seeds 0, 1, ..."""
    a, log_N, covered, inside, refused = [], [], [], 0, 0
    for seed in range(n_sweeps):
        obs = design.build(noise, seed)
        C = 10 * float(obs.C.max())
        truth = design.log_N_opt(C)
        try:
            law = fit(obs, seed)
        except FitError:
            refused += 1
            continue
        if law.p10 is None or law.p90 is None or law.ci95 is None:
            refused += 1
            continue
        bands = [np.log(law.band(C, low, high)) for low, high in ((10, 90), (2.5, 97.5))]
        a.append(law.exponent - design.a)
        log_N.append(float(np.log(law(C)) - truth))
        inside += law.p10 <= law.exponent <= law.p90
        covered.append(
            [
                law.p10 <= design.a <= law.p90,
                law.ci95[0] <= design.a <= law.ci95[1],
                *(low <= truth <= high for low, high in bands),
            ]
        )
    if len(a) < 2:
        return {"n_sweeps": len(a), "without_interval": refused}
    share = np.mean(covered, axis=0)
    return {
        "n_sweeps": len(a),
        "without_interval": refused,
        "a": _of(np.array(a), share[0], share[1]),
        "log_N_opt_at_10x": _of(np.array(log_N), share[2], share[3]),
        "estimate_inside_its_80_interval": inside / len(a),
    }


def _of(error: np.ndarray, in80: float, in95: float) -> dict[str, float]:
    return {
        "in80": round(float(in80), 4),
        "in95": round(float(in95), 4),
        "bias": float(f"{error.mean():.3g}"),
        "bias_se": float(f"{error.std(ddof=1) / np.sqrt(len(error)):.2g}"),
        "sd": float(f"{error.std(ddof=1):.3g}"),
    }


def recommended(n_bootstrap: int, design: Design, noise: str, n_sweeps: int) -> dict[str, Any]:
    """Coverage and errors of the recommendation at ten times the largest C; seeds 0, 1, ..."""
    command = FitCommand(observations="-", n_bootstrap=n_bootstrap)
    approaches: Counter[str] = Counter()
    errors: dict[str, list[dict[str, float]]] = {"N": [], "L": []}
    covered: dict[str, list[bool]] = {"N": [], "L": []}
    half: dict[str, list[float]] = {"N": [], "L": []}
    refused = 0
    for seed in range(n_sweeps):
        obs = design.build(noise, seed)
        C = 10 * float(obs.C.max())
        truth = {"N": design.log_N_opt(C), "L": design.log_L_opt(C)}
        fits = fit_and_recommend(obs, None, command)
        try:
            result = recommendation(fits, C)
        except Refusal:
            refused += 1
            continue
        approaches[result.approach] += 1
        estimates = {"N": (result.N, result.N_interval80), "L": (result.L, result.L_interval80)}
        others = {name: fits.fitted[name] for name in fits.fitted if name != "envelope"}
        for q, true in truth.items():
            value, interval = estimates[q]
            if value is None or interval is None:
                continue
            low, high = np.log(interval)
            covered[q].append(bool(low <= true <= high))
            half[q].append(float(high - low) / 2)
            error = {"recommended": float(np.log(value)) - true}
            if q == "N":
                error |= {k: float(np.log(f.N_opt(C))) - true for k, f in others.items()}
            elif "parametric" in others and (law := others["parametric"].law) is not None:
                N = float(others["parametric"].N_opt(C))
                error["parametric"] = float(np.log(law(N, C / (6 * N)))) - true
            errors[q].append(error)
    return {
        "n_sweeps": sum(approaches.values()),
        "without_interval": refused,
        "lead": dict(approaches),
        **{
            f"log_{q}_at_10x": {
                "in80": round(float(np.mean(covered[q])), 4),
                "median_half_width": float(f"{np.median(half[q]):.3g}"),
                "bias": float(f"{np.mean([e['recommended'] for e in errors[q]]):.3g}"),
                "rms": {k: _rms(errors[q], k) for k in ("recommended", "isoflop", "parametric")},
            }
            for q in ("N", "L")
            if errors[q]
        },
    }


def _rms(errors: list[dict[str, float]], name: str) -> float | None:
    values = [e[name] for e in errors if name in e]
    return float(f"{np.sqrt(np.mean(np.square(values))):.3g}") if values else None


TWO = ("even", "uneven")
FOUR = tuple(NOISES)
HARDER = [("5 budgets x 5 sizes, +-4x", FOUR), ("9 budgets x 7 sizes, +-4x", FOUR)]
OF_PROFILES = {**dict.fromkeys([*PROFILES, *MISFITS], TWO), **dict(HARDER)}
OF_SPARSE = {**dict.fromkeys(SPARSE, TWO), "24 budgets x 1 run": FOUR}
OF_LAWS = {**OF_SPARSE, **OF_PROFILES}
PLAIN = dict.fromkeys(list(PROFILES)[:3], TWO)
OF_CURVES = dict.fromkeys(LADDERS, TWO)
DESIGNS: Designs = {**PROFILES, **MISFITS, **SPARSE, **LADDERS}
STUDIES: list[tuple[str, Study, Mapping[str, tuple[str, ...]], int]] = [
    (
        "parametric, bayesian (default)",
        partial(study, parametric(random_weights)),
        OF_LAWS,
        N_SWEEPS,
    ),
    ("isoflop, exact, wild (default)", partial(study, isoflop()), OF_PROFILES, N_SLOW),
    ("isoflop, parabola, wild", partial(study, isoflop(profile="parabola")), PLAIN, N_PARABOLA),
    ("parametric, pairs", partial(study, parametric(draw_counts)), PLAIN, N_SWEEPS),
    ("envelope, all (default)", partial(study, envelope), OF_CURVES, N_SLOW),
    ("recommended", partial(recommended, 100), OF_SPARSE, N_RECOMMENDED),
    ("recommended", partial(recommended, 0), OF_PROFILES, N_RECOMMENDED),
]


def main(args: argparse.Namespace) -> None:
    settings = {
        "n_bootstrap": N_BOOTSTRAP,
        "law": "hoffmann",
        "a": A,
        "noise_sd_of_ln_L": NOISES,
        "penalty": PENALTY,
    }
    old = read_json(args.out, "coverage") if args.out.exists() else {}
    studies: list[dict[str, Any]] = old["studies"] if old.get("settings") == settings else []
    made = provenance()
    record: dict[str, Any] = {"machine": made.pop("machine"), "settings": settings}
    done = {(s["approach"], s["design"], s["noise"]) for s in studies}
    print(f"{'':58}     a: 80%   95%     bias    +-    ln N_opt: 80%   95%    bias    +-")
    for approach, measure, designs, n_sweeps in STUDIES:
        for name, noise in ((d, n) for d, noises in designs.items() for n in noises):
            key = (approach, name, noise)
            if args.approach not in approach or args.design not in name:
                continue
            if key not in done:
                start = time.process_time()
                study_result = measure(DESIGNS[name](), noise, n_sweeps)
                seconds = round(time.process_time() - start, 1)
                named = dict(zip(("approach", "design", "noise"), key, strict=True))
                studies.append({**named, **study_result, "cpu_seconds": seconds, **made})
                args.out.parent.mkdir(parents=True, exist_ok=True)
                write_json(args.out, {**record, "studies": studies})
            row = next(s for s in studies if (s["approach"], s["design"], s["noise"]) == key)
            print(_line(row), flush=True)


def _line(row: dict[str, Any]) -> str:
    name = f"{row['approach']:31}{row['design']:26}{row['noise']:9}"
    if "lead" in row:
        parts = [
            f"ln {q}: {of['in80']:6.1%} +-{of['median_half_width']:.4f} rms {of['rms']}"
            for q in ("N", "L")
            if (of := row.get(f"log_{q}_at_10x"))
        ]
        return f"{name} {'  '.join(parts)}  {row['lead']}"
    if "a" not in row:
        return f"{name} no interval in {row['without_interval']} sweeps"
    a, N = row["a"], row["log_N_opt_at_10x"]
    return (
        f"{name} {a['in80']:6.1%} {a['in95']:6.1%} {a['bias']:+.4f} {a['bias_se']:.4f}"
        f"          {N['in80']:6.1%} {N['in95']:6.1%} {N['bias']:+.4f} {N['bias_se']:.4f}"
    )


def command_line() -> argparse.Namespace:
    parser = Arguments(__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=RESULTS / "coverage.json")
    parser.add_argument("--approach", default="", help="part of the names of the approaches to run")
    parser.add_argument("--design", default="", help="part of the names of the designs to run")
    args = parser.parse_args()
    names = {"approach": [name for name, *_ in STUDIES], "design": list(DESIGNS)}
    for key, known in names.items():
        if not any(getattr(args, key) in name for name in known):
            parser.error(f"--{key} {getattr(args, key)} matches none of: {'; '.join(known)}")
    return args


if __name__ == "__main__":
    main(command_line())

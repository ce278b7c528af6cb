"""How often intervals hold the truth: synthetic sweeps from a known law, each approach, two noises.

    python scripts/coverage.py [OUT.json]

Draws sweeps from Hoffmann et al.'s law, fits each, and counts how often the 80% and 95% intervals of
a and of N_opt at ten times the largest C hold the law's own. Writes docs/results/coverage.json (or
OUT.json) after every study, each with its date and commit, and skips those it already holds under these
settings, so it can be stopped; delete the file to start anew. Half an hour on one core.

Noise is in ln L, one error a run. "even": normal, sd .002. "uneven": sd .0075 over the sweep as on the
points published by Hoffmann et al. (residuals of approach 3, kurtosis 16.7), larger for small C
(C^-0.2), heavy-tailed (Student's t with 4 degrees of freedom).
"""

import datetime
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.errors import FitError
from chinchilla.files import read_json, write_json
from chinchilla.fit import fit_envelope, fit_isoflop
from chinchilla.fit.bootstrap import draw, power_laws
from chinchilla.fit.frontier import PowerLaw
from chinchilla.fit.loss_law import LawFrontier, named_law, six_nd_frontier
from chinchilla.fit.parametric import fit_loss_law, refit_loss_law
from chinchilla.observations import Observations
from chinchilla.paper import ISOFLOP_BUDGETS
from chinchilla.train.device import git_commit

N_SWEEPS = 400  # binomial standard error 1.1% at 95%, 2% at 80%
N_LADDERS = 200  # the same for approach 1, which is slower: 1.5% and 2.8%
N_BOOTSTRAP = 400
LAW = named_law("hoffmann")
(LOG_K, A), _, _ = six_nd_frontier(LAW)
NOISES = {"even": 0.002, "uneven": 0.0075}
PROFILES = {  # budgets, sizes at each, half-width of the sizes around the optimum
    "9 budgets x 7 sizes, +-4x": (ISOFLOP_BUDGETS, 7, 4.0),
    "9 budgets x 9 sizes, +-8x": (ISOFLOP_BUDGETS, 9, 8.0),
    "5 budgets x 5 sizes, +-4x": (ISOFLOP_BUDGETS[::2], 5, 4.0),
}
LADDERS = {f"{n} sizes x 6 horizons": n for n in (6, 12, 24)}  # over a factor 100 in N
RATIOS = (5, 10, 20, 40, 80, 160)  # tokens per parameter of the horizons; the best are 15 to 45
PENALTY = 0.05  # how much a curve lies above the law at its start, falling to 0 at its end

Sweep = Callable[[str, int], Observations]  # noise, seed
Fit = Callable[[Observations, int], PowerLaw]  # the resampling has the sweep's seed


def errors(C: np.ndarray, noise: str, seed: int) -> np.ndarray:
    """(n,) errors of ln L of runs that spent C."""
    rng = np.random.default_rng(seed)
    if noise == "even":
        return NOISES[noise] * rng.normal(size=len(C))
    scale = C**-0.2
    scale *= NOISES[noise] / np.sqrt((scale**2).mean())
    return scale * rng.standard_t(4, size=len(C)) / np.sqrt(2)


def profile_sweep(design: str) -> Sweep:
    """Final losses of an isoFLOP grid."""
    budgets, n_sizes, half_width = PROFILES[design]
    C = np.repeat(np.array(budgets, float), n_sizes)
    N = (
        np.exp(LOG_K)
        * C**A
        * np.tile(np.geomspace(1 / half_width, half_width, n_sizes), len(budgets))
    )
    D = C / (6 * N)
    names = np.array([f"run{i:03d}" for i in range(len(C))])

    def build(noise: str, seed: int) -> Observations:
        return Observations(names, C, C, N, D, LAW(N, D) * np.exp(errors(C, noise, seed)))

    return build


def ladder_sweep(design: str) -> Sweep:
    """Curves of sizes, each to the same six tokens per parameter; 60 points each."""
    sizes = np.geomspace(5e7, 5e9, LADDERS[design])
    N = np.repeat(sizes, len(RATIOS))
    C_end = 6 * N**2 * np.tile(np.array(RATIOS, float), len(sizes))
    done = np.geomspace(0.02, 1, 60)
    D = C_end[:, None] / (6 * N[:, None]) * done  # (n_runs, 60)
    L = LAW(N[:, None], D) * (1 + PENALTY * (1 - done))
    names = np.repeat([f"run{i:03d}" for i in range(len(N))], 60)
    columns = np.repeat(N, 60), D.ravel()
    unnamed = np.full(len(names), np.nan)

    def build(noise: str, seed: int) -> Observations:
        error = errors(C_end, noise, seed)[:, None]
        return Observations(
            names,
            unnamed,
            6 * columns[0] * columns[1],
            *columns,
            (L * np.exp(error)).ravel(),
            loss_kind="heldout",
        )

    return build


def parametric(resampling: str) -> Fit:
    """What `fit_parametric` does for N_opt, without the intervals that it compares."""

    def fit(obs: Observations, seed: int) -> PowerLaw:
        law, _ = fit_loss_law(obs.N, obs.D, obs.L)
        weights = draw(resampling, obs, N_BOOTSTRAP, seed)
        laws = refit_loss_law(obs.N, obs.D, obs.L, weights, law)
        frame = LawFrontier.of(obs)
        N_line, D_line = frame.lines(law)
        return power_laws(N_line, D_line, frame.all_lines(laws.theta), 10 * float(obs.C.max()))[0]

    return fit


def isoflop(**settings: str) -> Fit:
    return lambda obs, seed: fit_isoflop(obs, n_bootstrap=N_BOOTSTRAP, seed=seed, **settings).N_opt


def envelope(part: str) -> Fit:
    return lambda obs, seed: (
        fit_envelope(obs, part=part, n_bootstrap=N_BOOTSTRAP // 2, seed=seed).N_opt
    )


STUDIES: list[tuple[str, Fit, dict[str, Sweep]]] = [
    ("isoflop, exact, wild (default)", isoflop(), {d: profile_sweep(d) for d in PROFILES}),
    (
        "isoflop, parabola, wild",
        isoflop(profile="parabola"),
        {d: profile_sweep(d) for d in PROFILES},
    ),
    (
        "isoflop, parabola, pairs",
        isoflop(profile="parabola", interval="pairs"),
        {d: profile_sweep(d) for d in PROFILES},
    ),
    (
        "parametric, bayesian (default)",
        parametric("bayesian"),
        {d: profile_sweep(d) for d in PROFILES},
    ),
    ("parametric, pairs", parametric("pairs"), {d: profile_sweep(d) for d in PROFILES}),
    ("envelope, all (default)", envelope("all"), {d: ladder_sweep(d) for d in LADDERS}),
    ("envelope, tail", envelope("tail"), {d: ladder_sweep(d) for d in LADDERS}),
    ("envelope, hull", envelope("hull"), {d: ladder_sweep(d) for d in LADDERS}),
]


def study(fit: Fit, sweep: Sweep, noise: str, n_sweeps: int) -> dict[str, Any]:
    """Coverage and bias over sweeps of seeds 0, 1, ..."""
    a, log_N, held, inside, refused = [], [], [], 0, 0
    for seed in range(n_sweeps):
        obs = sweep(noise, seed)
        C = 10 * float(obs.C.max())
        truth = LOG_K + A * np.log(C)
        try:
            law = fit(obs, seed)
        except FitError:
            refused += 1
            continue
        if law.p10 is None or law.p90 is None or law.ci95 is None:
            refused += 1
            continue
        bands = [np.log(law.band(C, low, high)) for low, high in ((10, 90), (2.5, 97.5))]
        a.append(law.exponent - A)
        log_N.append(float(np.log(law(C)) - truth))
        inside += law.p10 <= law.exponent <= law.p90
        held.append(
            [
                law.p10 <= A <= law.p90,
                law.ci95[0] <= A <= law.ci95[1],
                *(low <= truth <= high for low, high in bands),
            ]
        )
    if len(a) < 2:
        return {"n_sweeps": len(a), "without_interval": refused}
    share = np.mean(held, axis=0)
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


def main(out: Path) -> None:
    settings = {
        "n_sweeps": [N_SWEEPS, N_LADDERS],
        "n_bootstrap": [N_BOOTSTRAP, N_BOOTSTRAP // 2],
        "law": "hoffmann",
        "a": A,
        "noise_sd_of_ln_L": NOISES,
        "penalty": PENALTY,
    }
    kept = read_json(out, "coverage") if out.exists() else {}
    studies: list[dict[str, Any]] = kept["studies"] if kept.get("settings") == settings else []
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    record: dict[str, Any] = {"machine": machine, "settings": settings}
    made = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "commit": git_commit()}
    done = {(s["approach"], s["design"], s["noise"]) for s in studies}
    print(f"{'':58}     a: 80%   95%     bias    +-    ln N_opt: 80%   95%    bias    +-")
    for approach, fit, sweeps in STUDIES:
        for design, sweep in sweeps.items():
            for noise in NOISES:
                key = (approach, design, noise)
                if key not in done:
                    start = time.process_time()
                    found = study(fit, sweep, noise, N_LADDERS if design in LADDERS else N_SWEEPS)
                    seconds = round(time.process_time() - start, 1)
                    named = dict(zip(("approach", "design", "noise"), key, strict=True))
                    studies.append({**named, **found, "cpu_seconds": seconds, **made})
                    out.parent.mkdir(parents=True, exist_ok=True)
                    write_json(out, {**record, "studies": studies})
                row = next(s for s in studies if (s["approach"], s["design"], s["noise"]) == key)
                print(_line(row), flush=True)


def _line(row: dict[str, Any]) -> str:
    name = f"{row['approach']:31}{row['design']:26}{row['noise']:7}"
    if "a" not in row:
        return f"{name} no interval in {row['without_interval']} sweeps"
    a, N = row["a"], row["log_N_opt_at_10x"]
    return (
        f"{name} {a['in80']:6.1%} {a['in95']:6.1%} {a['bias']:+.4f} {a['bias_se']:.4f}"
        f"          {N['in80']:6.1%} {N['in95']:6.1%} {N['bias']:+.4f} {N['bias_se']:.4f}"
    )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1] if len(sys.argv) == 2 else "docs/results/coverage.json"))

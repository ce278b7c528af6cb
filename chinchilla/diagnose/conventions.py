"""The exponent if N and C are counted in other ways, from the same runs and losses.

N with and without the embedding; C as recorded, 6ND, 6 N_nonemb D (Kaplan et al. 2020) and the
conventions of `shapes.py`. If the shapes are known (the plan of a sweep), every count is exact. If all
sizes are within 2% of rows of Table A9, the shapes of those rows are used (vocabulary 32,000, 2048
tokens). Otherwise only the non-embedding N is available, by the relation that Pearce and Song (2024,
arXiv 2406.12907) fitted to Table A9, N_total = n + 47491 n^(1/3): an approximation.

Approach 3 is refitted if N changes; C changes only the FLOPs for which its frontier is computed. The
IsoFLOP groups of approach 2 did not spend equal FLOPs under another count. Every run is therefore first
moved along D to the mean C of its group, its loss is changed by the law's prediction, and parabolas are
fitted (`isoflop_levelled`, in all rows alike; it differs from the exponent in frontier.json if budgets
were not met exactly or another profile was fitted).

An unstated count is a note, not a warning: it changes the meaning of the exponent and does not affect
the runs. NumPy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.core.shapes import (
    FLOP_CONVENTIONS,
    ModelShape,
    flops_per_token,
    n_params,
    n_params_non_embedding,
    named_shapes,
)
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import Finding
from chinchilla.fit.isoflop.approach2 import fit_isoflop
from chinchilla.fit.loss_law import FrontierSolver
from chinchilla.fit.parametric.solver import fit_loss_law
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import Observations

PEARCE_SONG = 47_491.0  # Pearce and Song (2024), section 4: vocabulary 32,000, Table A9's shapes
KAPLAN_SIZES = (768.0, 1.5e9)  # non-embedding parameters of Kaplan et al. (2020)
A9_TOLERANCE = 0.02  # in ln N


@dataclass(frozen=True)
class Counts:
    """Parameters with and without the embedding, and FLOPs per token by convention, of each run."""

    N_total: np.ndarray  # (n,)
    N_non_embedding: np.ndarray  # (n,)
    per_token: Mapping[str, np.ndarray]  # convention -> (n,)
    source: str


def total_from_non_embedding(n: np.ndarray) -> np.ndarray:
    """Pearce and Song's relation, same shape."""
    return n + PEARCE_SONG * np.cbrt(n)


def non_embedding_from_total(N: np.ndarray) -> np.ndarray:
    """The inverse, by interpolation on a fine logarithmic grid; same shape."""
    n = np.geomspace(1e-3, 1e16, 20_000)
    return np.exp(np.interp(np.log(N), np.log(total_from_non_embedding(n)), np.log(n)))


def count_runs(context: Context) -> Counts:
    """Parameters and FLOPs per token of these runs, from the best source available.

    Raises:
        FitError: N was counted in another way than total or non-embedding (unknown_N).
    """
    obs = context.obs
    shapes = [context.shapes.get(str(run_id)) for run_id in obs.run_id]
    known = [s for s in shapes if s is not None]
    if len(known) == len(obs):
        total = np.array([n_params(s) for s in known], float)
        return _counts(total, total - _embedding(known), "the sweep's own shapes", known)
    approximation = "Pearce and Song's relation N_total = n + 47491 n^(1/3), an approximation"
    if obs.n_convention.startswith("non"):
        return _counts(total_from_non_embedding(obs.N), obs.N, approximation)
    if obs.n_convention not in ("unknown", "total"):
        raise FitError(
            f"N was counted as {obs.n_convention!r}: neither total nor non-embedding.", "unknown_N"
        )
    rows = [s for name, s in named_shapes().items() if not name.endswith(("70b", "280b"))]
    log_N = np.log([n_params(s) for s in rows])
    nearest = np.abs(np.log(obs.N)[:, None] - log_N).argmin(axis=1)
    if np.abs(np.log(obs.N) - log_N[nearest]).max() < A9_TOLERANCE:
        known = [rows[i] for i in nearest]
        without = obs.N - _embedding(known)
        return _counts(obs.N, without, "shapes of Table A9 (N within 2%)", known)
    return _counts(obs.N, non_embedding_from_total(obs.N), approximation)


def _embedding(shapes: list[ModelShape]) -> np.ndarray:
    """Parameters of the embedding of each shape."""
    return np.array([n_params(s) - n_params_non_embedding(s) for s in shapes], float)


def _counts(
    total: np.ndarray, without: np.ndarray, source: str, shapes: Sequence[ModelShape] = ()
) -> Counts:
    per_token = {"six_nd": 6 * total, "six_n_non_embedding_d": 6 * without}
    for name in FLOP_CONVENTIONS if shapes else ():
        if name != "six_nd":
            per_token[name] = np.array([flops_per_token(s, name) for s in shapes], float)
    return Counts(total, without, per_token, source)


def local_exponent(law: LossLaw, n_low: float, n_high: float) -> float:
    """The exponent that Kaplan et al. would measure on a law in total N (Pearce and Song 2024).

    At each non-embedding size n the optimal D under C = 6*n*D follows from its first-order
    condition, D^beta = beta B N^alpha / (alpha A s) with s = dlnN/dlnn; the exponent is the mean of
    dlnn/dlnC over log-spaced n.

    Args:
        law: in total parameters.
        n_low: smallest non-embedding size.
        n_high: largest.
    """
    x = np.linspace(np.log(n_low), np.log(n_high), 2_001)
    cube = PEARCE_SONG * np.exp(x / 3)
    N = np.exp(x) + cube
    s = (np.exp(x) + cube / 3) / N
    # ds/dlnn = (n + cube/9)/N - s^2
    log_s_slope = ((np.exp(x) + cube / 9) / N - s**2) / s
    log_C_slope = 1 + (law.alpha * s - log_s_slope) / law.beta
    return float(np.mean(1 / log_C_slope))


def conventions(context: Context) -> Finding:
    """a by approach 3, and by approach 2 if there are budgets, under each count of N and of C."""
    counts = count_runs(context)
    obs = context.obs
    recorded_N = "non_embedding" if obs.n_convention.startswith("non") else "total"
    per_token = {"as_recorded": obs.C / obs.D, **counts.per_token}
    rows: list[dict[str, Any]] = []
    for N_name, N in (("total", counts.N_total), ("non_embedding", counts.N_non_embedding)):
        if N.min() <= 0:
            continue
        law = context.law
        if N_name != recorded_N:
            law = fit_loss_law(N, obs.D, obs.L, **context.loss_settings)[0]
        for C_name, cost in per_token.items():
            if C_name != "as_recorded" and np.allclose(cost * obs.D, obs.C, rtol=1e-6):
                continue  # the same as recorded
            other = replace(obs, N=N, C=cost * obs.D, flop_convention="unknown")
            rows.append({"N": N_name, "C": C_name, **_exponents(context, other, law)})
    known = [r for r in rows if r["parametric"] is not None]
    if not known:
        raise FitError("approach 3 has no frontier under any count of N and C.", "no_frontier")
    low, high = (f(known, key=lambda r: r["parametric"]) for f in (min, max))
    message = (
        f"approach 3 gives a = {low['parametric']:.3f} ({_count(low)}) to "
        f"{high['parametric']:.3f} ({_count(high)}) for the same runs. The standard error of a is "
        f"{context.se_a[0]:.3f}. Counts: {counts.source}."
    )
    kaplan = None if recorded_N == "non_embedding" else local_exponent(context.law, *KAPLAN_SIZES)
    if kaplan is not None:
        message += (
            f" For the sizes of Kaplan et al. (768 to 1.5e9 parameters without the embedding) this law "
            f"has the exponent {kaplan:.2f}."
        )
    unknown = [n for n in ("n_convention", "flop_convention") if getattr(obs, n) == "unknown"]
    note = ""
    if unknown:
        note = (
            f"{' and '.join(unknown)} not stated. State {'it' if len(unknown) == 1 else 'them'} in "
            "`chinchilla fit`, and compare this exponent only with exponents counted in the same way."
        )
    return Finding(
        "passed",
        message,
        note=note,
        values={
            "recorded": {"N": obs.n_convention, "C": obs.flop_convention},
            "source": counts.source,
            "exact": counts.source.startswith("the sweep"),
            "rows": rows,
            "kaplan_local_exponent": kaplan,
        },
    )


def count_of_C(name: str, recorded: str = "") -> str:
    """A count of C in words, with the recorded convention if the count is the recorded one."""
    words = {
        "as_recorded": f"as recorded ({recorded})" if recorded else "as recorded",
        "six_nd": "6 × total N × D",
        "six_n_non_embedding_d": "6 × non-embedding N × D",
    }
    return words.get(name, f"by {name}")


def _count(row: dict[str, Any]) -> str:
    return f"N {row['N'].replace('_', '-')}, C {count_of_C(row['C'])}"


def _exponents(context: Context, obs: Observations, law: LossLaw) -> dict[str, Any]:
    """a under one count by approaches 3 and 2, with the reason if one is missing."""
    row: dict[str, Any] = {"parametric": None, "isoflop_levelled": None, "why_not": []}
    try:
        row["parametric"] = FrontierSolver.of(obs).lines(law)[0][1]
    except FitError as error:
        row["why_not"].append(f"approach 3: {error}")
    if len(context.named_budgets()) >= 2:
        try:
            levelled = fit_isoflop(_levelled(obs, law), profile="parabola", n_bootstrap=0)
            row["isoflop_levelled"] = levelled.N_opt.exponent
        except FitError as error:
            row["why_not"].append(f"approach 2: {error}")
    return row


def _levelled(obs: Observations, law: LossLaw) -> Observations:
    """The runs of each budget moved along D to their mean C, their losses changed by the law.

    Raises:
        FitError: a run is so far below the law that its loss would not stay positive (not_levelled).
    """
    C = obs.C.copy()
    for budget in np.unique(obs.budget_flops[np.isfinite(obs.budget_flops)]):
        rows = obs.budget_flops == budget
        C[rows] = np.exp(np.log(obs.C[rows]).mean())
    D = obs.D * C / obs.C
    L = obs.L + law(obs.N, D) - law(obs.N, obs.D)
    if not L.min() > 0:
        worst = int(np.argmin(L))
        raise FitError(
            f"run {obs.run_id[worst]} cannot be moved to its budget's mean C: its loss of "
            f"{obs.L[worst]:.4g} would become {L[worst]:.4g}.",
            "not_levelled",
        )
    return replace(obs, C=C, D=D, L=L)

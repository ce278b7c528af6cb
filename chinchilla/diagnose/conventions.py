"""The exponent if N and C are counted in other ways, from the same runs and losses.

N with and without the embedding; C as recorded, 6ND, 6 N_nonemb D (Kaplan et al. 2020) and the
conventions of `shapes.py`. If the shapes are known (the plan of a sweep), every count is exact. Otherwise only
the two counts of N and their FLOPs are available, by the relation that Pearce and Song (2024, arXiv
2406.12907) fitted to Table A9, N_total = n + 47491 n^(1/3): an approximation.

Approach 3 is refitted if N changes; C changes only the FLOPs for which its frontier is computed.
An unstated count is no warning: it changes the meaning of the exponent and does not affect the runs.
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
)
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.findings import Finding
from chinchilla.fit.loss_law import FrontierSolver
from chinchilla.fit.parametric.solver import fit_loss_law

PEARCE_SONG = 47_491.0  # Pearce and Song (2024), section 4: vocabulary 32,000, Table A9's shapes


@dataclass(frozen=True)
class Counts:
    """Parameters with and without the embedding, and FLOPs per token by convention, of each run."""

    N: Mapping[str, np.ndarray]  # total and non_embedding -> (n,)
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
        FitError: N was counted in another way than total or non-embedding.
    """
    obs = context.obs
    shapes = [context.shapes[str(i)] for i in obs.run_id if str(i) in context.shapes]
    if len(shapes) == len(obs):
        return _exact(shapes)
    if obs.n_convention == "non_embedding":
        return _approximate(total_from_non_embedding(obs.N), obs.N)
    if obs.n_convention not in ("unknown", "total"):
        raise FitError(f"N was counted as {obs.n_convention!r}: neither total nor non-embedding.")
    return _approximate(obs.N, non_embedding_from_total(obs.N))


def _exact(shapes: Sequence[ModelShape]) -> Counts:
    """The counts of known shapes."""
    total = np.array([n_params(s) for s in shapes], float)
    embedding = np.array([n_params(s) - n_params_non_embedding(s) for s in shapes], float)
    exact = {
        name: np.array([flops_per_token(s, name) for s in shapes], float)
        for name in FLOP_CONVENTIONS
        if name != "six_nd"
    }
    counts = _approximate(total, total - embedding)
    return Counts(counts.N, {**counts.per_token, **exact}, "the sweep's own shapes")


def _approximate(total: np.ndarray, without: np.ndarray) -> Counts:
    """The counts that need no shapes."""
    per_token = {"six_nd": 6 * total, "six_n_non_embedding_d": 6 * without}
    source = "Pearce and Song's relation N_total = n + 47491 n^(1/3), an approximation"
    return Counts({"total": total, "non_embedding": without}, per_token, source)


def conventions(context: Context) -> Finding:
    """a by approach 3 under each count of N and of C."""
    counts, obs = count_runs(context), context.obs
    recorded_N = "non_embedding" if obs.n_convention == "non_embedding" else "total"
    per_token = {"as_recorded": obs.C / obs.D, **counts.per_token}
    rows: list[dict[str, Any]] = []
    for N_name, N in counts.N.items():
        if N.min() <= 0:
            continue
        law = context.law
        if N_name != recorded_N:
            law = fit_loss_law(N, obs.D, obs.L, **context.loss_settings)[0]
        for C_name, cost in per_token.items():
            if C_name != "as_recorded" and np.allclose(cost * obs.D, obs.C, rtol=1e-6):
                continue  # the same as recorded
            other = replace(obs, N=N, C=cost * obs.D, flop_convention="unknown")
            try:
                (_, a), _ = FrontierSolver.of(other).lines(law)
            except FitError:  # FLOPs per token do not rise with N
                continue
            rows.append({"N": N_name, "C": C_name, "a": a})
    if not rows:
        raise FitError("approach 3 has no frontier under any count of N and C.")
    low, high = (f(rows, key=lambda row: row["a"]) for f in (min, max))
    message = (
        f"approach 3 gives a = {_described(low)} to {_described(high)} for the same runs. The standard "
        f"error of a is {context.se[0]:.3f}. Counts: {counts.source}."
    )
    unknown = [n for n in ("n_convention", "flop_convention") if getattr(obs, n) == "unknown"]
    if unknown:
        message += (
            f" {' and '.join(unknown)} not stated: state {'it' if len(unknown) == 1 else 'them'} in "
            "`chinchilla fit`, and compare this exponent only with exponents counted in the same way."
        )
    return Finding("passed", message, values={"source": counts.source, "rows": rows})


def count_of_C(name: str) -> str:
    """A count of C in words."""
    words = {
        "as_recorded": "as recorded",
        "six_nd": "6 × total N × D",
        "six_n_non_embedding_d": "6 × non-embedding N × D",
    }
    return words.get(name, f"by {name}")


def _described(row: Mapping[str, Any]) -> str:
    return f"{row['a']:.3f} (N {row['N'].replace('_', '-')}, C {count_of_C(row['C'])})"

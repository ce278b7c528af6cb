"""Approach 3's minimisation: the loss law of a set of final losses, and many refits of it at once.

    min over (a, b, e, alpha, beta) of
        sum_i Huber_delta( LSE(a - alpha*ln N_i, b - beta*ln D_i, e) - ln L_i ),  A, B, E = exp(a, b, e)

with delta = 1e-3 and the sum, not the mean: a mean under default tolerances stops early and moves
the exponent from .514 to .634 on the published points (Besiroglu et al. 2024). `newton.py` minimises; this
module chooses the starts and certifies the result.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from chinchilla.core.errors import FitError
from chinchilla.fit.parametric.least_absolute import polish
from chinchilla.fit.parametric.newton import Problem, newton_step
from chinchilla.fit.result import LossLaw

OBJECTIVES = {
    "huber": "sum of Huber on log-loss",
    "lad": "sum of absolute residuals of log-loss",
    "least_squares": "sum of squares of log-residuals, halved",
}
MIN_EXPONENT = 1e-3  # alpha or beta below this: no trade-off
MAX_EXPONENT = 3.0  # alpha or beta above this: the term is a wall at the smallest N or D
MIN_SHARE = 1e-4  # E below this share of the smallest loss counts as zero
LAD_WIDTHS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)  # Huber widths before `polish`
LAD_REFIT_WIDTHS = (1e-3, 3e-4, 1e-4)  # Huber widths that approximate lad in refits
MAX_RAY = 1.05  # ratio of the largest to the smallest D/N below which all runs have one
MIN_CHECKED = 20  # refits that also use their own start: at least this many
CHECKED_EVERY = 25  # and one in this many
MANY_LOWER = 0.05  # share of these with a lower minimum above which all refits use their own start
MAX_CONDITION = 1e6  # of the column-scaled Jacobian; 33 on the published points


@dataclass(frozen=True)
class Laws:
    """Laws fitted to k weightings of the same runs; rows that did not converge hold NaN."""

    theta: np.ndarray  # (k, 5) E, A, B, alpha, beta
    objective: np.ndarray  # (k,)
    converged: np.ndarray  # (k,) bool: certified, and no exponent at a bound

    def law(self, i: int) -> LossLaw:
        """The i-th law."""
        return LossLaw(*map(float, self.theta[i]))

    @property
    def a(self) -> np.ndarray:
        """(k,) exponent of N_opt under C = 6*N*D."""
        return self.theta[:, 4] / (self.theta[:, 3] + self.theta[:, 4])


def fit_loss_law(
    N: np.ndarray,
    D: np.ndarray,
    L: np.ndarray,
    huber_delta: float = 1e-3,
    objective: str = "huber",
) -> tuple[LossLaw, dict[str, Any]]:
    """Fit the law that minimises the paper's objective, with a certificate of convergence.

    Args:
        N: (n,) parameters.
        D: (n,) tokens.
        L: (n,) final loss, nats per token.
        huber_delta: where the Huber loss turns linear, in log-loss.
        objective: of log-residuals: huber (the paper's sum), lad (sum |r|), least_squares
            (sum r^2/2).

    Returns:
        The law, and its certificate: objective; predicted_relative_decrease (of one more Newton step,
        over the objective); n_starts (5, or the whole grid of 81 where these disagree);
        n_converged; n_agreeing (starts that end within 1e-8 of the best); bound_hits;
        condition_number.

    Raises:
        FitError: too few runs or sizes, no convergence, a law without trade-off (an exponent at
            a bound), parameters that these runs cannot tell apart.
    """
    _check_design(N, D, L)
    problem, widths = Problem.of(N, D, L), huber_widths(objective, huber_delta)
    for which in ("sides", "grid"):
        first = problem.starts(np.ones((1, len(L))), which)[0]  # (n_starts, 5)
        end = problem.solve(first, np.ones((len(first), len(L))), widths)
        if end.converged.all() and np.ptp(end.f) <= 1e-8 * end.f.min() + 1e-20:
            break
    f = np.where(end.converged, end.f, np.inf)
    best = int(np.argmin(f))
    tolerance = 1e-8 * f[best] + 1e-20
    if not end.converged.any() or end.f.min() < f[best] - tolerance:
        raise FitError(
            f"approach 3 did not converge: {end.converged.sum()} of {len(first)} starts did, and "
            f"none at the lowest objective seen, {end.f.min():.6g}. The runs do not determine five "
            "parameters: widen the range of sizes and of tokens per parameter.",
            "not_converged",
        )
    theta, lowest, predicted = end.theta[best], float(f[best]), float(end.predicted[best])
    if objective == "lad":
        exact = polish(problem, theta)
        if not exact.converged[0]:
            raise FitError(
                "approach 3 with objective=lad did not converge: the last linear programme predicts a "
                f"decrease of {exact.predicted[0] / exact.f[0]:.1e} of the objective. Use huber.",
                "not_converged",
            )
        theta, lowest, predicted = exact.theta[0], float(exact.f[0]), float(exact.predicted[0])
    law = problem.law(theta)
    hits = bound_hits(law, L)
    certificate: dict[str, Any] = {
        "objective": lowest,
        "predicted_relative_decrease": predicted / max(lowest, 1e-300),
        "n_starts": len(first),
        "n_converged": int(end.converged.sum()),
        "n_agreeing": int((f <= f[best] + tolerance).sum()),
        "bound_hits": hits,
        "condition_number": problem.condition_number(theta),
    }
    if any(name in hit for hit in hits for name in ("alpha", "beta")):
        raise FitError(
            f"approach 3 ends at a bound ({'; '.join(hits)}): these runs show no trade-off between "
            "N and D. Widen the range of sizes and of tokens per parameter.",
            "at_a_bound",
        )
    if certificate["condition_number"] > MAX_CONDITION:
        raise FitError(
            f"approach 3 cannot determine its parameters (condition number "
            f"{certificate['condition_number']:.1e}): N and D rise together in these runs. Train "
            "some sizes at several tokens per parameter.",
            "ill_conditioned",
        )
    return law, certificate


def refit_loss_law(
    N: np.ndarray,
    D: np.ndarray,
    L: np.ndarray,
    weights: np.ndarray,
    near: LossLaw,
    huber_delta: float = 1e-3,
    objective: str = "huber",
) -> Laws:
    """Fit the law to many weightings of one set of runs: resamples, runs left out, windows.

    Each refit starts at `near`. One in 25 and at least 20, evenly spread, also use their own
    variable-projection start and keep the lower minimum. If more than 5% of these find a lower minimum, all
    refits use their own start as well, otherwise only those that have not converged. The objective
    lad is approximated by a Huber width of 1e-4.

    Args:
        N: (n,) parameters.
        D: (n,) tokens.
        L: (n,) final loss, nats per token.
        weights: (k, n) how often each run counts in each fit; 0 leaves it out.
        near: the law of all runs, the start.
        huber_delta: where the Huber loss turns linear, in log-loss.
        objective: huber, lad or least_squares.
    """
    problem, weights = Problem.of(N, D, L), np.asarray(weights, float)
    k = len(weights)
    if not k:
        return Laws(np.empty((0, 5)), np.empty(0), np.empty(0, bool))
    # Otherwise the start is close enough for the final width.
    widths = LAD_REFIT_WIDTHS if objective == "lad" else huber_widths(objective, huber_delta)[-1:]
    end = problem.solve(np.broadcast_to(problem.theta(near), (k, 5)), weights, widths)
    theta, f, converged = end.theta, end.f, end.converged

    def start_anew(rows: np.ndarray) -> float:
        """Refit `rows` from their own starts; returns the share with a lower minimum or first convergence."""
        if not len(rows):
            return 0.0
        own = problem.solve(problem.starts(weights[rows])[:, 0], weights[rows], widths)
        better = own.converged & (~converged[rows] | (own.f < f[rows] * (1 - 1e-8) - 1e-20))
        at = rows[better]
        theta[at], f[at], converged[at] = own.theta[better], own.f[better], True
        return float(better.mean())

    checked = np.unique(
        np.linspace(0, k - 1, min(k, max(MIN_CHECKED, k // CHECKED_EVERY))).round().astype(int)
    )
    others = np.setdiff1d(np.arange(k), checked)
    if start_anew(checked) > MANY_LOWER:
        start_anew(others)
    else:
        start_anew(others[~converged[others]])
    laws = problem.laws(theta)
    inside = ((laws[:, 3:] > MIN_EXPONENT) & (laws[:, 3:] < MAX_EXPONENT)).all(axis=1)
    good = converged & inside & _identified(N, D, weights)
    return Laws(np.where(good[:, None], laws, np.nan), np.where(good, f, np.nan), good)


def estimate_refits(
    N: np.ndarray,
    D: np.ndarray,
    L: np.ndarray,
    keep: np.ndarray,
    near: LossLaw,
    huber_delta: float = 1e-3,
    objective: str = "huber",
) -> np.ndarray:
    """Laws of many parts of the runs by one Newton step from the law of all runs.

    The derivatives of a part are those of all runs minus those of the runs that it leaves out, so that
    the work per part is a sum over these and not a minimisation over all runs.

    Args:
        N: (n,) parameters.
        D: (n,) tokens.
        L: (n,) final loss, nats per token.
        keep: (k, n) bool; each part leaves out few runs.
        near: the law of all runs.
        huber_delta: as for `refit_loss_law`.
        objective: as for `refit_loss_law`, but not "lad": one step is not accurate for absolute residuals.

    Returns:
        (k, 5) E, A, B, alpha, beta.
    """
    problem, every = Problem.of(N, D, L), np.ones((1, len(L)))
    widths = huber_widths(objective, huber_delta)[-1:]
    theta = problem.solve(problem.theta(near)[None], every, widths).theta
    g, H = problem.run_derivatives(theta[0], widths[-1])
    steps = newton_step(part_sums(keep, g), part_sums(keep, H).reshape(-1, 5, 5))[0]
    return problem.laws(theta + steps)


def part_sums(keep: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(k, m) sums of (n, m) values over the rows of each part, (k, n) bool.

    The work is the number of rows that the parts hold or leave out, whichever is smaller.
    """
    held = 2 * np.count_nonzero(keep) <= keep.size
    part, row = np.nonzero(keep if held else ~keep)
    sums = np.zeros((len(keep), values.shape[1]))
    np.add.at(sums, part, values[row])
    return sums if held else values.sum(axis=0) - sums


def huber_widths(objective: str, huber_delta: float) -> tuple[float, ...]:
    """Huber widths at which an objective is minimised, decreasing to the final one."""
    if objective == "least_squares":
        return (np.inf,)
    return LAD_WIDTHS if objective == "lad" else (10 * huber_delta, huber_delta)


def bound_hits(law: LossLaw, L: np.ndarray) -> list[str]:
    """Parameters at a bound, which the data do not determine."""
    hits = [
        f"{name}={value:.3g} is not in (0, {MAX_EXPONENT:g})"
        for name, value in (("alpha", law.alpha), ("beta", law.beta))
        if not MIN_EXPONENT < value < MAX_EXPONENT
    ]
    if law.E < MIN_SHARE * L.min():
        hits.append(f"E={law.E:.2g} is zero: these runs show no irreducible loss")
    return hits


def check_ratios(N: np.ndarray, D: np.ndarray, approach: str) -> None:
    """Refuse runs that all have the same D/N.

    Raises:
        FitError: one_ray.
    """
    ratios = D / N
    if ratios.max() < MAX_RAY * ratios.min():
        raise FitError(
            f"{approach} cannot separate the effects of N and D: every run has {np.median(ratios):.3g} "
            "tokens per parameter. Train some sizes at several tokens per parameter.",
            "one_ray",
        )


def _check_design(N: np.ndarray, D: np.ndarray, L: np.ndarray) -> None:
    if len(N) < 6:
        raise FitError(
            f"approach 3 has five parameters and {len(N)} runs. Add runs until there are at least 6.",
            "too_few_runs",
        )
    if np.ptp(L) < 1e-6 * L.mean():
        raise FitError(
            f"approach 3 needs losses that differ: all {len(L)} runs end at {L.mean():.6g} nats per "
            "token. Check column L.",
            "constant_loss",
        )
    for name, values in (("sizes N", N), ("token counts D", D)):
        if (n := len(np.unique(values))) < 3:
            raise FitError(
                f"approach 3 needs three different {name}; these runs have {n}.",
                "too_few_levels",
            )
    check_ratios(N, D, "approach 3")


def _identified(N: np.ndarray, D: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(k,) whether the runs with weight pass the counts of `_check_design`."""
    used = weights > 0
    good: np.ndarray = used.sum(axis=1) >= 6
    return good & (n_levels(N, used) >= 3) & (n_levels(D, used) >= 3)


def n_levels(values: np.ndarray, used: np.ndarray) -> np.ndarray:
    """(k,) number of distinct values (n,) among those used (k, n)."""
    order = np.argsort(values, kind="stable")
    _, starts = np.unique(values[order], return_index=True)
    present = np.logical_or.reduceat(used[:, order], starts, axis=1)  # (k, n_levels)
    n: np.ndarray = present.sum(axis=1)
    return n

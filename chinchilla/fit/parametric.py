"""Approach 3 of Hoffmann et al. (2022), section 3.3: a parametric loss fitted to all final losses.

    min over (a, b, e, alpha, beta) of
        sum_i Huber_delta( LSE(a - alpha*ln N_i, b - beta*ln D_i, e) - ln L_i ),  A, B, E = exp(a, b, e)

with delta = 1e-3 and the SUM, not the mean: a mean under default tolerances stops early and moves
the exponent from .514 to .634 on the published points (Besiroglu et al. 2024). The engine is
`newton.py`; this module starts it, certifies its answer, and turns the law into a Frontier.
NumPy only: this module must import without torch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from chinchilla.errors import FitError
from chinchilla.fit import bootstrap
from chinchilla.fit.frontier import Frontier, LossLaw, conventions
from chinchilla.fit.loss_law import LawFrontier, six_nd_frontier
from chinchilla.fit.newton import Problem
from chinchilla.observations import Observations

MAX_EXPONENT = 3.0  # alpha or beta above this: the term is a wall at the smallest N or D
MIN_SHARE = 1e-4  # E below this share of the smallest loss counts as zero
MIN_C_RANGE = 1.5  # the largest C over the smallest
MAX_CONDITION = 1e6  # of the column-scaled Jacobian; 33 on the published points


def fit_loss_law(
    N: np.ndarray,
    D: np.ndarray,
    L: np.ndarray,
    weights: np.ndarray | None = None,
    huber_delta: float = 1e-3,
) -> tuple[LossLaw, dict[str, Any]]:
    """The law that minimises the paper's objective, and the proof that it does.

    Args:
        N: (n,) parameters.
        D: (n,) tokens.
        L: (n,) final loss, nats per token.
        weights: (n,) how often each row counts; 2 equals the row twice. None = 1.
        huber_delta: where the Huber loss turns linear, in log-loss.

    Returns:
        The law, and its certificate: objective; predicted_relative_decrease (what one more Newton
        step would gain, over the objective); converged; n_starts; n_agreeing (starts that end
        within 1e-8 of the best); n_basins (distinct minima among converged starts); bound_hits.

    Raises:
        FitError: too few runs or sizes, no convergence, a law without trade-off (an exponent at
            a bound), parameters that these runs cannot tell apart.
    """
    w = np.ones(len(N)) if weights is None else np.asarray(weights, float)
    _check_design(N[w > 0], D[w > 0])
    problem = Problem.of(N, D, L)
    starts = problem.starts(w[None])[0]  # (n_starts, 5)
    end = problem.solve(starts, np.broadcast_to(w, (len(starts), len(w))), huber_delta)
    f = np.where(end.converged, end.f, np.inf)
    best = int(np.argmin(f))
    tolerance = 1e-8 * f[best] + 1e-20
    if not end.converged.any() or end.f.min() < f[best] - tolerance:
        raise FitError(
            f"approach 3 did not converge: {end.converged.sum()} of {len(starts)} starts did, and "
            f"none at the lowest objective seen, {end.f.min():.6g}. The runs do not determine five "
            "parameters: widen the range of sizes and of tokens per parameter."
        )
    law = problem.law(end.theta[best])
    hits = bound_hits(law, L)
    certificate: dict[str, Any] = {
        "objective": float(f[best]),
        "predicted_relative_decrease": float(end.predicted[best] / max(f[best], 1e-300)),
        "converged": True,
        "n_starts": len(starts),
        "n_converged": int(end.converged.sum()),
        "n_agreeing": int((f <= f[best] + tolerance).sum()),
        "n_basins": _n_basins(f[np.isfinite(f)]),
        "bound_hits": hits,
        "condition_number": problem.condition_number(end.theta[best], w),
        "share_in_linear_zone": float(
            w @ (np.abs(problem.residuals(end.theta[best])) > huber_delta) / w.sum()
        ),
        "rms_log_residual": float(np.sqrt(w @ problem.residuals(end.theta[best]) ** 2 / w.sum())),
    }
    if any(name in hit for hit in hits for name in ("alpha", "beta")):
        raise FitError(
            f"approach 3 ends at a bound ({'; '.join(hits)}): these runs show no trade-off between "
            "N and D. Widen the range of sizes and of tokens per parameter."
        )
    if certificate["condition_number"] > MAX_CONDITION:
        raise FitError(
            f"approach 3 cannot tell its parameters apart (condition number "
            f"{certificate['condition_number']:.1e}): N and D rise together in these runs. Train "
            "some sizes at several tokens per parameter."
        )
    return law, certificate


@dataclass(frozen=True)
class Laws:
    """k laws fitted to k weightings of the same runs; rows that did not converge hold NaN."""

    theta: np.ndarray  # (k, 5) E, A, B, alpha, beta
    objective: np.ndarray  # (k,)
    converged: np.ndarray  # (k,) bool: certified, and no exponent at a bound

    def law(self, i: int) -> LossLaw:
        """The i-th."""
        E, A, B, alpha, beta = map(float, self.theta[i])
        return LossLaw(E, A, B, alpha, beta)

    @property
    def a(self) -> np.ndarray:
        """(k,) exponent of N_opt under C = 6*N*D."""
        return self.theta[:, 4] / (self.theta[:, 3] + self.theta[:, 4])


def refit_loss_law(
    N: np.ndarray,
    D: np.ndarray,
    L: np.ndarray,
    weights: np.ndarray,
    near: LossLaw,
    huber_delta: float = 1e-3,
) -> Laws:
    """Many fits of one set of runs at once: resamples, runs left out, windows.

    Args:
        N: (n,) parameters.
        D: (n,) tokens.
        L: (n,) final loss, nats per token.
        weights: (k, n) how often each run counts in each fit; 0 leaves it out.
        near: the law of all runs, where each fit starts beside a start of its own.
        huber_delta: where the Huber loss turns linear, in log-loss.
    """
    problem = Problem.of(N, D, L)
    warm = problem.theta(near)
    k = len(weights)
    theta, f = np.full((k, 5), np.nan), np.full(k, np.nan)
    converged = np.zeros(k, bool)
    for chunk in np.array_split(np.arange(k), 1 + k * len(N) // 20_000):
        w = weights[chunk]
        if not len(chunk):
            continue
        first = problem.starts(w, n_best=1)[:, 0]
        both = np.concatenate([first, np.broadcast_to(warm, first.shape)])
        end = problem.solve(both, np.concatenate([w, w]), huber_delta)
        values = np.where(end.converged, end.f, np.inf).reshape(2, -1)
        half = values.argmin(axis=0)
        at = half * len(chunk) + np.arange(len(chunk))
        lowest = end.f[at] <= end.f.reshape(2, -1).min(axis=0) + 1e-12
        for j, i in zip(at, chunk, strict=True):
            one = problem.law(end.theta[j])
            inside = not any(not h.startswith("E=") for h in bound_hits(one, L))
            if end.converged[j] and lowest[j - half[i - chunk[0]] * len(chunk)] and inside:
                theta[i] = one.E, one.A, one.B, one.alpha, one.beta
                f[i], converged[i] = end.f[j], True
    return Laws(theta, f, converged)


def fit_parametric(
    obs: Observations,
    *,
    huber_delta: float = 1e-3,
    n_bootstrap: int = 400,
    seed: int = 0,
) -> Frontier:
    """Approach 3: the loss law of all final losses, and its frontier.

    N_opt and D_opt are the closed form where C = 6*N*D on every row; else a line through the exact
    optima over the observed range of C, with FLOPs per token read from the runs
    (details["six_nd"] gives the closed form beside it).

    Args:
        obs: final losses; of curves only the last points are used.
        huber_delta: where the Huber loss turns linear, in log-loss.
        n_bootstrap: resamples of runs; 0 for no interval.
        seed: of the resampling.

    Raises:
        FitError: see `fit_loss_law`.
    """
    obs = obs.finals()
    if obs.C.max() < MIN_C_RANGE * obs.C.min():
        raise FitError(
            f"approach 3 needs runs of different cost: all spent {obs.C.min():.3g} to "
            f"{obs.C.max():.3g} FLOPs, which says nothing about growth. Add a second budget."
        )
    law, certificate = fit_loss_law(obs.N, obs.D, obs.L, huber_delta=huber_delta)
    frame = LawFrontier.of(obs)
    counts = bootstrap.draw_counts(len(obs), n_bootstrap, seed)
    laws = refit_loss_law(obs.N, obs.D, obs.L, counts, law, huber_delta)
    samples = np.full((n_bootstrap, 4), np.nan)
    for i in np.flatnonzero(laws.converged):
        try:
            N_line, D_line = frame.lines(laws.law(int(i)))
            samples[i] = *N_line, *D_line
        except FitError:
            continue
    N_line, D_line = frame.lines(law)
    N_opt, D_opt, fitted, warnings = bootstrap.power_laws(N_line, D_line, samples)
    if N_opt.samples:
        kept = laws.theta[np.isfinite(samples).all(axis=1)]
        law = LossLaw(law.E, law.A, law.B, law.alpha, law.beta, _intervals(kept))
    if certificate["bound_hits"]:
        warnings.append(f"at a bound: {'; '.join(certificate['bound_hits'])}.")
    (log_kN, a), (log_kD, b), G = six_nd_frontier(law)
    details: dict[str, Any] = {
        "six_nd": {
            "G": G,
            "a": a,
            "b": b,
            "N_coefficient": float(np.exp(log_kN)),
            "D_coefficient": float(np.exp(log_kD)),
        },
        "corr_lnN_lnD": float(np.corrcoef(np.log(obs.N), np.log(obs.D))[0, 1]),
        "tokens_per_parameter": [float((obs.D / obs.N).min()), float((obs.D / obs.N).max())],
        "bootstrap": fitted,
    }
    if frame.cost is not None:
        details["flops_per_token_max_error"] = frame.cost.max_error
        if (spread := _cost_spread(obs)) > 1e-3:
            warnings.append(
                f"FLOPs per token are not one function of N: C/D is up to "
                f"{spread:.1%} apart at one size (different sequence lengths, or C counted in two ways?)."
            )
    return Frontier(
        approach="parametric",
        N_opt=N_opt,
        D_opt=D_opt,
        points=frame.points(law),
        n_runs=len(obs),
        conventions=conventions(obs),
        settings={
            "huber_delta": huber_delta,
            "objective": "sum of Huber on log-loss",
            "frontier": "closed form, C = 6*N*D"
            if frame.cost is None
            else "exact optima over the observed C, FLOPs per token from the runs' own C/D; a line",
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "interval": bootstrap.method(n_bootstrap, seed, "law refitted to each"),
        },
        law=law,
        certificate=certificate,
        details=details,
        warnings=warnings,
    )


def bound_hits(law: LossLaw, L: np.ndarray) -> list[str]:
    """Which parameters ran off to where the data cannot see them."""
    hits = [
        f"{name}={value:.3g} is not in (0, {MAX_EXPONENT:g})"
        for name, value in (("alpha", law.alpha), ("beta", law.beta))
        if not 1e-3 < value < MAX_EXPONENT
    ]
    if law.E < MIN_SHARE * L.min():
        hits.append(f"E={law.E:.2g} is zero: no irreducible loss can be seen in these runs")
    return hits


def _check_design(N: np.ndarray, D: np.ndarray) -> None:
    if len(N) < 6:
        raise FitError(
            f"approach 3 has five parameters and {len(N)} runs. Add runs until there are at least 6."
        )
    for name, values in (("sizes N", N), ("token counts D", D)):
        if (n := len(np.unique(values))) < 3:
            raise FitError(
                f"approach 3 needs three different {name} to see a curve; these runs have {n}."
            )
    if (ratios := D / N).max() < 1.05 * ratios.min():
        raise FitError(
            f"approach 3 cannot tell N from D: every run has {np.median(ratios):.3g} tokens per "
            "parameter. Train some sizes at several."
        )


def _n_basins(f: np.ndarray) -> int:
    """Distinct minima among objectives, told apart beyond 1e-6 relative."""
    f = np.sort(f)
    return 1 + int((np.diff(f) > 1e-6 * f[:-1] + 1e-20).sum())


def _intervals(rows: np.ndarray) -> dict[str, list[float]]:
    low_high = np.percentile(rows, bootstrap.PERCENTILES, axis=0).T
    names = ("E", "A", "B", "alpha", "beta")
    return {name: [float(x) for x in pair] for name, pair in zip(names, low_high, strict=True)}


def _cost_spread(obs: Observations) -> float:
    """Largest relative difference in FLOPs per token between runs of one size."""
    cost = obs.C / obs.D
    sizes = [cost[obs.N == n] for n in np.unique(obs.N)]
    return max(float(c.max() / c.min()) - 1 for c in sizes)

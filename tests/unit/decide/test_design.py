"""Next runs: the gradient is the derivative, the variance is real, and the choice beats chance."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from chinchilla.core.errors import Refusal
from chinchilla.core.shapes import flops_per_token, n_params, n_params_non_embedding, named_shapes
from chinchilla.decide.allocation import allocate, best_sizes
from chinchilla.decide.design import (
    Design,
    candidates,
    gradient,
    propose,
    ratio_limits,
    sizes_of,
)
from chinchilla.fit import fit_parametric
from chinchilla.fit.loss_law import FlopsPerToken, named_law
from chinchilla.fit.parametric.approach3 import fit_loss_law, refit_loss_law
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import Observations

LAW = named_law("besiroglu")
C_STAR = 1e22
NOISE = 0.003
SHAPES = named_shapes()


def runs(N, D, noise=NOISE, seed=0) -> Observations:
    N, D = np.array(N, float), np.array(D, float)
    L = LAW(N, D) * np.exp(noise * np.random.default_rng(seed).normal(size=len(N)))
    ids = np.array([f"r{i}" for i in range(len(N))])
    return Observations(ids, np.full(len(N), np.nan), 6 * N * D, N, D, L, "six_nd")


@pytest.fixture(scope="module")
def sweep() -> Observations:
    N = np.repeat(np.geomspace(5e7, 1.5e9, 6), 4)
    return runs(N, N * np.tile([10, 20, 40, 80], 6))


@pytest.fixture(scope="module")
def fitted(sweep):
    return fit_parametric(sweep, n_bootstrap=200)


def proposed(fit, obs: Observations, shapes=SHAPES, **settings) -> Design:
    """Proposals by approach 3's own law, optimum and interval."""
    N_opt, ends = allocate(fit.law, C_STAR).N, fit.N_opt.band(C_STAR)
    interval80 = [float(x) for x in ends]
    return propose(fit.law, N_opt, interval80, obs, C_STAR, sizes_of(obs, shapes), **settings)


def at(theta: np.ndarray) -> LossLaw:
    """The law at (ln A, ln B, ln E, alpha, beta)."""
    return LossLaw(*np.exp([theta[2], theta[0], theta[1]]), *theta[3:])


def theta_of(law: LossLaw) -> np.ndarray:
    return np.array([*np.log([law.A, law.B, law.E]), law.alpha, law.beta])


def numerical(f, theta: np.ndarray, h: float = 1e-5) -> np.ndarray:
    return np.array([(f(theta + h * e) - f(theta - h * e)) / (2 * h) for e in np.eye(5)])


@pytest.mark.parametrize("name", ["besiroglu", "hoffmann", "muennighoff"])
def test_the_gradient_of_ln_N_opt_is_its_derivative(name):
    law = named_law(name)
    found = numerical(lambda t: np.log(allocate(at(t), C_STAR).N), theta_of(law))
    assert gradient(law, C_STAR) == pytest.approx(found, rel=1e-6, abs=1e-8)


def test_the_gradient_under_another_flop_count():
    """Attention and the head counted; N_opt is interpolated there, hence four digits."""
    N = np.array([float(n_params(s)) for s in SHAPES.values()])
    c = np.array([flops_per_token(s, "with_head") for s in SHAPES.values()])
    one = np.ones_like(N)
    cost = FlopsPerToken.from_observations(
        Observations(np.array(list(SHAPES)), one * np.nan, c, N, one, one)
    )
    for C in (1e19, 1e22):
        found = numerical(lambda t, C=C: np.log(allocate(at(t), C, cost).N), theta_of(LAW), h=1e-4)
        assert gradient(LAW, C, cost) == pytest.approx(found, rel=1e-3, abs=1e-4)


def test_the_jacobian_of_ln_L_is_its_derivative():
    N, D = np.array([1e8, 1e9, 3e9]), np.array([5e9, 2e10, 3e11])
    found = numerical(lambda t: np.log(at(t)(N, D)), theta_of(LAW)).T
    assert LAW.jacobian(N, D) == pytest.approx(found, rel=1e-7, abs=1e-9)


def test_the_linear_variance_is_that_of_refits(sweep):
    """Under small normal noise and least squares the spread of ln N_opt is sigma^2 g'(J'J)^-1 g."""
    N, D, noise = sweep.N, sweep.D, 5e-4
    rng = np.random.default_rng(3)
    found = []
    for _ in range(60):
        L = LAW(N, D) * np.exp(noise * rng.normal(size=len(N)))
        law, _ = fit_loss_law(N, D, L, huber_delta=1.0)  # so wide that Huber is least squares
        found.append(np.log(allocate(law, C_STAR).N))
    J, g = LAW.jacobian(N, D), gradient(LAW, C_STAR)
    expected = noise * np.sqrt(g @ np.linalg.solve(J.T @ J, g))
    assert np.std(found) == pytest.approx(expected, rel=0.25)  # 60 draws: 9% standard error


def test_each_run_narrows_the_interval_and_stays_in_its_limits(sweep, fitted):
    found = proposed(fitted, sweep, n_runs=5)
    widths = [found.width, *(step.width for step in found.steps)]
    assert len(found.steps) == 5
    assert all(b < a for a, b in pairwise(widths))
    assert found.steps[-1].spent <= 5 * sweep.C.max() * (1 + 1e-12)
    last = found.steps[-1]
    assert found.interval80[0] < last.interval80[0] < found.N_opt < last.interval80[1]
    assert last.interval80[1] / last.interval80[0] == pytest.approx(last.width)
    narrowed = 1 - np.log(last.width) / np.log(found.width)
    assert sum(step.narrows for step in found.steps) == pytest.approx(narrowed)
    for step in found.steps:
        run = step.run
        assert 5 <= run.D / run.N * (1 + 1e-9)
        assert run.D / run.N <= 160 * (1 + 1e-9)
        assert run.C >= sweep.C.min()
        assert pytest.approx(6 * run.N * run.D, rel=1e-9) == run.C


def test_a_run_that_adds_nothing_is_not_proposed(sweep, fitted, monkeypatch):
    """What is left is measured without it: the reductions still add up to the total."""
    every = proposed(fitted, sweep, n_runs=5).steps
    least = sorted(step.narrows for step in every)[1]
    monkeypatch.setattr("chinchilla.decide.design.MIN_NARROWS", 1.01 * least)
    found = proposed(fitted, sweep, n_runs=5)
    assert 0 < len(found.steps) < 5
    assert all(step.narrows >= 1.01 * least for step in found.steps)
    assert found.steps[-1].spent == pytest.approx(sum(step.run.C for step in found.steps))
    narrowed = 1 - np.log(found.steps[-1].width) / np.log(found.width)
    assert sum(step.narrows for step in found.steps) == pytest.approx(narrowed)
    monkeypatch.setattr("chinchilla.decide.design.MIN_NARROWS", 0.9)
    with pytest.raises(Refusal, match="no run narrows the 80% interval by"):
        proposed(fitted, sweep, n_runs=5)


@pytest.mark.parametrize(("ratios", "at_an_edge"), [((0.0, 0.0), 1), ((1.0, 1000.0), 0)])
def test_proposed_runs_do_not_end_in_the_corners_of_their_limits(sweep, fitted, ratios, at_an_edge):
    """On both sides of the best size, far above the cheapest C; with wide limits at none of them."""
    found = proposed(fitted, sweep, ratios=ratios)
    low, high = found.limits["tokens_per_param"]
    inside = [1.1 * low < s.run.D / s.run.N < high / 1.1 for s in found.steps]
    off = [np.log(s.run.N / allocate(fitted.law, s.run.C).N) for s in found.steps]
    assert inside.count(False) <= at_an_edge
    assert min(s.run.C for s in found.steps) > 100 * found.limits["C"][0]
    assert min(off) < 0 < max(off)


def spread_after(sweep: Observations, extra: list, n_draws: int = 80, misfit: float = 0.0) -> float:
    """Root mean square error of ln N_opt(C*) over refits of the sweep with `extra` runs.

    Losses are the law's times exp(misfit * |w|^3), w = ln N / N_opt at the run's C: N_opt(C*) is the
    law's all the same.
    """
    N = np.append(sweep.N, [run.N for run in extra])
    D = np.append(sweep.D, [run.D for run in extra])
    off = np.log(N / best_sizes(LAW, 6 * N * D, None))
    rng = np.random.default_rng(5)
    found = []
    for _ in range(n_draws):
        L = LAW(N, D) * np.exp(misfit * np.abs(off) ** 3 + NOISE * rng.normal(size=len(N)))
        laws = refit_loss_law(N, D, L, np.ones((1, len(N))), LAW)
        if laws.converged[0]:
            found.append(np.log(allocate(laws.law(0), C_STAR).N / allocate(LAW, C_STAR).N))
    assert len(found) > 0.9 * n_draws
    return float(np.sqrt(np.mean(np.square(found))))


@pytest.mark.slow
@pytest.mark.parametrize("misfit", [0.01, -0.01])
def test_where_the_law_fails_away_from_the_best_size_the_runs_help_more(sweep, misfit, monkeypatch):
    """Against the design that trusts the law everywhere, with tokens per parameter from 2 to 200."""
    off = np.log(sweep.N / best_sizes(LAW, sweep.C, None))
    bent = replace(sweep, L=sweep.L * np.exp(misfit * np.abs(off) ** 3))
    fit = fit_parametric(bent, n_bootstrap=40)

    def error() -> float:
        found = proposed(fit, bent, ratios=(2, 200))
        return spread_after(sweep, [step.run for step in found.steps], misfit=misfit)

    before, ours = spread_after(sweep, [], misfit=misfit), error()
    monkeypatch.setattr("chinchilla.decide.design.MISFIT", 1e-6)
    assert ours < 0.85 * before
    assert ours < 0.85 * error()


@pytest.mark.slow
def test_the_proposed_runs_beat_random_ones_of_the_same_cost(sweep, fitted):
    """Losses drawn, law refitted: the spread of ln N_opt(C*) with four more runs."""
    spend = 4 * float(sweep.C.max())
    found = proposed(fitted, sweep, n_runs=4, spend=spend)
    pool = candidates(
        sizes_of(sweep, SHAPES), ratio_limits(sweep), (float(sweep.C.min()), spend / 4)
    )
    rng = np.random.default_rng(7)
    chance = [
        spread_after(sweep, [pool[i] for i in rng.integers(len(pool), size=4)]) for _ in range(3)
    ]
    designed = spread_after(sweep, [step.run for step in found.steps])
    assert designed < 0.9 * min(chance)
    promised = np.log(found.steps[-1].width) / np.log(found.width)
    assert designed / spread_after(sweep, []) == pytest.approx(promised, rel=0.25)


def test_many_runs_are_represented_by_a_sample(sweep, fitted, monkeypatch):
    """The interval that is expected hardly moves when 80 of 140 runs are thinned away."""
    N = np.repeat(np.geomspace(5e7, 1.5e9, 20), 7)
    many = runs(N, N * np.tile(np.geomspace(8, 90, 7), 20))
    whole = proposed(fitted, many).steps[-1].width
    monkeypatch.setattr("chinchilla.decide.design.MAX_RUNS", 60)
    thinned = proposed(fitted, many).steps[-1].width
    assert np.log(thinned) == pytest.approx(np.log(whole), rel=0.1)


def test_tokens_per_parameter_stay_near_the_runs_and_inside_two_to_two_hundred():
    N = np.array([1e8, 1e9])
    assert ratio_limits(runs(N, N * [10, 40])) == pytest.approx((5, 80))
    assert ratio_limits(runs(N, N * [0.05, 150])) == pytest.approx((2, 200))
    assert ratio_limits(runs(N, N * [0.2, 0.5])) == pytest.approx((0.2, 0.5))


def test_a_spend_below_any_run_is_refused(sweep, fitted):
    with pytest.raises(Refusal, match=r"costs between .* and spend=1e\+10"):
        proposed(fitted, sweep, spend=1e10)


def test_a_shape_is_counted_as_the_runs_are(sweep):
    shape = SHAPES["44m"]
    for said, N in (
        ("total", n_params(shape)),
        ("non_embedding", n_params_non_embedding(shape)),
        ("unknown", n_params(shape)),
    ):
        obs = replace(sweep, flop_convention="paper", n_convention=said)
        assert sizes_of(obs, {"44m": shape})["44m"] == N

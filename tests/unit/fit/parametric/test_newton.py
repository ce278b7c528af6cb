"""Batched Newton: exact derivatives, distant starts, and many fits at once."""

import numpy as np
import pytest

from chinchilla.fit.parametric.newton import Problem
from chinchilla.fit.parametric.solver import fit_loss_law, refit_loss_law
from chinchilla.fit.result import LossLaw


@pytest.fixture
def noisy(scattered_runs):
    return scattered_runs(noise=0.005, seed=2)


@pytest.fixture
def problem(noisy) -> Problem:
    return Problem.of(noisy.N, noisy.D, noisy.L)


@pytest.mark.parametrize("width", [1e-3, 3e-2, np.inf])
def test_gradient_and_hessian_are_those_of_the_objective(problem, width):
    rng = np.random.default_rng(0)
    theta = np.array([[0.1, -0.2, 0.6, 0.3, 0.4]])
    w = rng.uniform(0, 3, (1, len(problem.y)))
    _, g, H = problem.derivatives(theta, w, width)
    step = 1e-6
    for i in range(5):
        e = step * np.eye(5)[i]
        up, down = (problem.objective(theta + s * e, w, width)[0] for s in (1, -1))
        assert g[0, i] == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-9)
        up, down = (problem.derivatives(theta + s * e, w, width)[1][0] for s in (1, -1))
        assert H[0, i] == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("objective", ["huber", "lad", "least_squares"])
def test_every_objective_gives_a_noise_free_law_back(scattered_runs, law, objective):
    obs = scattered_runs()
    found, certificate = fit_loss_law(obs.N, obs.D, obs.L, objective=objective)
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-6)
    assert certificate["n_agreeing"] == certificate["n_starts"]


def test_refits_are_the_fits_of_the_runs_they_weight(noisy):
    law, _ = fit_loss_law(noisy.N, noisy.D, noisy.L)
    rng = np.random.default_rng(1)
    counts = rng.multinomial(len(noisy), np.full(len(noisy), 1 / len(noisy)), 60).astype(float)
    laws = refit_loss_law(noisy.N, noisy.D, noisy.L, counts, law)
    assert laws.converged.all()
    for i in (0, 17, 59):
        rows = np.repeat(np.arange(len(noisy)), counts[i].astype(int))
        alone, certificate = fit_loss_law(noisy.N[rows], noisy.D[rows], noisy.L[rows])
        assert laws.objective[i] == pytest.approx(certificate["objective"], rel=1e-10)
        assert laws.law(i).alpha == pytest.approx(alone.alpha, rel=1e-5)


def test_refits_far_from_the_law_given_find_their_own_minimum(noisy):
    """The given start must not decide: refits also use their own starts."""
    wrong = LossLaw(1e-3, 1.0, 1e6, 0.05, 1.2)
    right, certificate = fit_loss_law(noisy.N, noisy.D, noisy.L)
    laws = refit_loss_law(noisy.N, noisy.D, noisy.L, np.ones((90, len(noisy))), wrong)
    assert laws.converged.all()
    assert laws.objective == pytest.approx(np.full(90, certificate["objective"]), rel=1e-9)
    assert laws.a == pytest.approx(np.full(90, right.beta / (right.alpha + right.beta)), rel=1e-6)


def test_a_refit_that_identifies_nothing_is_not_called_converged(noisy):
    law, _ = fit_loss_law(noisy.N, noisy.D, noisy.L)
    one_size = (noisy.N == noisy.N[0]).astype(float)
    laws = refit_loss_law(noisy.N, noisy.D, noisy.L, one_size[None], law)
    assert not laws.converged[0]
    assert np.isnan(laws.theta[0]).all()

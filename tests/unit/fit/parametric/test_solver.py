"""The loss law of a set of runs: recovered, certified, refitted to many weightings, or refused."""

import numpy as np
import pytest

from chinchilla.core.errors import FitError
from chinchilla.fit.loss_law import LossLaw, named_law
from chinchilla.fit.parametric import newton
from chinchilla.fit.parametric.approach3 import fit_parametric
from chinchilla.fit.parametric.solver import fit_loss_law, refit_loss_law


@pytest.fixture
def noisy(scattered_runs):
    return scattered_runs(noise=0.005, seed=2)


@pytest.mark.parametrize("name", ["hoffmann", "besiroglu", "muennighoff"])
def test_the_law_the_losses_were_drawn_from_comes_back(scattered_runs, name):
    true = named_law(name)
    obs = scattered_runs(law=true)
    law, certificate = fit_loss_law(obs.N, obs.D, obs.L)
    for field in ("E", "A", "B", "alpha", "beta"):
        assert getattr(law, field) == pytest.approx(getattr(true, field), rel=1e-8)
    assert certificate["objective"] < 1e-24
    assert certificate["n_agreeing"] > certificate["n_starts"] / 2


def test_no_neighbouring_law_has_a_lower_objective(scattered_runs):
    """The certificate against the definition: 500 random nearby laws, objective by hand."""
    obs = scattered_runs(noise=0.005)
    law, certificate = fit_loss_law(obs.N, obs.D, obs.L)

    def objective(law):
        r = np.abs(np.log(law(obs.N, obs.D)) - np.log(obs.L))
        return np.where(r <= 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)).sum()

    assert objective(law) == pytest.approx(certificate["objective"], rel=1e-12)
    rng = np.random.default_rng(0)
    for scale in np.repeat([1e-1, 1e-2, 1e-4, 1e-6, 1e-7], 100):
        E, A, B, alpha, beta = np.array([law.E, law.A, law.B, law.alpha, law.beta]) * np.exp(
            scale * rng.normal(size=5)
        )
        assert objective(LossLaw(E, A, B, alpha, beta)) >= certificate["objective"]


def test_an_unfinished_minimisation_is_an_error_not_a_result(scattered_runs, monkeypatch):
    monkeypatch.setattr(newton, "MAX_STEPS", 1)
    with pytest.raises(FitError, match=r"did not converge: 0 of 81 starts did"):
        fit_parametric(scattered_runs(noise=0.01))


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

"""V-optimal design: the variance is that of the joint normal distribution."""

import numpy as np
import pytest

from chinchilla.decide.v_optimal import Posterior, kernel

RNG = np.random.default_rng(4)
J, TARGET_J = RNG.normal(size=(30, 4)), RNG.normal(size=(3, 4))
Z = RNG.normal(size=(33, 2))
GROWTH = RNG.uniform(1, 3, 30)
NOISE, MISFIT = 0.3, 0.5


def posterior(misfit: float = MISFIT) -> Posterior:
    delta = kernel(Z[30:], Z[:30]) * GROWTH
    return Posterior(J, Z[:30], TARGET_J, delta, np.ones(3), NOISE, misfit, GROWTH)


def direct(measured: np.ndarray) -> np.ndarray:
    """(3,) variances of the targets by conditioning the whole covariance at once."""
    scale = np.append(GROWTH, np.ones(3))
    both = np.vstack([J, TARGET_J])
    S = both @ both.T + MISFIT * kernel(Z, Z) * np.outer(scale, scale)
    cross = S[30:, measured]
    inside = S[np.ix_(measured, measured)] + NOISE * np.eye(len(measured))
    return np.diag(S[30:, 30:] - cross @ np.linalg.solve(inside, cross.T))


def test_measured_in_parts_or_at_once_the_variance_is_the_same():
    known = posterior()
    known.measure(np.array([3, 8, 11]))
    known.measure(np.array([20]))
    assert known.target == pytest.approx(direct(np.array([3, 8, 11, 20])), rel=1e-9)


def test_the_gain_is_what_the_next_run_takes_off():
    known = posterior()
    known.measure(np.array([0, 1, 2]))
    gain, before = known.gain(), known.target.sum()
    for i in (5, 17, 2):  # the last again, with new noise
        one = posterior()
        one.measure(np.array([0, 1, 2]))
        one.measure(np.array([i]))
        assert before - one.target.sum() == pytest.approx(gain[i], rel=1e-9)


def test_without_misfit_it_is_the_usual_v_optimal_design():
    known = posterior(misfit=0.0)
    known.measure(np.arange(10))
    information = J[:10].T @ J[:10] / NOISE + np.eye(4)
    expected = np.diag(TARGET_J @ np.linalg.solve(information, TARGET_J.T))
    assert known.target == pytest.approx(expected, rel=1e-9)


def test_what_the_law_misses_is_shared_by_neighbours():
    """A second run at one place is worth less, beside a new place, than noise alone would say."""
    flat = np.zeros((2, 1))
    places = np.array([[0.0, 0.0], [3.0, 0.0]])
    target = np.array([[1.5, 0.0]])
    known = Posterior(flat, places, np.zeros((1, 1)), kernel(target, places), np.ones(1), 0.1, 1.0,
                      np.ones(2))  # fmt: skip
    known.measure(np.array([0]))
    again, other = known.gain()
    assert other > 5 * again

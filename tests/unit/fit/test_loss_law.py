"""The frontier of a loss law, in closed form and where FLOPs are counted otherwise."""

import numpy as np
import pytest

from chinchilla.errors import FitError, InputError
from chinchilla.fit.loss_law import (
    FlopsPerToken,
    LawFrontier,
    named_law,
    numeric_frontier,
    six_nd_frontier,
)


def test_no_other_size_beats_the_closed_form(law):
    (log_k, a), (log_m, b), _ = six_nd_frontier(law)
    C = np.array([1e18, 1e21, 1e24])
    N, D = np.exp(log_k) * C**a, np.exp(log_m) * C**b
    assert C / (6 * N * D) == pytest.approx(1, rel=1e-12)
    for factor in (0.99, 1.01):
        assert np.all(law(factor * N, D / factor) > law(N, D))


def test_numeric_frontier_is_the_closed_form_where_C_is_6ND(law, scattered_runs):
    cost = FlopsPerToken.from_observations(scattered_runs())
    C = np.geomspace(1e18, 1e24, 7)
    (log_k, a), _, _ = six_nd_frontier(law)
    N, D = numeric_frontier(law, cost, C)
    assert pytest.approx(np.exp(log_k) * C**a, rel=1e-9) == N
    assert pytest.approx(C / (6 * N), rel=1e-9) == D


def test_numeric_frontier_finds_the_best_size_when_tokens_cost_more_than_6N(law, observe):
    """FLOPs per token 6N + 4e3*N^(2/3), an output head: compare with a brute-force search."""

    def per_token(N):
        return 6 * N + 4e3 * N ** (2 / 3)

    N = np.repeat(np.geomspace(1e7, 1e10, 10), 3)
    D = N * np.tile([10.0, 20.0, 40.0], 10)
    obs = observe(N, D, law(N, D), C=per_token(N) * D)
    cost = FlopsPerToken.from_observations(obs)
    assert 0.001 < cost.max_error < 0.06  # a parabola describes this head to a few per cent
    C = np.geomspace(1e18, 1e21, 4)
    best, tokens = numeric_frontier(law, cost, C)
    grid = np.geomspace(1e7, 1e10, 400_001)
    for c, n, d in zip(C, best, tokens, strict=True):
        loss = law(grid, c / np.exp(cost.log_and_slope(np.log(grid))[0]))
        assert law(n, d) <= loss.min() * (1 + 1e-12)
        assert n == pytest.approx(grid[loss.argmin()], rel=1e-4)


def test_points_lie_on_the_lines_and_cost_their_C(law, scattered_runs):
    frame = LawFrontier.of(scattered_runs())
    (log_k, a), _ = frame.lines(law)
    for point in frame.points(law):
        assert pytest.approx(np.exp(log_k) * point.C**a, rel=1e-12) == point.N
        assert pytest.approx(6 * point.N * point.D, rel=1e-12) == point.C


def test_flops_that_do_not_rise_with_size_are_refused(law, observe):
    N = np.geomspace(1e8, 1e9, 6)
    obs = observe(N, 20 * N, law(N, 20 * N), C=1e20 / N)
    with pytest.raises(FitError, match=r"do not rise steadily with N.*six_nd"):
        numeric_frontier(law, FlopsPerToken.from_observations(obs), np.array([1e20]))


def test_an_unknown_law_names_the_known_ones():
    with pytest.raises(InputError, match=r"law='kaplan': choose one of hoffmann, .*besiroglu"):
        named_law("kaplan")

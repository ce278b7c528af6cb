"""The frontier of a loss law, in closed form and where FLOPs are counted otherwise."""

import numpy as np
import pytest

from chinchilla.core.errors import FitError, InputError
from chinchilla.core.shapes import flops_per_token, n_params, named_shapes
from chinchilla.fit.loss_law import (
    FlopsPerToken,
    FrontierSolver,
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
    cost = FlopsPerToken.from_observations(observe(N, D, law(N, D), C=per_token(N) * D))
    C = np.geomspace(1e18, 1e21, 4)
    best, tokens = numeric_frontier(law, cost, C)
    grid = np.geomspace(1e7, 1e10, 100_001)
    for c, n, d in zip(C, best, tokens, strict=True):
        loss = law(grid, c / per_token(grid))
        assert n == pytest.approx(grid[loss.argmin()], rel=4e-3)
        assert law(n, d) == pytest.approx(loss.min(), rel=2e-4)  # c between sizes, to 0.1%


# ------------------------------------------------------------------ FLOPs per token

A9 = [shape for name, shape in named_shapes().items() if name[0].isdigit()]


def runs_of(shapes, observe, law, convention):
    N = np.repeat([float(n_params(s)) for s in shapes], 2)
    D = N * np.tile([10.0, 40.0], len(shapes))
    cost = np.repeat([flops_per_token(s, convention) for s in shapes], 2)
    return observe(N, D, law(N, D), C=cost * D)


@pytest.mark.parametrize("convention", ["with_head", "paper"])
def test_flops_per_token_are_exact_at_the_sizes_of_the_runs(law, observe, convention):
    cost = FlopsPerToken.from_observations(runs_of(A9, observe, law, convention))
    N = np.array([n_params(s) for s in A9], float)
    per_token = np.exp(cost.log_cost(np.log(N)))
    assert per_token == pytest.approx([flops_per_token(s, convention) for s in A9], rel=1e-12)
    assert cost.max_error < 1e-12


def test_flops_per_token_between_the_sizes_of_the_runs(law, observe):
    """Every second size of Table A9 left out: depth alone moves FLOPs per token by up to 5%."""
    cost = FlopsPerToken.from_observations(runs_of(A9[::2], observe, law, "with_head"))
    others = A9[1:-1:2]
    N = np.array([n_params(s) for s in others], float)
    per_token = np.exp(cost.log_cost(np.log(N)))
    assert per_token == pytest.approx([flops_per_token(s, "with_head") for s in others], rel=0.05)


def test_cost_and_slope_agree_and_continue_beyond_the_sizes(law, observe):
    cost = FlopsPerToken.from_observations(runs_of(A9[::5], observe, law, "with_head"))
    x = np.linspace(np.log(1e7), np.log(1e12), 4_000)
    trend, slope = cost.trend_and_slope(x)
    assert np.diff(trend) / np.diff(x) == pytest.approx((slope[1:] + slope[:-1]) / 2, abs=5e-3)
    beyond = np.log(1e12) < x + 4
    for value in (trend, cost.log_cost(x)):
        assert np.abs(np.diff(value, 2)).max() < 1e-3  # no jump at the ends of the sizes
        assert np.ptp(np.diff(value[beyond])) < 1e-12


@pytest.mark.parametrize(("convention", "precision"), [("with_head", 0.015), ("paper", 0.03)])
def test_the_best_size_is_that_of_a_dense_family_of_shapes(law, observe, convention, precision):
    """Shapes of every width, as deep as Table A9's trend: the search over them uses no fitted curve."""
    width = np.log([s.d_model for s in A9])
    depth = np.polyfit(width, np.log([s.n_layers for s in A9]), 2)
    d = np.geomspace(400, 6_500, 20_001)
    layers = np.exp(np.polyval(depth, np.log(d)))
    V, S = A9[0].vocab_size, A9[0].seq_len
    N = V * (d + 1) + d + layers * (13 * d**2 + 10 * d)
    c = (
        3 * layers * (24 * d**2 + 4 * S * d + 3 * S * d / 128)
    )  # 8 for Q, K, V, O and 16 for the FFN
    c = c + 6 * d * V * (convention == "with_head")
    cost = FlopsPerToken.from_observations(runs_of(A9, observe, law, convention))
    C = np.geomspace(6e18, 3e21, 25)
    best = N[law(N, C[:, None] / c).argmin(axis=1)]
    assert numeric_frontier(law, cost, C)[0] == pytest.approx(best, rel=precision)


def test_runs_of_one_size_count_by_their_mean_and_the_spread_is_reported(law, observe):
    N = np.repeat([1e8, 1e9, 1e10], 2)
    N[1] *= 1 + 1e-5  # the same model, counted a little otherwise
    D = 20 * N
    uneven = np.tile([1.0, 1.1], 3)
    cost = FlopsPerToken.from_observations(observe(N, D, law(N, D), C=6 * N * D * uneven))
    assert len(cost.log_N) == 3
    assert np.exp(cost.log_ratio) == pytest.approx(6 * np.sqrt(1.1), rel=1e-12)
    assert cost.max_error == pytest.approx(np.log(1.1) / 2, rel=1e-9)


def test_points_lie_on_the_lines_and_use_their_C(law, scattered_runs):
    frame = FrontierSolver.of(scattered_runs())
    (log_k, a), _ = frame.lines(law)
    for C, N, D, L in frame.points(law):
        assert pytest.approx(np.exp(log_k) * C**a, rel=1e-12) == N
        assert pytest.approx(6 * N * D, rel=1e-12) == C
        assert L == law(N, D)


def test_flops_that_do_not_rise_with_size_are_refused(law, observe):
    N = np.geomspace(1e8, 1e9, 6)
    obs = observe(N, 20 * N, law(N, 20 * N), C=1e20 / N)
    with pytest.raises(FitError, match=r"do not rise steadily with N.*six_nd"):
        numeric_frontier(law, FlopsPerToken.from_observations(obs), np.array([1e20]))


def test_an_unknown_law_names_the_known_ones():
    with pytest.raises(InputError, match=r"law='kaplan': choose one of hoffmann, .*besiroglu"):
        named_law("kaplan")

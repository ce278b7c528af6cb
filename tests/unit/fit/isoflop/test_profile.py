"""One IsoFLOP profile: which budgets have a minimum, and weighted parabolas."""

import re
from dataclasses import replace

import numpy as np
import pytest

from chinchilla.core.errors import FitError
from chinchilla.fit.isoflop.approach2 import fit_isoflop
from chinchilla.fit.isoflop.profile import parabolas


def spoil(obs, change):
    """Three good budgets, of which `change` spoils the first (rows 0-8, sizes rising)."""
    N, D, L, keep = obs.N.copy(), obs.D.copy(), obs.L.copy(), np.ones(len(obs), bool)
    change(N, D, L, keep)
    return replace(obs, N=N, D=D, C=6 * N * D, L=L).where(keep)


def too_few(N, D, L, keep):
    keep[3:9] = False


def upside_down(N, D, L, keep):
    L[:9] = 6 - L[:9]


def only_large(N, D, L, keep):
    keep[:5] = False


def one_side(N, D, L, keep):
    keep[:3] = False
    L[3:9] = 2.5 + 0.05 * np.log(N[3:9] / np.sqrt(N[3] * N[4])) ** 2


def copied(N, D, L, keep):
    N[1], D[1], L[1] = N[0], D[0], L[0] * (1 + 1e-12)


def unequal(N, D, L, keep):
    D[:9] *= np.geomspace(1, 1.4, 9)


def constant(N, D, L, keep):
    L[:9] = 3.0


def shallow(N, D, L, keep):
    """An IsoFLOP curve of 1e-4 nats under noise of 1e-2."""
    noise = [0.010, -0.014, 0.003, 0.016, -0.012, -0.004, 0.013, -0.011, -0.001]
    L[:9] = 3 + 2e-4 * np.linspace(-1, 1, 9) ** 2 + noise
    L[:9] += 1.002e-2 * np.linspace(-1, 1, 9) ** 2


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (too_few, "too_few_sizes", "3 model sizes cannot show an IsoFLOP curve. Train at least 4"),
        (upside_down, "opens_downward", "opens downward.*Train smaller and larger models"),
        (
            only_large,
            "vertex_outside",
            "no minimum between .* falls towards smaller models. Train smaller models",
        ),
        (
            one_side,
            "vertex_at_edge",
            "1 smaller and 5 larger sizes tried; 2 on each side.*Train smaller models",
        ),
        (copied, "duplicates", "1 of 9 runs repeat another run's N, D and loss.*remove the copies"),
        (unequal, "not_iso_flop", "spent 1e.19 to 1.4e.19 FLOPs, a factor 1.40.*Check column C"),
        (constant, "constant_loss", "all 9 runs end at 3 nats per token: no IsoFLOP curve"),
        (shallow, "flat", "not deeper than the scatter about it: its curvature is 0"),
    ],
)
def test_an_unusable_budget_is_refused_with_its_reason(isoflop_runs, change, kind, message):
    obs = spoil(isoflop_runs([1e19, 1e20, 1e21]), change)
    fit = fit_isoflop(obs, profile="parabola", window="all", n_bootstrap=0)
    assert len(fit.points) == 2
    assert len(fit.refusals) == 1
    assert fit.refusals[0].startswith("budget 1e+19: ")
    assert re.search(message, fit.refusals[0])
    assert fit.details["budgets"][0]["refused"] in fit.refusals[0]
    assert [b["kind"] for b in fit.details["budgets"]] == [kind, None, None]


@pytest.mark.parametrize("change", [too_few, upside_down, only_large, copied])
def test_the_exact_shape_refuses_what_a_parabola_refuses(isoflop_runs, change):
    obs = spoil(isoflop_runs([1e19, 1e20, 1e21, 1e22]), change)
    fit = fit_isoflop(obs, n_bootstrap=0)
    assert [b["refused"] is None for b in fit.details["budgets"]] == [False, True, True, True]


def test_fewer_than_two_budgets_left_is_an_error_that_names_the_rest(isoflop_runs):
    obs = spoil(isoflop_runs([1e19, 1e20]), upside_down)
    with pytest.raises(
        FitError, match=r"has 1 of 2\. budget 1e\+19: the parabola opens downward"
    ) as error:
        fit_isoflop(obs, profile="parabola")
    assert error.value.kind == "opens_downward"
    with pytest.raises(FitError, match=r"Add a second budget") as error:
        fit_isoflop(isoflop_runs([1e19]))
    assert error.value.kind == "one_budget"


def test_weights_equal_repeated_rows():
    rng = np.random.default_rng(0)
    x, y = np.linspace(-1, 1, 7), rng.normal(size=(7, 1))
    counts = np.array([[2.0, 0, 1, 1, 3, 0, 1]])
    rows = np.repeat(np.arange(7), counts[0].astype(int))
    weighted = parabolas(x, y, counts)[0, :, 0]
    assert weighted == pytest.approx(np.polyfit(x[rows], y[rows, 0], 2)[::-1], rel=1e-9)
    assert np.isnan(parabolas(x, y, np.eye(7)[:1])).all()  # one point is no parabola

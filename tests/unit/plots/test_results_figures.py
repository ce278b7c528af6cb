"""Figures of results in a notebook: on the axis given, readable whatever the runs, with the exponent."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import chinchilla
from chinchilla import FitResults, Observations, named_law
from chinchilla.core.errors import InputError
from chinchilla.fit import FailedFit, fit_envelope, fit_isoflop
from chinchilla.plots.isoflop import draw_on


@pytest.fixture(scope="module")
def obs() -> Observations:
    return chinchilla.simulate("hoffmann", [1e19, 1e20, 1e21], noise=2e-3)


@pytest.fixture(scope="module")
def fits(obs) -> FitResults:
    return chinchilla.fit(obs, n_bootstrap=40)


@pytest.fixture(autouse=True)
def close_figures():
    """pyplot keeps the figures of a session that imported it."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def legend(ax: Axes) -> str:
    found = ax.get_legend()
    return "\n".join([found.get_title().get_text(), *(t.get_text() for t in found.get_texts())])


def results(fits: FitResults):
    yield fits.plot
    yield fits.plot_residuals
    for f in fits.fitted.values():
        yield f.plot
        yield f.plot_residuals


@pytest.mark.slow
def test_every_figure_is_drawn_on_the_given_axis_only(fits):
    before = dict(matplotlib.rcParams)
    for plot in results(fits):
        figure = Figure()
        ax, neighbour = figure.subplots(1, 2)
        assert plot(ax=ax) is ax
        assert plot(ax).has_data()
        assert figure.axes == [ax, neighbour]
        assert not neighbour.has_data()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_without_an_axis_each_figure_is_new_and_shows_the_exponent(fits):
    before = dict(matplotlib.rcParams)
    figures = []
    for plot in results(fits):
        ax = plot()
        figures.append(ax.get_figure())
        assert "$a$ = 0." in legend(ax)
        figures[-1].draw_without_rendering()
    assert len({id(f) for f in figures}) == len(figures)
    assert dict(matplotlib.rcParams) == before


def test_the_figure_of_fits_shows_the_recommended_answer_and_every_interval(fits):
    text = legend(fits.plot())
    r = chinchilla.recommendation(fits, 1e22)
    assert f"recommended, approach 2 (isoflop): $a$ = {fits.a:.3f}" in text
    for name, f in fits.fitted.items():
        assert f"({name}): $a$ = {f.a:.3f} [{f.N_opt.p10:.3f}, {f.N_opt.p90:.3f}]" in text
    assert r.approach == "isoflop"
    assert "$b$ = " in legend(fits.plot(quantity="D"))
    with pytest.raises(InputError, match="quantity"):
        fits.plot(quantity="L")


def test_fits_that_cannot_be_drawn_give_one_line(fits, obs):
    refused = FitResults.of({}, {"envelope": FailedFit("no.")}, obs)
    for plot in (refused.plot, refused.plot_residuals):
        with pytest.raises(InputError, match="every approach was refused"):
            plot()
    with pytest.raises(InputError, match="must be matplotlib Axes, not Figure"):
        fits.plot(ax=Figure())


def test_one_run_at_5_nats_does_not_flatten_profiles_a_tenth_deep():
    """The largest model of the middle budget diverged; the panel is as high as without it."""
    law = named_law("hoffmann")
    C = np.repeat(np.geomspace(1e19, 1e21, 5), 9)
    N = law.optimum(C).N * np.tile(np.geomspace(1 / 4, 4, 9), 5)
    L = law(N, C / (6 * N))
    span, depth = np.ptp(L), np.ptp(L[18:26])
    assert depth == pytest.approx(0.1, abs=0.03)
    L[26] = 5.0
    obs = Observations.of(N=N, D=C / (6 * N), L=L, C=C, budget_flops=C)
    alone, one = Figure().subplots(1, 2)
    assert draw_on(alone, None, obs)
    assert draw_on(one, None, obs.where(obs.budget_flops == C[20]))
    for ax, filled in ((fit_isoflop(obs, n_bootstrap=0).plot(), span), (alone, span), (one, depth)):
        low, high = ax.get_ylim()
        assert filled < high - low < 1.3 * filled
        (mark,) = [x for x in ax.get_lines() if "beyond the panel" in str(x.get_label())]
        assert N[26] in mark.get_xdata()
        assert set(mark.get_ydata()) == {1.0}  # on the upper edge


def test_runs_that_the_fit_left_out_are_marked():
    law = named_law("hoffmann")
    C = np.repeat([1e19, 1e20, 1e21], 15)
    N = law.optimum(C).N * np.tile(np.geomspace(1 / 40, 40, 15), 3)
    D = C / (6 * N)
    L = law(N, D) * np.exp(1e-3 * np.random.default_rng(0).normal(size=len(N)))
    L[7] *= 1.03  # the middle of the first budget
    obs = Observations.of(N=N, D=D, L=L, C=C, budget_flops=C)
    f = fit_isoflop(obs, n_bootstrap=0)
    lines = {str(x.get_label()): x for x in f.plot().get_lines()}
    window = f.details["window"]
    assert [o["run_id"] for o in window["outliers"]] == [str(obs.run_id[7])]
    left_out = lines["left out of the fit"].get_ydata()
    assert L[7] in left_out
    assert len(left_out) == window["n_outside"] + 1 > 1


def test_the_envelope_is_drawn_under_its_curves():
    law = named_law("hoffmann")
    N = np.repeat(np.geomspace(1e7, 1e10, 12), 60)
    D = np.tile(np.geomspace(1e8, 1e12, 60), 12)
    run_id = [f"{n:.4g}" for n in N]
    f = fit_envelope({"run_id": run_id, "N": N, "D": D, "L": law(N, D)}, n_bootstrap=0)
    ax = f.plot()
    assert len([x for x in ax.get_lines() if len(x.get_xdata()) == 60]) == 12
    assert "approach 1's envelope" in legend(ax)


def test_residuals_are_those_of_the_fit(fits, obs):
    f = fits.fitted["parametric"]
    (drawn,) = f.plot_residuals().collections
    expected = obs.L - f.law(obs.N, obs.D)
    assert sorted(drawn.get_offsets()[:, 1]) == pytest.approx(sorted(expected))
    (drawn,) = fits.fitted["isoflop"].plot_residuals().collections
    assert np.abs(drawn.get_offsets()[:, 1]).max() < 0.05


def test_figures_of_loaded_fits_are_those_in_memory(fits, tmp_path):
    fits.save(tmp_path)
    back = FitResults.load(tmp_path)
    for f, g in zip(fits.fitted.values(), back.fitted.values(), strict=True):
        assert f.plot().get_ylim() == g.plot().get_ylim()


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "import matplotlib.pyplot as plt; "])
def test_pyplot_shows_new_figures_only_where_it_is_in_use(first):
    code = (
        f"{first}import sys, chinchilla; f = chinchilla.fit_isoflop(chinchilla.simulate(), n_bootstrap=0); "
        "f.plot(); p = sys.modules.get('matplotlib.pyplot'); print(len(p.get_fignums()) if p else 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1" if first else "none"]

"""Figures: the right points drawn, the right marks on them, axes a person can read."""

from dataclasses import replace

import numpy as np
import pytest

from chinchilla.plots.style import COLORS
from chinchilla.report.figures import (
    isoflop_curves,
    isoflop_curves_side_by_side,
    optimal_sizes,
    training_curves,
)


def labelled(ax) -> dict:
    return {line.get_label(): line for line in ax.get_lines() if line.get_label()[0] != "_"}


def legend_texts(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_isoflop_curve_points_are_the_observed_losses_and_refused_budgets_hollow(world):
    figure = isoflop_curves(world.fitted["isoflop"], world.finals)
    lines = labelled(figure.axes[0])
    first = world.finals.where(world.finals.budget_flops == 1e13)
    assert sorted(lines["$10^{13}$ FLOPs"].get_ydata()) == pytest.approx(sorted(first.L))
    refused = lines[r"$3{\times}10^{14}$ FLOPs"]
    assert refused.get_markerfacecolor() == "white"
    assert len(lines["minimum, $N_{opt}$"].get_xdata()) == 3


def test_the_isoflop_curve_has_its_minimum_at_n_opt(world):
    figure = isoflop_curves(world.fitted["isoflop"], world.finals)
    profile = world.fitted["isoflop"].details["budgets"][0]
    curves = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 200]
    lowest = min(curves[0].get_ydata())
    assert lowest == pytest.approx(profile["L_opt"], abs=1e-4)
    at = curves[0].get_xdata()[int(np.argmin(curves[0].get_ydata()))]
    assert at == pytest.approx(profile["N_opt"], rel=0.03)


@pytest.mark.parametrize(
    ("kind", "label"),
    [("train", "training loss"), ("validation", "validation loss"), ("unknown", "loss")],
)
def test_the_loss_axes_name_the_loss_that_was_fitted(world, kind, label):
    runs, points = (replace(o, loss_kind=kind) for o in (world.finals, world.curve_obs))
    fit = replace(world.fitted["isoflop"], conventions={"loss_kind": kind})
    for figure in (isoflop_curves(fit, None), isoflop_curves(None, runs)):
        assert figure.axes[0].get_ylabel() == f"final {label}, nats/token"
    assert training_curves(points, None).axes[0].get_ylabel() == f"{label}, nats/token"


def test_no_isoflop_curve_is_cut_off_by_the_frame(world):
    ax = isoflop_curves(world.fitted["isoflop"], world.finals).axes[0]
    curves = [line for line in ax.get_lines() if len(line.get_xdata()) == 200]
    assert len(curves) == 4
    for data, (low, high) in (("get_xdata", ax.get_xlim()), ("get_ydata", ax.get_ylim())):
        for curve in curves:
            assert low < min(getattr(curve, data)()) < max(getattr(curve, data)()) < high


def test_a_curve_far_above_its_points_does_not_flatten_the_others(world):
    fit = world.fitted["isoflop"]
    wild = {**fit.details["budgets"][0], "curve": {"N": [1e6, 1e12], "L": [1e4, 1e4]}}
    details = {"budgets": [wild, *fit.details["budgets"][1:]]}
    low, high = isoflop_curves(replace(fit, details=details), None).axes[0].get_ylim()
    assert high - low < 2 * np.ptp(world.finals.L)


def test_side_by_side_the_legend_has_refused_budgets_if_there_are_any(world):
    fit = world.fitted["isoflop"]
    entry = "refused: no minimum"
    assert entry in legend_texts(isoflop_curves_side_by_side([("a", fit, world.finals)] * 2, None))
    good = [b for b in fit.details["budgets"] if not b.get("refused")]
    fit = replace(fit, details={**fit.details, "budgets": good})
    assert entry not in legend_texts(
        isoflop_curves_side_by_side([("a", fit, world.finals)] * 2, None)
    )


def test_unfinished_runs_have_their_own_style(world):
    figure = training_curves(world.curve_obs, world.fitted["envelope"], world.results, world.curves)
    dashed = labelled(figure.axes[0])["did not finish"]
    assert dashed.get_linestyle() == "--"
    assert np.isfinite(dashed.get_ydata()).all()
    envelope = 1 + any(world.fitted["envelope"].details["envelope"]["censored"])
    assert len(figure.axes[0].get_lines()) == 21 + 1 + envelope  # runs, the diverged one


def test_every_approach_is_in_the_legend_and_the_papers_lines_near_its_own_runs(world):
    """Runs at 1e13 to 3e14 FLOPs, and the same points at 1e18 to 3e19: the paper's are 1.4e18 and up."""
    texts = legend_texts(optimal_sizes(world.fitted))
    assert sum("ours" in t for t in texts) == 3
    assert sum("paper" in t for t in texts) == 0
    larger = {
        name: replace(f, points=[replace(p, C=1e5 * p.C) for p in f.points])
        for name, f in world.fitted.items()
    }
    figure = optimal_sizes(larger)
    assert sum("paper" in t for t in legend_texts(figure)) == 3
    for line in figure.axes[0].get_lines():
        if "paper" in line.get_label():
            assert min(line.get_xdata()) >= 1.4e17


def test_lines_are_thick_over_their_points_and_thin_beyond(world):
    figure = optimal_sizes(world.fitted)
    for approach, f in world.fitted.items():
        C = [p.C for p in f.points]
        lines = [x for x in figure.axes[0].get_lines() if x.get_color() == COLORS[approach]]
        thin = next(x for x in lines if len(x.get_xdata()) == 200)
        thick = next(x for x in lines if len(x.get_xdata()) == 20)
        ends = min(thick.get_xdata()), max(thick.get_xdata())
        assert ends == pytest.approx((min(C), max(C)))
        assert thick.get_linewidth() >= max(2.5, 3 * thin.get_linewidth())


def test_the_legend_shows_the_markers_of_each_approach(world):
    legend = optimal_sizes(world.fitted).legends[0]
    marks = [handle.get_marker() for handle in legend.legend_handles[:3]]
    assert [t.get_text()[0] for t in legend.get_texts()[:3]] == ["1", "2", "3"]
    assert marks == ["^", "o", ""]


def test_what_lies_beyond_the_runs_is_shaded_on_both_sides(world):
    figure = optimal_sizes(world.fitted)
    C = [p.C for f in world.fitted.values() for p in f.points]
    left, right = sorted((p.get_x(), p.get_x() + p.get_width()) for p in figure.axes[0].patches)
    assert left[1] == pytest.approx(min(C))
    assert right[0] == pytest.approx(max(C))
    assert (left[0], right[1]) == pytest.approx(figure.axes[0].get_xlim())
    assert {"beyond the runs", "80% interval"} <= set(legend_texts(figure))


def test_nothing_to_draw_gives_no_figure(world):
    assert training_curves(world.finals, None) is None  # endpoints only
    no_budget = replace(world.finals, budget_flops=np.full(len(world.finals), np.nan))
    assert isoflop_curves(None, no_budget) is None
    assert optimal_sizes({}) is None

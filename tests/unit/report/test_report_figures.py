"""Figures: the right points drawn, the right marks on them, axes a person can read."""

from dataclasses import replace

import numpy as np
import pytest

from chinchilla.report.figures import (
    isoflop_valleys,
    loss_surface,
    optimal_sizes,
    training_curves,
)
from chinchilla.report.style import log_ticks, power_of_ten


def labelled(ax) -> dict:
    return {line.get_label(): line for line in ax.get_lines() if line.get_label()[0] != "_"}


def legend_texts(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_valley_points_are_the_observed_losses_and_refused_budgets_hollow(world):
    figure = isoflop_valleys(world.frontiers["isoflop"], world.finals)
    lines = labelled(figure.axes[0])
    first = world.finals.where(world.finals.budget_flops == 1e13)
    assert sorted(lines["$10^{13}$ FLOPs"].get_ydata()) == pytest.approx(sorted(first.L))
    refused = lines[r"$3{\times}10^{14}$ FLOPs, refused"]
    assert refused.get_markerfacecolor() == "white"
    assert len(lines["bottom, $N_{opt}$"].get_xdata()) == 3


def test_the_valley_drawn_runs_through_its_bottom(world):
    figure = isoflop_valleys(world.frontiers["isoflop"], world.finals)
    profile = world.frontiers["isoflop"].details["budgets"][0]
    curves = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 200]
    lowest = min(curves[0].get_ydata())
    assert lowest == pytest.approx(profile["L_opt"], abs=1e-4)
    at = curves[0].get_xdata()[int(np.argmin(curves[0].get_ydata()))]
    assert at == pytest.approx(profile["N_opt"], rel=0.03)


def test_unfinished_runs_are_drawn_apart(world):
    figure = training_curves(
        world.curve_obs, world.frontiers["envelope"], world.results, world.curves
    )
    dashed = labelled(figure.axes[0])["did not finish"]
    assert dashed.get_linestyle() == "--"
    assert np.isfinite(dashed.get_ydata()).all()
    assert len(figure.axes[0].get_lines()) == 21 + 1 + 2  # runs, the diverged one, envelope


def test_every_approach_and_the_papers_lines_are_in_the_legend(world):
    texts = legend_texts(optimal_sizes(world.frontiers))
    assert sum("ours" in t for t in texts) == 3
    assert sum("paper" in t for t in texts) == 3


def test_frontiers_without_details_still_make_figures(world):
    """Fits written by hand or by another version may lack any key of `details`."""
    bare = {a: replace(f, details={}, settings={}) for a, f in world.frontiers.items()}
    envelope = labelled(training_curves(world.curve_obs, bare["envelope"]).axes[0])
    assert "lowest loss at each C (approach 1's envelope)" in envelope
    assert len(labelled(isoflop_valleys(bare["isoflop"], world.finals).axes[0])) == 4
    assert loss_surface(bare["parametric"], world.finals) is not None
    assert legend_texts(optimal_sizes(bare)) == legend_texts(optimal_sizes(world.frontiers))


def test_nothing_to_draw_gives_no_figure(world):
    assert training_curves(world.finals, None) is None  # endpoints only
    no_budget = replace(world.finals, budget_flops=np.full(len(world.finals), np.nan))
    assert isoflop_valleys(None, no_budget) is None
    assert optimal_sizes({}) is None


@pytest.mark.parametrize("span", [(1.1e4, 9e4), (2e4, 5e4), (3.31, 3.47), (1e4, 3e9), (1e13, 3e14)])
def test_log_axes_have_ticks_even_under_a_decade(span):
    ticks = log_ticks(*span)
    assert 3 <= len(ticks) <= 7
    assert min(ticks) >= 0.999 * span[0]
    assert max(ticks) <= 1.001 * span[1]


def test_powers_of_ten_read_as_such():
    assert power_of_ten(1e18) == "$10^{18}$"
    assert power_of_ten(3e13) == r"$3{\times}10^{13}$"

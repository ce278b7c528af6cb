"""Axes a person can read: ticks, labels, and limits that leave out outliers."""

from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from chinchilla.plots.style import (
    inner_range,
    log_scale,
    log_ticks,
    new_figure,
    power_of_ten,
    save_figure,
)


@pytest.mark.parametrize("span", [(1.1e4, 9e4), (2e4, 5e4), (3.31, 3.47), (1e4, 3e9), (1e13, 3e14)])
def test_log_axes_have_ticks_even_under_a_decade(span):
    ticks = log_ticks(*span)
    assert 3 <= len(ticks) <= 7
    assert min(ticks) >= 0.999 * span[0]
    assert max(ticks) <= 1.001 * span[1]


@pytest.mark.parametrize("span", [(5.5e10, 5.2e11), (1.1e13, 9e13), (6e18, 3e21), (1e17, 1e26)])
@pytest.mark.parametrize("n_panels", [1, 2, 3])
def test_labels_of_a_log_axis_never_overlap(span, n_panels):
    figure, panels = new_figure(4.9, n_panels)
    for ax in panels:
        ax.set(xlim=span)
        log_scale(ax, "x", power_of_ten)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in panels[-1].get_xticklabels()]
    assert 2 <= len(boxes) <= 7
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_powers_of_ten_read_as_such():
    assert power_of_ten(1e18) == "$10^{18}$"
    assert power_of_ten(3e13) == r"$3{\times}10^{13}$"


def test_inner_range_contains_a_cloud_without_its_outliers():
    cloud = np.random.default_rng(0).normal(size=200)
    low, high = inner_range(np.append(cloud, [50.0, -80.0]))
    assert -80 < low < cloud.min()
    assert cloud.max() < high < 50


def test_names_in_a_figure_have_no_control_characters(tmp_path):
    """They are invalid in XML, so that no viewer would show the SVG."""
    figure, (ax, *_) = new_figure(4.9, 1)
    ax.plot([1, 2], label="a\x1b[31mb\u202e")
    ax.legend()
    svg = save_figure(figure, tmp_path, "f").decode()
    ElementTree.fromstring(svg)
    assert not {"\x1b", "\u202e"} & {*svg}

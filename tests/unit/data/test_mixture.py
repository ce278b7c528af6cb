"""Row order: every prefix of the stream is within one row of the shares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chinchilla.core.errors import InputError
from chinchilla.data.mixture import MAX_PERIOD, RowOrder, whole_parts

TABLE_A1 = [0.45, 0.30, 0.10, 0.10, 0.04, 0.01]


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ([1.0], [1]),
        ([3, 3, 3], [1, 1, 1]),
        ([0.45, 0.3, 0.25], [9, 6, 5]),
        (TABLE_A1, [45, 30, 10, 10, 4, 1]),
        ([1e-4, 0.9999], [1, 9_999]),
        ([0.003_002, 0.996_998], [30, 9_970]),
        ([2**0.5, 1.0], [5_858, 4_142]),
    ],
)
def test_weights_are_converted_to_whole_rows(weights, parts):
    assert whole_parts(weights) == parts


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.3, 1), min_size=1, max_size=30))
def test_shares_of_at_least_one_percent_are_rounded_by_under_one_percent(weights):
    parts = np.array(whole_parts(weights))
    assert sum(parts) <= MAX_PERIOD
    assert parts / sum(parts) == pytest.approx(np.array(weights) / sum(weights), rel=0.01)


@pytest.mark.parametrize("weights", [[1e-6, 1], [1, 1e-6], [0.003_45, 0.996_55], [1e-12, 1e12]])
def test_a_share_rounded_by_over_one_percent_is_refused(weights):
    """It would be another mixture."""
    with pytest.raises(InputError, match=r"weight=\S+ is a share of .* over 1% off\. Give a share"):
        whole_parts(weights)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=10))
def test_every_prefix_is_less_than_one_row_from_its_shares(parts):
    order = RowOrder(parts)
    k = np.arange(1, 2 * order.period + 1)
    given = np.array([order.counts(n) for n in k])
    assert np.abs(given * order.period - k[:, None] * order.parts).max() < order.period


def test_largest_deficit_first_would_be_more_than_one_row_off():
    """The reason for earliest deadline first, which keeps the bound for the same shares."""
    parts = [50, 3, 2, 50, 1, 3, 91, 1, 3, 1, 2, 1]
    period, given, worst = sum(parts), np.zeros(len(parts)), 0.0
    for k in range(1, period + 1):
        given[np.argmax(k * np.array(parts) - period * given)] += 1
        worst = max(worst, np.abs(k * np.array(parts) / period - given).max())
    assert worst > 1.1
    order = RowOrder(parts)
    found = [order.counts(k) - k * order.parts / period for k in range(period)]
    assert np.abs(found).max() < 1


def test_the_source_of_a_row_depends_only_on_its_number():
    """Counts, sources and indices agree, also far from the start."""
    order = RowOrder([45, 30, 10, 10, 4, 1])
    for start in (0, 97, 10**15 + 7):
        source, turn = order.locate(start + np.arange(250))
        for k in range(250):
            assert turn[k] == order.counts(start + k)[source[k]]
            assert np.array_equal(
                order.counts(start + k + 1) - order.counts(start + k), np.arange(6) == source[k]
            )


def test_the_order_has_not_changed():
    """A change would change every run on a mixture."""
    source, _ = RowOrder([5, 3, 1]).locate(np.arange(18))
    assert source.tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 2, 0, 1, 0, 0, 1, 0, 1, 0, 2]

"""The order in which sources contribute rows, so that every prefix of the stream has their shares.

After k rows, a source of share p has contributed more than k*p - 1 and fewer than k*p + 1 rows. A
choice by largest deficit does not guarantee this: with shares 50, 3, 2, 50, 1, 3, 91, 1, 3, 1, 2, 1 of
208, one source falls 1.13 rows behind. Here, among the sources that are behind their share, the one
that would first be a whole row behind comes next (earliest deadline first; proportionate progress,
Baruah et al. 1996). Shares are whole numbers of rows in a period, so the order of one period
determines the source of any row without computing the rows before it.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from chinchilla.core.errors import DataError

# Rows; weights that need a longer period are rounded. Opening a token folder computes one period, which
# takes 50 ms with 6 sources (5 s for a million rows).
MAX_PERIOD = 10_000
MAX_ROUNDING = Fraction(1, 100)  # of a source's share


def whole_parts(weights: Sequence[float]) -> list[int]:
    """Convert weights to rows per period, exactly if the period is at most MAX_PERIOD.

    For example, (0.45, 0.3, 0.25) gives [9, 6, 5].

    Raises:
        DataError: rounding would change a share by more than 1% of itself.
    """
    exact = [Fraction(repr(float(weight))) for weight in weights]
    scale = math.lcm(*(x.denominator for x in exact))
    parts = [int(x * scale) for x in exact]
    parts = [part // math.gcd(*parts) for part in parts]
    if sum(parts) <= MAX_PERIOD:
        return parts
    ideal = [x * MAX_PERIOD / sum(exact) for x in exact]
    parts = [max(1, math.floor(x)) for x in ideal]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - ideal[i], i))
    for i in by_remainder[: max(0, MAX_PERIOD - sum(parts))]:
        parts[i] += 1
    for weight, x, part in zip(weights, exact, parts, strict=True):
        share, rounded = x / sum(exact), Fraction(part, sum(parts))
        if abs(rounded - share) > MAX_ROUNDING * share:
            raise DataError(
                f"corpus.sources: weight={weight} is a share of {float(share):.4g}, and the nearest possible, "
                f"{part} of {sum(parts):,} rows, is over 1% off. Give a share of at least 1%, or whole-number "
                f"weights with a sum of at most {MAX_PERIOD:,}, which are exact."
            )
    return parts


class RowOrder:
    """The infinite sequence of sources from which the rows are taken.

    Attributes:
        parts: rows of each source in one period.
        period: rows of one period.
    """

    def __init__(self, parts: Sequence[int]) -> None:
        self.parts = np.array(parts, np.int64)
        self.period = sum(parts)
        self._source = np.array(_one_period(parts), np.int64)  # (period,)
        is_source = self._source[:, None] == np.arange(len(parts))
        self._before = np.zeros(
            (self.period + 1, len(parts)), np.int64
        )  # rows of each source before row k
        np.cumsum(is_source, axis=0, out=self._before[1:])

    def counts(self, n_rows: int) -> np.ndarray:
        """(sources,) number of rows of each source among the first `n_rows`."""
        periods, rest = divmod(n_rows, self.period)
        return periods * self.parts + self._before[rest]

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each row and its index among the rows of that source; (k,) int64 each."""
        periods, rest = np.divmod(rows, self.period)
        source = self._source[rest]
        return source, periods * self.parts[source] + self._before[rest, source]


def _one_period(parts: Sequence[int]) -> list[int]:
    """The source of each row of a period, in exact arithmetic."""
    period = sum(parts)
    taken = [0] * len(parts)
    order = []
    for row in range(1, period + 1):
        behind = [i for i, part in enumerate(parts) if part * row > period * taken[i]]
        source = min(behind, key=lambda i: (-(-period * (taken[i] + 1) // parts[i]), i))
        taken[source] += 1
        order.append(source)
    return order

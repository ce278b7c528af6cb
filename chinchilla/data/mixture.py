"""Which source gives row k of a mixture, so that every prefix of the stream has the shares asked for.

After k rows a source of share p has given more than k*p - 1 and fewer than k*p + 1 of them. Giving
each row to the source with the largest deficit does not hold that: with shares 50, 3, 2, 50, 1, 3,
91, 1, 3, 1, 2, 1 of 208 one source gets 1.13 rows behind. Here a row goes, among the sources that
are behind, to the one that would first be a whole row behind (earliest deadline first; proportionate
progress, Baruah et al. 1996). Shares are whole parts of a
period, so the order of one period says everything, and no row needs those before it.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from chinchilla.core.errors import DataError

# Rows; weights that need longer are rounded to parts of it. Whoever opens tokens lays out one period:
# 50 ms with 6 sources, 5 s with a million rows.
MAX_PERIOD = 10_000
MAX_ROUNDING = Fraction(1, 100)  # of a source's share


def whole_parts(weights: Sequence[float]) -> list[int]:
    """Weights as whole parts of at most MAX_PERIOD rows, exact where they allow it.

    (0.45, 0.3, 0.25) gives [9, 6, 5].

    Raises:
        DataError: a source's share of the parts would be over 1% of itself off.
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
        share, met = x / sum(exact), Fraction(part, sum(parts))
        if abs(met - share) > MAX_ROUNDING * share:
            raise DataError(
                f"corpus.sources: weight={weight} is a share of {float(share):.4g}; {part} of {sum(parts):,} rows "
                "is the nearest there is, over 1% off. Give a share of at least 1%, or round the weights: "
                f"whole numbers that add up to at most {MAX_PERIOD:,} are met exactly."
            )
    return parts


class RowOrder:
    """The endless order in which sources give rows.

    Attributes:
        parts: rows of each source in one period.
        period: rows of one period.
    """

    def __init__(self, parts: Sequence[int]) -> None:
        self.parts = np.array(parts, np.int64)
        self.period = sum(parts)
        self._source = np.array(_one_period(parts), np.int64)  # (period,)
        given = self._source[:, None] == np.arange(len(parts))
        self._before = np.zeros((self.period + 1, len(parts)), np.int64)  # rows given before row k
        np.cumsum(given, axis=0, out=self._before[1:])

    def counts(self, n_rows: int) -> np.ndarray:
        """(sources,) how many of the first `n_rows` rows each source gives."""
        periods, rest = divmod(n_rows, self.period)
        return periods * self.parts + self._before[rest]

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source of each row, and which of that source's rows it is, from 0. All (k,) int64."""
        periods, rest = np.divmod(rows, self.period)
        source = self._source[rest]
        return source, periods * self.parts[source] + self._before[rest, source]


def _one_period(parts: Sequence[int]) -> list[int]:
    """The source of each row of a period, in exact arithmetic."""
    period = sum(parts)
    given = [0] * len(parts)
    order = []
    for row in range(1, period + 1):
        behind = [i for i, part in enumerate(parts) if part * row > period * given[i]]
        source = min(behind, key=lambda i: (-(-period * (given[i] + 1) // parts[i]), i))
        given[source] += 1
        order.append(source)
    return order

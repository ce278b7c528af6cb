"""Windows of tokens per parameter."""

import numpy as np

from chinchilla.fit.parametric.windows import in_words, windows_of

SIZES = np.geomspace(3e7, 3e9, 8)
RATIOS = np.geomspace(0.05, 500, 12)


def test_windows_with_the_same_runs_count_once(observe, law):
    N, ratio = (x.ravel() for x in np.meshgrid(SIZES, np.geomspace(3, 100, 5)))
    assert len(windows_of(observe(N, ratio * N, law(N, ratio * N)))) == 1
    N, ratio = (x.ravel() for x in np.meshgrid(SIZES, RATIOS))
    found = windows_of(observe(N, ratio * N, law(N, ratio * N)))
    assert [in_words(ratios) for ratios, _ in found] == [
        "all tokens per parameter",
        "D/N from 1 to 1000",
        "D/N from 2 to 200",
    ]

"""A law that misses its runs: fits to windows of tokens per parameter are reported."""

import re

import numpy as np

from chinchilla.fit import fit_parametric
from chinchilla.fit.parametric.windows import in_words, windows_of

SIZES = np.geomspace(3e7, 3e9, 8)
RATIOS = np.geomspace(0.05, 500, 12)


def misfit(found) -> str:
    """The warning of a law that misses its runs."""
    (message,) = [text for text in found.warnings if "the law misses these runs" in text]
    return message


def test_a_law_that_holds_above_one_token_per_parameter_is_fitted_there(observe, law):
    """Runs below one token per parameter lie up to 40% off the law: the window's misfit and a are reported."""
    N, ratio = (x.ravel() for x in np.meshgrid(SIZES, RATIOS))
    L = law(N, ratio * N) * np.where(ratio < 1, ratio**-0.12, 1.0)
    message = misfit(fit_parametric(observe(N, ratio * N, L), n_bootstrap=0))
    found = re.search(
        r"on D/N from 1 to 1000 \(\d+ of 96 runs\) it misses by 0.0% and a = (\S+);", message
    )
    assert found is not None
    assert abs(float(found[1]) - law.beta / (law.alpha + law.beta)) < 2e-3
    assert "tokens_per_param=[LOW,HIGH]" in message
    assert "data set" not in message


def test_runs_that_no_window_fits_are_questioned(observe, law):
    """Two data sets .6 nats apart at every size and ratio."""
    N, ratio = (x.ravel() for x in np.meshgrid(SIZES, RATIOS))
    L = law(N, ratio * N) + 0.6 * (np.arange(len(N)) % 2)
    message = misfit(fit_parametric(observe(N, ratio * N, L), n_bootstrap=0))
    assert "no window of D/N fits better" in message
    assert message.endswith("share one data set, tokenizer, recipe and loss.")


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

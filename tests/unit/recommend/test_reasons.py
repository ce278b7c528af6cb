"""The reasons of a recommendation."""

from dataclasses import replace

import numpy as np
from recommended import BUDGETS, best, fitted

from chinchilla.recommend import recommendation


def test_outliers_are_excluded_listed_and_shown_with_and_without(isoflop_runs, law):
    runs = isoflop_runs(BUDGETS, noise=1e-3)
    L = runs.L.copy()
    L[[4, 30]] *= 1.5
    bad = runs.run_id[[4, 30]]
    fits = fitted(replace(runs, L=L))
    model = fits.recommended_model
    assert {o["run_id"] for o in model.outliers} == set(bad)
    (said,) = [text for text in model.reasons if "outliers" in text]
    assert f"2 of {len(runs)} runs are outliers and were excluded" in said
    assert "without them" in said
    assert "with all runs" in said
    N, _ = best(law, 1e22)
    assert abs(np.log(recommendation(fits, 1e22).N / N)) < 0.1


def test_a_without_outliers_is_the_same_in_the_reasons_and_in_the_notes(scattered_runs):
    """Approach 3 and the recommendation count C alike, also where C is not 6*N*D."""
    runs = scattered_runs(noise=1e-3)
    L = runs.L.copy()
    L[[4, 30]] *= 1.5
    C = runs.C * (1 + (1e7 / runs.N) ** 0.5)
    fits = fitted(replace(runs, L=L, C=C), approaches=["parametric"])
    parametric = fits.fitted["parametric"]
    without = f"{parametric.details['outliers']['a_without']:.3f}"
    assert any(f"without them a is {without}," in text for text in parametric.warnings)
    assert any(f"a = {without} without them" in text for text in fits.recommended_model.reasons)

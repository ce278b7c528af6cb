"""Forecasts: their intervals, and the record in frontier.json."""

import pytest
from recommended import BUDGETS, best, fitted, inside

from chinchilla.core.errors import InputError
from chinchilla.fit.results import FitResults
from chinchilla.recommend import recommendation
from chinchilla.recommend.forecast import Forecast, RecommendedModel
from chinchilla.recommend.held_out import HeldOutErrors, error_scale
from chinchilla.recommend.laws import optimum


@pytest.mark.slow
@pytest.mark.parametrize(("n_budgets", "noise"), [(3, 0.01), (4, 0.01), (5, 0.01)])
def test_intervals_of_few_budgets_cover_the_truth(isoflop_runs, law, n_budgets, noise):
    """Each minimum's own uncertainty counts: three points lie on any curve of three parameters."""
    held = {"N": 0, "L": 0}
    for seed in range(20):
        runs = isoflop_runs(BUDGETS[:n_budgets], n_sizes=7, noise=noise, seed=seed)
        r = recommendation(fitted(runs, n_bootstrap=100), 10 * BUDGETS[n_budgets - 1])
        N, L = best(law, r.C)
        held["N"] += inside(N, r.N_interval80)
        held["L"] += inside(L, r.L_interval80)
    assert held["N"] >= 14  # of 20: under 5% of sets of 20 where 80% hold
    assert held["L"] >= 14


def test_a_model_survives_its_file_and_an_edited_one_is_refused(isoflop_runs, tmp_path):
    fits = fitted(isoflop_runs(BUDGETS, noise=1e-3))
    fits.save(tmp_path / "frontier.json")
    again = FitResults.load(tmp_path / "frontier.json")
    assert recommendation(again, 1e22) == recommendation(fits, 1e22)
    for path, value in (
        (("N", "kind"), "spline"),
        (("N", "members"), [[1.0, 2.0]]),
        (("L", "error", "scale"), 0.0),
        (("N", "quantity"), "L"),
        (("N", "names"), ["one"]),
    ):
        record = fits.recommended_model.to_dict()
        place = record
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(InputError, match="recommended"):
            RecommendedModel.from_dict(record, "recommended")


def test_a_member_without_optimum_is_ignored():
    none = [1.7, 400.0, 1e-300, 0.34, 0.38, 1.0, 1e9]
    law = [1.8, 4e4, 4e6, 0.62, 0.72, 0.6, 2e8]
    forecast = Forecast("N", "law", ["a", "b"], [0.1, 0.1], [none, law], [], error_scale(HeldOutErrors.of(), "N"))  # fmt: skip
    assert forecast.log_at(1e21) == pytest.approx(optimum(law, None, 1e21)[0][0])

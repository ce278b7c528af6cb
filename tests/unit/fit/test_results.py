"""frontier.json: loaded as it was saved, or refused in one line."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from chinchilla import cli
from chinchilla.config import FitCommand
from chinchilla.core.errors import InputError
from chinchilla.fit import FITS, FitResults, fit_all
from chinchilla.fit.loss_law import named_law
from chinchilla.observations.table import Observations
from chinchilla.recommend import fit_and_recommend

LAW = ("approaches", "parametric", "law")
FIT = ("approaches", "parametric")
N_OPT = (*FIT, "N_opt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Fits of three budgets of nine sizes, all three approaches, C not quite 6*N*D."""
    folder = tmp_path_factory.mktemp("fits")
    C = np.repeat([1e19, 1e20, 1e21], 9)
    N = 0.6 * (C / 6) ** 0.4565 * np.tile(np.geomspace(1 / 4, 4, 9), 3)
    D = C / (6.1 * N)
    noise = np.exp(3e-3 * np.random.default_rng(0).normal(size=len(N)))
    obs = Observations.of(N=N, D=D, C=C, L=named_law("hoffmann")(N, D) * noise, budget_flops=C)
    command = FitCommand(observations="x.csv", out_dir="x", n_bootstrap=20)
    fits = fit_and_recommend(obs, None, command)
    assert not fits.refused
    fits.save(folder)
    return folder


@pytest.fixture
def edited(folder, tmp_path):
    """edited(path, value) -> a folder whose frontier.json has that value there."""
    value = json.loads((folder / "frontier.json").read_text())

    def build(path, new):
        changed = copy.deepcopy(value)
        at = changed
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = new
        (tmp_path / "frontier.json").write_text(json.dumps(changed))
        (tmp_path / "observations.csv").write_bytes((folder / "observations.csv").read_bytes())
        return tmp_path

    return build


REFUSED = [  # where, the value put there, part of the answer
    (("schema",), "2", "schema '2'; this version reads schema 6"),
    (("approaches",), [], "approaches must be an object, and is []"),
    (("approaches",), None, "approaches must be an object, and is null"),
    (FIT, None, "approaches.parametric must be an object"),
    (FIT, 5, "approaches.parametric must be an object, and is 5"),
    (("approaches", "foo"), {"status": "refused", "reason": ""}, "approaches='foo': choose one of"),
    ((*FIT, "status"), "perhaps", "status='perhaps': choose one of fitted, refused"),
    ((*N_OPT, "exponent"), "x", 'N_opt: exponent must be a finite number, and is "x"'),
    ((*N_OPT, "exponent"), None, "exponent must be a finite number, and is null"),
    ((*N_OPT, "exponent"), True, "exponent must be a finite number, and is true"),
    ((*N_OPT, "coefficient"), 0, "N_opt.coefficient is not positive"),
    ((*N_OPT, "samples"), "x", "samples must be a list"),
    ((*N_OPT, "samples"), [1, 2], "samples must be a list, and is 1"),
    ((*N_OPT, "samples"), [[1, 2], [3]], "N_opt.samples must be 2 rows of equal length"),
    ((*N_OPT, "slope"), 0.5, "slope missing or unknown"),
    (("approaches",), {}, "approaches is empty"),
    ((*LAW, "alpha"), "x", "alpha must be a finite number"),
    ((*LAW, "alpha"), 0, "law.alpha is not positive"),
    ((*LAW, "alpha"), -1, "law.alpha is not positive"),
    ((*LAW, "E"), None, "E must be a finite number"),
    ((*LAW, "A"), float("nan"), "NaN is not allowed"),
    ((*LAW, "A"), float("inf"), "Infinity is not allowed"),
    ((*FIT, "law_samples"), [[1.0], [2.0]], "law_samples must be 5 rows of equal length"),
    ((*FIT, "settings"), None, "settings must be an object"),
    ((*FIT, "conventions"), [], "conventions must be an object"),
    ((*FIT, "n_runs"), "x", "n_runs must be a whole number"),
    ((*FIT, "points"), None, "points must be a list"),
    ((*FIT, "points"), [1], "not a OptimalPoint"),
    ((*FIT, "points"), [{"C": 1e19, "N": 0, "D": 1e9, "L": 3.0}], "points.N is not positive"),
    ((*FIT, "warnings"), None, "warnings must be a list"),
    ((*FIT, "warnings"), [1], "warnings must be text"),
    ((*FIT, "details"), None, "details must be an object"),
    (("data",), None, "data must be an object"),
    (("data",), {}, "data.C must be the smallest and the largest value"),
    (("data", "C"), [1], "data.C must be the smallest and the largest value"),
    (("data", "C"), "ab", 'data.C must be a list, and is "ab"'),
    (("data", "notes"), None, "data.notes must be a list"),
    (("flops_per_token",), {}, "not a FlopsPerToken"),
    (("flops_per_token",), "x", "not a FlopsPerToken"),
    (("flops_per_token", "log_ratio"), [1.8], "flops_per_token lacks sizes, or their ratios"),
    (("command",), None, "command must be an object"),
    (("command",), [], "command must be an object"),
]


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [pytest.param(*case, id=f"{'.'.join(case[0])}={str(case[1])[:20]}") for case in REFUSED],
)
def test_an_invalid_value_is_refused_in_one_line(edited, path, value, part):
    with pytest.raises(InputError) as error:
        FitResults.load(edited(path, value))
    assert part in str(error.value)
    assert "frontier.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*FIT, "settings", "interval"), "foo"),
        ((*FIT, "details"), {}),
        (("approaches", "isoflop", "details"), {}),
        (("approaches", "isoflop", "details", "budgets"), None),
        (("approaches", "envelope", "details"), {}),
        (("command",), {}),
    ],
)
@pytest.mark.slow
def test_an_edit_of_settings_or_details_does_not_change_predictions(
    edited, folder, capsys, path, value
):
    words = ["budget_flops=1e23", "format=json"]
    assert cli.main(["predict", f"fits={folder}", *words]) == 0
    whole = json.loads(capsys.readouterr().out)
    there = edited(path, value)
    assert cli.main(["predict", f"fits={there}", *words]) == 0
    again = json.loads(capsys.readouterr().out.replace(str(there), str(folder)))
    assert again == whole
    if path[-1] == "budgets" or path[:2] == ("approaches", "envelope"):  # seconds each
        assert cli.main(["report", f"fits={there}"]) == 0


def test_results_of_short_staircases_can_be_loaded(tmp_path):
    """Few sizes, uneven and noisy: their line may lie far from the mean of the points."""
    law, rng, read = named_law("hoffmann"), np.random.default_rng(0), 0
    command = FitCommand(observations="x", out_dir="x", approaches=["envelope"], n_bootstrap=0)
    for _ in range(80):
        sizes = 1e7 * np.exp(np.sort(rng.uniform(0, rng.uniform(0.5, 4), rng.integers(4, 8))))
        N = np.repeat(sizes, rng.integers(1, 4))  # of each run
        D = N[:, None] * np.exp(rng.uniform(1, 5, (len(N), 1))) * np.linspace(0.05, 1, 20)
        L = law(N[:, None], D) * np.exp(10 ** rng.uniform(-4, -1.3) * rng.normal(size=(len(N), 1)))
        obs = Observations.of(
            N=np.repeat(N, 20), D=D.ravel(), L=L.ravel(), loss_kind="validation",
            run_id=np.repeat(np.arange(len(N)).astype(str), 20),
        )  # fmt: skip
        fits = fit_all(obs, None, command)
        if fits.fitted:
            fits.save(tmp_path / "frontier.json")
            read += FitResults.load(tmp_path).fitted["envelope"] == fits.fitted["envelope"]
        else:
            assert fits.refused["envelope"].kind in ("too_few_sizes", "falls", "no_overlap")
    assert read > 15


def test_a_result_that_could_not_be_loaded_is_refused_when_it_is_fitted(folder, monkeypatch):
    result = FitResults.load(folder).fitted["isoflop"]
    result = replace(result, N_opt=replace(result.N_opt, coefficient=np.inf))
    monkeypatch.setitem(FITS, "isoflop", lambda obs, **settings: result)
    obs = Observations.from_csv(folder / "observations.csv")
    command = FitCommand(observations="x", out_dir="x", approaches=["isoflop"])
    assert (
        "N_opt.coefficient is not positive and finite"
        in fit_all(obs, None, command).refused["isoflop"].reason
    )


def test_a_record_in_a_notebook_is_a_few_lines(folder):
    fits = FitResults.load(folder)
    assert len(repr(fits).splitlines()) < 10
    assert len(repr(fits.fitted["parametric"]).splitlines()) < 10
    assert len(str(fits).splitlines()) < 40


def test_the_runs_of_fits_are_in_memory_or_read_from_beside_the_file(folder, tmp_path):
    fits = FitResults.load(folder)
    assert len(fits.observations()) == len(fits.fitted["isoflop"].observations()) == 27
    fits.save(tmp_path / "alone.json")
    with pytest.raises(InputError, match=r"observations\.csv does not exist"):
        FitResults.load(tmp_path / "alone.json").observations()
    fits.save(tmp_path / "both")
    assert (
        FitResults.load(tmp_path / "both").observations().L.tolist()
        == fits.observations().L.tolist()
    )
    with pytest.raises(InputError, match="are not known"):
        replace(fits, runs=None).observations()


def test_another_table_beside_fits_that_were_saved_is_refused(folder, tmp_path):
    FitResults.load(folder).save(tmp_path)
    table = tmp_path / "observations.csv"
    table.write_text(table.read_text() + "\n")
    with pytest.raises(InputError, match="is not the table"):
        FitResults.load(tmp_path).fitted["isoflop"].observations()


def test_the_file_holds_nothing_of_the_observations_in_memory(folder):
    value = json.loads((folder / "frontier.json").read_text())
    assert "runs" not in value
    assert all("runs" not in record for record in value["approaches"].values())

"""The package in a notebook: quick to import, arrays in, results that print themselves."""

import contextlib
import inspect
import io
import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import numpy as np
import pytest

import chinchilla
from chinchilla import (
    FitResults,
    LossLaw,
    Observations,
    PowerLaw,
    fit_envelope,
    fit_isoflop,
    fit_parametric,
    named_law,
)
from chinchilla.config import FitCommand
from chinchilla.core.errors import InputError, Refusal
from chinchilla.fit import FailedFit

DOCS = Path(__file__).parents[2] / "docs"


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, json, chinchilla; "
        "print(json.dumps([m for m in sys.modules if m.startswith(('chinchilla.', 'numpy', 'torch'))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    "lines",
    [
        "import chinchilla; f = chinchilla.fit(t, n_bootstrap=0)",
        "import chinchilla.fit; import chinchilla; f = chinchilla.fit(t, n_bootstrap=0)",
        "from chinchilla import fit; f = fit(t, n_bootstrap=0); from chinchilla.fit import FitResults",
        "from chinchilla.fit import FitResults; import chinchilla; f = chinchilla.fit(t, n_bootstrap=0)",
        "import chinchilla; f = chinchilla.fit(t, n_bootstrap=0); from chinchilla.fit import FitResults; "
        "from chinchilla.fit.isoflop.approach2 import fit_isoflop; f = chinchilla.fit(t, n_bootstrap=0)",
    ],
)
@pytest.mark.slow
def test_fit_is_a_function_and_a_package_in_any_order_of_imports(lines):
    columns = {"N": [1e8, 3e8, 2e8, 4e8], "D": [1e10, 1e10, 5e10, 4e10], "L": [3, 4, 2, 3]}
    code = f"t = {columns}; {lines}; print(type(f).__name__, len(f.observations()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["FitResults", "4"]


def test_the_settings_of_fit_are_those_of_the_command_with_its_defaults():
    """What concerns files and reading has its own place: `Observations.from_frame` and `save`."""
    files = {"sweep_dir", "observations", "curves", "minima", "out_dir", "loss", "format"}
    reading = {"flop_convention", "n_convention", "columns", "duplicates"}
    command = FitCommand(observations="x", out_dir="x")
    known = {k: v for k, v in asdict(command).items() if k not in files | reading}
    parameters = inspect.signature(chinchilla.fit).parameters.values()
    given = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()} == known


@pytest.mark.parametrize("function", [chinchilla.fit, fit_isoflop, fit_parametric, fit_envelope])
def test_options_are_literals_in_the_public_functions(function):
    said = str(inspect.signature(function))
    choices = {"isoflop": "parabola", "parametric": "lad", "envelope": "constant"}
    wanted = [
        v for k, v in choices.items() if k in getattr(function, "__name__", "fit")
    ] or choices.values()
    assert all(f"'{value}'" in said for value in wanted)
    assert ": str" not in said


def test_every_name_of_the_api_is_there_and_no_other():
    for name in chinchilla.__all__:
        assert getattr(chinchilla, name) is not None
        assert name in dir(chinchilla)
    with pytest.raises(AttributeError, match="no attribute 'fit_everything'"):
        chinchilla.fit_everything  # noqa: B018


def test_fitting_in_a_notebook_loads_no_torch():
    code = (
        "import sys, chinchilla; from chinchilla import fit_parametric, recommendation; "
        "f = chinchilla.fit(chinchilla.simulate(), n_bootstrap=0); repr(f), f._repr_html_(), f.a; "
        "print(*[m for m in ('torch', 'hydra', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def said_in(block: str) -> list[str]:
    """The comment lines under the prints of an example."""
    return re.findall(r"^# (.*)$", block, re.MULTILINE)


def test_the_example_of_the_docs_prints_its_output():
    """A line that ends in ... is compared as far as it goes."""
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "observations.md").read_text(), re.DOTALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block, "observations.md", "exec"), {})
    printed, said = out.getvalue().splitlines(), said_in(block)
    assert len(said) == len(printed) > 5
    for line, expected in zip(printed, said, strict=True):
        if expected.endswith("..."):
            assert line.startswith(expected.removesuffix("..."))
        else:
            assert line == expected


@pytest.mark.slow
def test_the_notebook_section_of_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "fitting.md").read_text(), re.DOTALL)
    exec(compile(block, "fitting.md", "exec"), {})
    assert len(FitResults.load("fits").fitted) == 3


@pytest.fixture(scope="module")
def runs() -> Observations:
    """Five budgets of nine sizes about the optimum of the published law, 0.3% noise."""
    law = named_law("hoffmann")
    C = np.repeat(np.geomspace(1e19, 1e21, 5), 9)
    N = 0.6 * (C / 6) ** 0.4565 * np.tile(np.geomspace(1 / 4, 4, 9), 5)
    D = C / (6 * N)
    noise = np.exp(3e-3 * np.random.default_rng(0).normal(size=len(N)))
    return Observations.of(N=N, D=D, L=law(N, D) * noise, budget_flops=C, n_convention="total")


def test_a_fit_prints_exponents_intervals_their_method_and_the_law(runs):
    fit = fit_parametric(runs, n_bootstrap=50)
    text = str(fit)
    assert text.startswith("approach 3 (parametric): 45 runs; flop six_nd, n total, loss unknown\n")
    a = fit.N_opt
    assert f"N_opt = {a.coefficient:.4g} * C^{a.exponent:.3f}, exponent {a.p10:.3f} to" in text
    assert f"{a.ci95[0]:.3f} to {a.ci95[1]:.3f} (95%)" in text
    assert f"interval: {fit.settings['interval']}" in text
    assert "Bayesian bootstrap of runs, Student's t, 50 resamples" in text
    assert f"L(N, D) = {fit.law.E:.4f} + " in text
    assert ", alpha 0." in text
    assert len(text.splitlines()) < 12


def test_what_a_fit_could_not_use_is_printed_with_it(runs):
    lone = runs.where((runs.budget_flops > 1.1e19) | (runs.run_id == "run0000"))
    text = str(fit_isoflop(lone, n_bootstrap=0))
    assert text.startswith("approach 2 (isoflop): 16 runs")
    assert "not used: budget 1e+19: 1 model sizes" in text
    assert "no interval" in text


def test_without_C_arrays_and_frames_enter_by_one_rule():
    columns = {"N": [1e8, 2e8], "D": [2e9, 5e9], "L": [3.0, 2.9]}
    for obs in (Observations.of(**columns), Observations.from_frame(columns)):
        assert obs.C.tolist() == [1.2e18, 6e18]
        assert obs.flop_convention == "six_nd"
        assert obs.notes == ("C = 6*N*D in every row: the table has no column C.",)
    for enter in (
        lambda **x: Observations.of(**columns, **x),
        lambda **x: Observations.from_frame(columns, **x),
    ):
        with pytest.raises(InputError, match="no column C"):
            enter(flop_convention="with_head")


def test_fits_print_answers_and_refusals(runs):
    fits = FitResults.of(
        {"isoflop": fit_isoflop(runs, n_bootstrap=0)}, {"envelope": FailedFit("no.")}, runs
    )
    text = str(fits)
    assert "approach 2 (isoflop): 22 runs" in text
    assert "approach 1 (envelope) refused: no." in text
    assert "note: C = 6*N*D in every row" in text


def test_laws_print_without_intervals_too():
    assert str(PowerLaw(0.1, 0.5)) == "0.1 * C^0.500, no interval"
    assert str(LossLaw(1.7, 400, 410, 0.34, 0.28)) == (
        "L(N, D) = 1.7000 + 400 / N^0.3400 + 410 / D^0.2800 nats per token"
    )


def test_results_cannot_be_changed_by_accident(runs):
    fit = fit_isoflop(runs, n_bootstrap=0)
    with pytest.raises(FrozenInstanceError):
        fit.n_runs = 3
    with pytest.raises(FrozenInstanceError):
        runs.N = runs.D


def test_the_order_of_the_runs_does_not_matter(runs):
    order = np.random.default_rng(1).permutation(len(runs))
    for fit in (fit_parametric, fit_isoflop):
        a, b = fit(runs, n_bootstrap=0), fit(runs.where(order), n_bootstrap=0)
        assert a.N_opt.exponent == pytest.approx(b.N_opt.exponent, rel=1e-7)
        assert a.N_opt.coefficient == pytest.approx(b.N_opt.coefficient, rel=1e-5)


@pytest.fixture(scope="module")
def fits(runs) -> FitResults:
    return chinchilla.fit(runs, n_bootstrap=40)


def test_a_frame_and_a_dict_give_the_fits_of_their_observations(runs):
    pd = pytest.importorskip("pandas")
    columns = {
        "params": runs.N,
        "tokens": runs.D,
        "loss": runs.L,
        "budget_flops": runs.budget_flops,
    }
    for fit in (fit_isoflop, fit_parametric):
        whole = fit(runs, n_bootstrap=0)
        for table in (columns, pd.DataFrame(columns)):
            assert fit(table, n_bootstrap=0).N_opt == whole.N_opt
    quick = {"n_bootstrap": 0, "approaches": ["isoflop"]}
    expected = chinchilla.fit(runs, **quick).N_opt(1e22)
    assert chinchilla.fit(pd.DataFrame(columns), **quick).N_opt(1e22) == pytest.approx(expected)
    with pytest.raises(InputError, match="has no named columns"):
        fit_isoflop([1, 2, 3])
    with pytest.raises(InputError, match="needs runs"):
        chinchilla.fit()


def test_the_first_line_of_fits_is_the_recommended_answer(fits):
    r = chinchilla.recommendation(fits, 1e22)
    text = " ".join(repr(fits).split())
    assert text.startswith(str(r).splitlines()[0])
    assert "approach 3 (parametric): a = " in text
    assert f"a = {fits.fitted['isoflop'].a:.3f} [" in text
    html = fits._repr_html_()
    assert str(r).splitlines()[0] in html
    assert html.count("<tr>") == 1 + 3


def test_html_escapes_what_comes_from_tables(runs):
    refused = FitResults.of({}, {"envelope": FailedFit("<script>")}, runs)
    assert "<script>" not in refused._repr_html_()
    assert "No recommendation: no approach has an answer" in repr(refused)
    with pytest.raises(Refusal, match="no recommended N_opt"):
        refused.a  # noqa: B018


def test_predictions_are_a_row_per_budget_with_the_recommended_numbers(fits):
    pytest.importorskip("pandas")
    table = fits.predict([1e21, 1e22])
    r = chinchilla.recommendation(fits, 1e22)
    assert table["C"].tolist() == [1e21, 1e22]
    row = table.iloc[1]
    assert [row["N"], row["D"], row["D/N"], row["L"]] == [r.N, r.D, r.ratio, r.L]
    assert [row["N_low"], row["N_high"]] == r.N_interval80
    assert [row["D_low"], row["D_high"]] == r.D_interval80
    assert [row["L_low"], row["L_high"]] == r.L_interval80
    assert row["approach"] == r.approach
    assert row["beyond"] == pytest.approx(10, rel=1e-3)
    assert len(fits.predict(1e22)) == 1
    for wrong in (0, "much", [1e21, float("nan")]):
        with pytest.raises(InputError, match="above 0"):
            fits.predict(wrong)
    with pytest.raises(Refusal, match="beyond the largest run"):
        fits.predict(1e29)


def test_an_approach_predicts_by_its_own_lines(fits):
    pytest.importorskip("pandas")
    law = named_law("hoffmann").optimum(1e22)
    for name in ("isoflop", "parametric"):
        (row,) = fits.fitted[name].predict(1e22).to_dict("records")
        assert row["approach"] == name
        assert row["N_low"] < row["N"] == float(fits.fitted[name].N_opt(1e22)) < row["N_high"]
    assert row["L"] == pytest.approx(law.L, rel=0.02)
    assert row["L_low"] < row["L"] < row["L_high"]


def test_without_pandas_a_frame_is_refused_in_one_line(fits, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        fits.predict(1e22)


def test_exponents_are_the_slope_of_the_recommended_sizes(fits):
    C = 1e22 * np.array([1, 1.01])
    N = fits.N_opt(C)
    assert fits.a == pytest.approx(np.log(N[1] / N[0]) / np.log(1.01), abs=1e-4)
    assert fits.a + fits.b == pytest.approx(1)  # C = 6*N*D
    assert isinstance(fits.N_opt(1e22), float)
    f = fits.fitted["isoflop"]
    assert (f.a, f.b) == (f.N_opt.exponent, f.D_opt.exponent)


def test_saved_fits_are_loaded_with_their_runs(fits, tmp_path):
    fits.save(str(tmp_path / "kept"))
    back = FitResults.load(str(tmp_path / "kept"))
    assert repr(back) == repr(fits)
    assert back.observations().L.tolist() == fits.observations().L.tolist()


def test_diagnostics_of_fits_in_memory_and_of_loaded_ones_are_the_same(fits, tmp_path):
    found = chinchilla.diagnose(fits, n_bootstrap=0)
    assert found.items
    fits.save(tmp_path)
    again = chinchilla.diagnose(FitResults.load(tmp_path), n_bootstrap=0)
    assert {k: v.verdict for k, v in again.items.items()} == {
        k: v.verdict for k, v in found.items.items()
    }
    assert repr(found).splitlines()[-1] == found.summary


def test_a_published_law_gives_its_optimum():
    law = LossLaw.published("hoffmann")
    assert law == named_law("hoffmann")
    N, D, L = law.optimum(5.76e23)
    assert N == pytest.approx(40.36e9, rel=2e-4)  # approach 3 of the paper
    assert pytest.approx(5.76e23) == 6 * N * D
    assert float(law(N, D)) == L
    assert law(N * 1.1, D / 1.1) > L < law(N / 1.1, D * 1.1)
    assert law.optimum([1e20, 1e21]).N.shape == (2,)
    with pytest.raises(InputError, match="above 0"):
        law.optimum(0)
    with pytest.raises(InputError, match="choose one of"):
        LossLaw.published("kaplan")


def test_a_simulated_sweep_gives_its_law_back():
    law = named_law("besiroglu")
    obs = chinchilla.simulate("besiroglu", [1e19, 1e20, 1e21], 7, 8.0, noise=0)
    assert len(obs) == 21
    assert obs.L == pytest.approx(law(obs.N, obs.D))
    first = obs.where(obs.budget_flops == 1e19)
    middle = law.optimum(1e19).N
    assert [first.N.min(), first.N.max()] == pytest.approx([middle / 8, middle * 8])
    fitted = fit_parametric(obs, n_bootstrap=0)
    assert fitted.law.alpha == pytest.approx(law.alpha, rel=1e-4)
    assert fitted.N_opt(1e22) == pytest.approx(law.optimum(1e22).N, rel=1e-3)


def test_simulated_noise_has_its_size_and_its_seed():
    one, two, other = (
        chinchilla.simulate("hoffmann", [1e20], 400, noise=0.01, seed=s) for s in (0, 0, 1)
    )
    assert one.L.tolist() == two.L.tolist() != other.L.tolist()
    law = named_law("hoffmann")
    assert np.std(np.log(one.L / law(one.N, one.D))) == pytest.approx(0.01, rel=0.15)


def test_what_cannot_be_simulated_is_refused():
    for wrong, part in (
        ({"n_sizes": 0}, "n_sizes"), ({"n_sizes": (9, 4.0)}, "n_sizes"), ({"n_sizes": 10**8}, "n_sizes"),
        ({"half_width": 1.0}, "half_width"), ({"noise": -1}, "noise"), ({"budgets": [0.0]}, "budgets"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=part):
            chinchilla.simulate(**wrong)


def test_curves_are_a_second_table_or_the_only_one():
    law = named_law("hoffmann")
    N = np.repeat(np.geomspace(1e7, 1e10, 12), 60)
    D = np.tile(np.geomspace(1e8, 1e12, 60), 12)
    curves = {"run_id": [f"{n:.4g}" for n in N], "N": N, "D": D, "L": law(N, D)}
    alone = chinchilla.fit(curves=curves, approaches=["envelope"], n_bootstrap=0)
    assert not alone.refused
    assert alone.data["n_runs"] == 12
    assert alone.fitted["envelope"].observations().has_curves
    with pytest.raises(InputError, match="no two rows share a run_id"):
        chinchilla.fit(curves={"N": [1e8, 2e8], "D": [1e9, 1e9], "L": [3.0, 2.9]})

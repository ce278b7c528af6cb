"""The package in a notebook: quick to import, arrays in, results that print themselves."""

import contextlib
import io
import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

import chinchilla
from chinchilla import (
    Fits,
    LossLaw,
    Observations,
    PowerLaw,
    fit_isoflop,
    fit_parametric,
    named_law,
)
from chinchilla.errors import InputError
from chinchilla.fit import Refused

DOCS = Path(__file__).parents[2] / "docs"


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, json, chinchilla; "
        "print(json.dumps([m for m in sys.modules if m.startswith(('chinchilla.', 'numpy', 'torch'))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_every_name_of_the_api_is_there_and_no_other():
    for name in chinchilla.__all__:
        assert getattr(chinchilla, name) is not None
        assert name in dir(chinchilla)
    with pytest.raises(AttributeError, match="no attribute 'fit_everything'"):
        chinchilla.fit_everything  # noqa: B018


def test_fitting_in_a_notebook_loads_no_torch():
    code = (
        "import sys; from chinchilla import fit_parametric; "
        "print(*[m for m in ('torch', 'hydra', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def said_in(block: str) -> list[str]:
    """The comment lines under the prints of an example."""
    return re.findall(r"^# (.*)$", block, re.MULTILINE)


def test_the_example_of_the_docs_prints_what_it_says():
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
    assert "50 draws of random weights on the runs" in text
    assert f"L(N, D) = {fit.law.E:.4f} + " in text
    assert "alpha 0." in str(fit.law)
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
        assert obs.notes == ("C = 6*N*D on every row: the table gives no C.",)
    for enter in (
        lambda **x: Observations.of(**columns, **x),
        lambda **x: Observations.from_frame(columns, **x),
    ):
        with pytest.raises(InputError, match="no column C"):
            enter(flop_convention="with_head")


def test_fits_print_answers_and_refusals(runs):
    fits = Fits.of(
        {"isoflop": fit_isoflop(runs, n_bootstrap=0)}, {"envelope": Refused("no.")}, runs
    )
    text = str(fits)
    assert "approach 2 (isoflop): 22 runs" in text
    assert "approach 1 (envelope) refused: no." in text
    assert "note: C = 6*N*D on every row" in text


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

"""scripts/studies/score_design.py: choices stay within the budget, fits find the law, errors are one line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts" / "studies"
sys.path.insert(0, str(SCRIPTS))

import score_design as sd  # noqa: E402


def power_law(theta, X, backend):
    """E + A N^-alpha of (k, 3) parameters at (n, 1) inputs, in the benchmark's form."""
    E, A, alpha = theta.T[:, :, None]
    term = A * X[:, 0] ** -alpha
    jacobian = np.stack([term * 0 + 1, term / A, -term * np.log(X[:, 0])], axis=-1)
    y = E + term
    return (y[0], jacobian[0]) if len(theta) == 1 else (y, jacobian)


LAW = sd.Law(power_law, [(-1, 3), (1, 1e4), (0.05, 1)])
TRUE = np.array([1.7, 400.0, 0.34])


@pytest.fixture
def runs():
    X = np.geomspace(1e6, 1e8, 30)[:, None]
    y = power_law(TRUE[None], X, "")[0] + 0.01 * np.random.default_rng(0).normal(size=30)
    return sd.Runs(X, y, X[:, 0] ** 2)


def test_the_fit_finds_the_law_that_losses_were_drawn_from(runs):
    exact = power_law(TRUE[None], runs.X, "")[0]
    u, f = sd.fit(LAW, runs.X, exact, LAW.starts(np.random.default_rng(1), 20), 150)
    assert [u[0, 0], *np.exp(u[0, 1:])] == pytest.approx(TRUE, rel=1e-5)
    assert (f[1:] >= f[:-1]).all()


@pytest.mark.parametrize("method", sd.METHODS)
def test_a_choice_costs_at_most_the_budget_and_trains_no_run_twice(runs, method):
    budget = 0.1 * runs.cost.sum()
    target = np.array([[1e9], [2e9]])
    chosen = sd.choose(method, LAW, runs, target, budget, np.random.default_rng(2))
    assert len(set(chosen.tolist())) == len(chosen) >= 4
    if method == "all":
        assert len(chosen) == 30
    else:
        assert runs.cost[chosen].sum() <= budget * (1 + 1e-9)
        left = budget - runs.cost[chosen].sum()
        rest = np.setdiff1d(np.arange(30), chosen)
        assert (runs.cost[rest] > left).all()  # nothing else fits


def test_r_squared_is_cut_off_at_minus_one():
    y = np.array([1.0, 2.0, 3.0])
    assert sd.r_squared(y, y) == 1
    assert sd.r_squared(y, y * 0 + 2) == 0
    assert sd.r_squared(y, 100 * y) == sd.r_squared(y, y * np.nan) == -1


def call(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / "score_design.py", *words], capture_output=True, text=True,
        timeout=60, cwd=cwd,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "argument folder: there is no folder 'nowhere'."),
        ((".", "--tasks", "moe,vocab"), "--tasks: there is no task 'vocab'. Choose from data_con,"),
        ((".", "--budget", "2"), "--budget: 2 is more than all runs cost. Give 1 or less."),
        ((".", "--seeds", "0"), "argument --seeds: '0' is not a whole number above 0."),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path):
    done = call(*words, "--out", "out.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_tables_are_named(tmp_path):
    done = call(".", "--tasks", "moe", "--out", "out.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("moe: left out, ")
    assert "nothing is left to score." in done.stderr
    assert not (tmp_path / "out.json").exists()
    assert "usage: score_design.py" in call("--help", cwd=tmp_path).stdout

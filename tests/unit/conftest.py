"""Worlds whose answer is known: runs that follow a published law exactly."""

import numpy as np
import pytest
from command_line import Result

from chinchilla import cli
from chinchilla.fit.loss_law import named_law
from chinchilla.fit.result import LossLaw
from chinchilla.observations.table import Observations


@pytest.fixture
def law() -> LossLaw:
    return named_law("hoffmann")


@pytest.fixture
def observe():
    """observe(N, D, L, ...) -> Observations with C = 6*N*D and a run_id per row unless given."""

    def build(N, D, L, *, C=None, budget=None, run_id=None, **conventions) -> Observations:
        N, D, L = (np.array(x, float) for x in np.broadcast_arrays(N, D, L))
        n = len(N)
        return Observations(
            run_id=np.array([f"run{i:04d}" for i in range(n)] if run_id is None else run_id),
            budget_flops=np.full(n, np.nan) if budget is None else np.array(budget, float),
            C=6 * N * D if C is None else np.array(C, float),
            N=N,
            D=D,
            L=L,
            **conventions,
        )

    return build


@pytest.fixture
def isoflop_runs(law, observe):
    """Nine sizes, a factor `half_width` either way of the true optimum, at each budget."""

    def build(budgets, *, n_sizes=9, half_width=4.0, off_centre=1.0, noise=0.0, seed=0, law=law):
        G = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
        a = law.beta / (law.alpha + law.beta)
        C = np.repeat(np.asarray(budgets, float), n_sizes)
        factors = off_centre * np.geomspace(1 / half_width, half_width, n_sizes)
        N = G * (C / 6) ** a * np.tile(factors, len(budgets))
        L = law(N, C / (6 * N)) * np.exp(noise * np.random.default_rng(seed).normal(size=len(N)))
        return observe(N, C / (6 * N), L, budget=C)

    return build


@pytest.fixture
def scattered_runs(law, observe):
    """Runs on the law over a grid of sizes and tokens per parameter."""

    def build(n_sizes=8, ratios=(5, 10, 20, 40, 80), noise=0.0, seed=0, law=law):
        N = np.repeat(np.geomspace(5e7, 5e9, n_sizes), len(ratios))
        D = N * np.tile(np.asarray(ratios, float), n_sizes)
        error = noise * np.random.default_rng(seed).normal(size=len(N))
        return observe(N, D, law(N, D) * np.exp(error))

    return build


@pytest.fixture
def csv(tmp_path):
    """csv(text) -> Observations read from a file with that text or those bytes."""

    def read(text: str | bytes, **said) -> Observations:
        path = tmp_path / "runs.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Observations.from_csv(path, **said)

    return read


@pytest.fixture
def say(capsys, monkeypatch, tmp_path):
    """say("plan grid=paper") -> Result of a command line; in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(words: str | list[str]) -> Result:
        capsys.readouterr()
        code = cli.main(words.split() if isinstance(words, str) else words)
        return Result(code, *capsys.readouterr())

    return run

"""docs/frontier.md names every key of a written frontier.json, and no key that is not there."""

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from chinchilla import Observations, named_law
from chinchilla.config import FitCommand
from chinchilla.core.files.json_codec import IN_MEMORY
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.result import FitResult, LossLaw, OptimalPoint, PowerLaw
from chinchilla.fit.results import FailedFit
from chinchilla.recommend import fit_and_recommend
from chinchilla.recommend.forecast import Forecast, RecommendedModel
from chinchilla.recommend.held_out import ErrorScale

TEXT = (Path(__file__).parents[2] / "docs" / "frontier.md").read_text(encoding="utf-8")


def documented(section: str) -> set[str]:
    """Keys in the first column of the section's table."""
    body = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert body, section
    rows = re.findall(r"^\| (`[^|]+`) \|", body[1], re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict:
    """frontier.json of approaches 2 and 3 on runs whose C is not 6*N*D; approach 1 is refused."""
    law = named_law("hoffmann")
    C = np.repeat(np.geomspace(1e19, 1e21, 3), 7)
    N = 0.6 * (C / 6) ** 0.4565 * np.tile(np.geomspace(1 / 4, 4, 7), 3)
    D = C / (6 * N * (1 + 0.3 * (1e8 / N) ** 0.3))
    L = law(N, D) * np.exp(2e-3 * np.random.default_rng(0).normal(size=len(N)))
    obs = Observations.of(N=N, D=D, L=L, C=C, budget_flops=C)
    lone = obs.where(np.arange(2))
    folder = tmp_path_factory.mktemp("fits")
    command = FitCommand(observations="runs.csv", out_dir=str(folder), n_bootstrap=25)
    fit_and_recommend(obs, lone, command).save(folder)
    return json.loads((folder / "frontier.json").read_text())


def test_the_file_and_its_data(written):
    assert documented("The file") == written.keys()
    assert documented("data") == written["data"].keys()


def test_an_approach(written):
    by = written["approaches"]
    assert {name: a["status"] for name, a in by.items()} == {
        "envelope": "refused",
        "isoflop": "fitted",
        "parametric": "fitted",
    }
    assert documented("An approach") == by["parametric"].keys() | {"kind"}
    assert by["isoflop"].keys() == by["parametric"].keys()
    assert by["envelope"].keys() == {"status", "reason", "kind"}


def test_the_records_inside(written):
    fit = written["approaches"]["parametric"]
    for section, value in (
        ("N_opt and D_opt", fit["N_opt"]),
        ("N_opt and D_opt", fit["D_opt"]),
        ("points", fit["points"][0]),
        ("law", fit["law"]),
        ("flops_per_token", written["flops_per_token"]),
        ("certificate (approach 3)", fit["certificate"]),
        ("recommended", written["recommended"]),
        ("forecast", written["recommended"]["N"]),
        ("forecast", written["recommended"]["L"]),
        ("error", written["recommended"]["N"]["error"]),
    ):
        assert documented(section) == value.keys(), section


@pytest.mark.parametrize(
    ("section", "record"),
    [
        ("N_opt and D_opt", PowerLaw),
        ("points", OptimalPoint),
        ("law", LossLaw),
        ("flops_per_token", FlopsPerToken),
        ("recommended", RecommendedModel),
        ("forecast", Forecast),
        ("error", ErrorScale),
    ],
)
def test_the_records_as_declared(section, record):
    assert documented(section) == {field.name for field in fields(record)}


def test_an_approach_as_declared():
    declared = {
        field.name
        for record in (FitResult, FailedFit)
        for field in fields(record)
        if field.metadata != IN_MEMORY
    }
    assert documented("An approach") == declared | {"status"}


def test_every_detail_is_named(written):
    named = set(re.findall(r"`(\w+)`", TEXT[TEXT.index("## details") :]))
    for name in ("isoflop", "parametric"):
        assert written["approaches"][name]["details"].keys() <= named
    details = written["approaches"]["isoflop"]["details"]
    for record in (details["window"], *details["budgets"]):
        assert record.keys() <= named

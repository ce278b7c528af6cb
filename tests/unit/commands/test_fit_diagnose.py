"""`chinchilla diagnose`, and the report of its diagnostics."""

import json

import numpy as np
import pytest
from command_line import one_line

from chinchilla.config import GridConfig, RecipeConfig
from chinchilla.diagnose.verdicts import ITEMS, Diagnostics
from chinchilla.fit.loss_law import named_law
from chinchilla.observations.table import Observations
from chinchilla.plan.grid import plan_grid
from chinchilla.plan.plan_file import save_plan

HEADER = "run_id,budget_flops,C,N,D,L"


@pytest.fixture
def fits(say, tmp_path):
    """Fits of 28 noisy runs on Hoffmann's law, four budgets of seven sizes."""
    law, rng = named_law("hoffmann"), np.random.default_rng(0)
    rows = [HEADER]
    for C in (6e18, 3e19, 1e20, 6e20):
        for factor in np.geomspace(1 / 5, 5, 7):
            N = 0.1 * C**0.4565 * 5 * factor
            D = C / (6 * N)
            L = float(law(N, D)) * np.exp(0.003 * rng.normal())
            rows.append(f"r{len(rows)},{C},{C},{N},{D},{L}")
    (tmp_path / "runs.csv").write_text("\n".join(rows) + "\n")
    words = "fit observations=runs.csv out_dir=fits n_bootstrap=40 flop_convention=six_nd"
    assert say(words)[0] == 0
    return tmp_path / "fits"


def test_every_item_gets_a_verdict_an_effect_and_advice(say, fits):
    code, out, err = say("diagnose fits=fits n_bootstrap=60")
    assert (code, err) == (0, "")
    found = Diagnostics.load(fits / "diagnostics.json")
    assert set(found.items) == set(ITEMS)
    for name, item in found.items.items():
        assert f"{item.verdict.replace('_', ' '):<12} {name.replace('_', ' ')}: " in out
        assert bool(item.advice) == (item.verdict in ("warning", "inconclusive"))
        assert item.message.endswith(".")
        assert item.effect is not None
    assert out.count("Do this first: ") == 1
    assert f"\n{found.summary}\nwrote fits/diagnostics.json\n" in out
    assert max(map(len, out.splitlines())) <= 100


def test_json_is_the_file(say, fits):
    code, out, _ = say("diagnose fits=fits n_bootstrap=0 budget_flops=5.76e23 format=json")
    assert code == 0
    assert out == (fits / "diagnostics.json").read_text()
    value = json.loads(out)
    assert value["C_star"] == 5.76e23
    assert len(value["items"]["leave_one_out"]["parts"]["runs"]["values"]["rows"]) == 28


@pytest.mark.slow
def test_the_report_shows_diagnostics_of_its_own_fits_only(say, fits):
    page = fits / "report" / "report.html"
    assert say("report fits=fits")[0] == 0
    assert 'id="diagnostics"' not in page.read_text()
    say("diagnose fits=fits n_bootstrap=0")
    wrote, answer = say("report fits=fits")[1].splitlines()
    assert wrote == f"wrote {page.relative_to(fits.parent)}"
    assert answer.startswith("C = ")  # ends with the recommended answer
    assert 'id="diagnostics"' in page.read_text()
    say("fit observations=runs.csv out_dir=fits n_bootstrap=30 flop_convention=six_nd")
    code, out, _ = say("report fits=fits")
    assert code == 0
    assert "belongs to another frontier.json and is left out" in out
    assert 'id="diagnostics"' not in page.read_text()


def test_a_sweep_s_shapes_make_other_counts_exact(say, tmp_path):
    """A plan whose runs were fitted elsewhere and put in the sweep's folder: shapes by run_id."""
    grid = GridConfig(
        name="small", budgets=[1e13, 1e14], models=["16x2", "32x2", "48x3", "64x4", "96x4"],
        kv_size=16, seq_len=128, vocab_size=512, min_side=0,
    )  # fmt: skip
    specs = plan_grid(
        grid, RecipeConfig(batch_tokens=4096), vocab_size=0, data_id="d", precision="fp32"
    )
    (tmp_path / "sweep").mkdir()
    save_plan(specs, tmp_path / "sweep" / "plan.jsonl")
    law = named_law("hoffmann")
    columns = {name: np.array([getattr(s, name) for s in specs], float) for name in ("N", "D", "C")}
    Observations(
        np.array([s.run_id for s in specs]), np.array([s.budget_flops for s in specs], float),
        L=law(columns["N"], columns["D"]), flop_convention="with_head", n_convention="total",
        **columns,
    ).save(tmp_path / "runs.csv")  # fmt: skip
    assert say("fit observations=runs.csv out_dir=sweep/fits n_bootstrap=0")[0] == 0
    assert say("diagnose sweep_dir=sweep n_bootstrap=0")[0] == 0
    found = Diagnostics.load(tmp_path / "sweep" / "fits" / "diagnostics.json")
    assert found.items["conventions"].values["source"] == "the sweep's own shapes"
    assert {r["C"] for r in found.items["conventions"].values["rows"]} == {
        "as_recorded", "six_nd", "six_n_non_embedding_d", "paper", "appendix_f",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("diagnose", ["fits is missing", "fits=FOLDER"]),
        ("diagnose fits=nowhere", ["nowhere", "chinchilla fit"]),
        ("diagnose sweep_dir=nowhere", ["sweep_dir=nowhere does not exist"]),
        ("diagnose fits=f budget_flops=-1", ["budget_flops=-1.0"]),
        ("diagnose fits=f format=html", ["choose one of text, json"]),
    ],
)
def test_mistakes_are_one_line(say, words, parts):
    one_line(say(words), 2, *parts)


def test_runs_changed_after_the_fit_are_refused(say, fits):
    rows = (fits / "observations.csv").read_text().splitlines()
    (fits / "observations.csv").write_text("\n".join(rows[:-1]) + "\n")
    one_line(say("diagnose fits=fits"), 2, "observations.csv is not the table")


def test_a_file_of_an_earlier_schema_is_refused_in_one_line(say, fits):
    (fits / "diagnostics.json").write_text('{"schema": 1, "items": {}}')
    one_line(say("report fits=fits"), 2, "schema 4", "Run `chinchilla diagnose` again.")

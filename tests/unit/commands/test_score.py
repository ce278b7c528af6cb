"""`chinchilla predict preregister=true` and `chinchilla score` as typed."""

import json
from dataclasses import replace

import pytest
from command_line import one_line

from chinchilla.config import RecipeConfig
from chinchilla.core.provenance import Code
from chinchilla.core.shapes import shape_named
from chinchilla.fit.loss_law import named_law
from chinchilla.plan.grid import plan_run
from chinchilla.plan.records import RunResult

LAW = named_law("besiroglu")


@pytest.fixture
def prediction(say, fits):
    said = say("predict budget_flops=1e21 fits=fits preregister=true format=json")
    return said.json["preregistered"]


def measured(path, L_factor: float, C: float = 1e21) -> None:
    N, D = 2.5e9, C / 6 / 2.5e9
    L = float(LAW(N, D)) * L_factor
    path.write_text(f"run_id,budget_flops,C,N,D,L\nbig,,{6 * N * D},{N},{D},{L}\n")


def test_a_prediction_is_scored(say, prediction, tmp_path):
    measured(tmp_path / "came.csv", 1.0)
    said = say(f"score prediction={prediction} observations=came.csv")
    assert said.code == 0
    assert "unchanged" in said.out
    assert "measured and predicted loss, by the recommended answer at 1e+21 FLOPs" in said.out
    assert "│ inside" in said.out
    assert "1 of 1 runs lie inside their 80% interval." in said.out
    assert "note: flop_convention, n_convention, loss_kind not compared" in said.out
    assert said.out.count("note: no time is recorded for these results") == 1
    (run,) = say(f"score prediction={prediction} observations=came.csv format=json").json["runs"]
    assert run["inside"] is True
    assert run["measured"] == pytest.approx(run["predicted"], rel=0.02)
    assert run["level"] == 80
    (r,) = json.loads((tmp_path / prediction).read_text())["recommended"]
    low, high = (x / run["predicted"] for x in run["interval"])
    assert (low, high) == pytest.approx([x / r["L"] for x in r["L_interval80"]])
    assert run["N_over_best"] == pytest.approx(2.5e9 / r["N"])


def test_a_run_of_another_budget_is_scored_by_the_law(say, prediction, tmp_path):
    measured(tmp_path / "came.csv", 1.0, C=1.2e21)
    said = say(f"score prediction={prediction} observations=came.csv")
    assert "measured and predicted loss, by approach 3 (parametric)" in said.out
    assert "1 of 1 runs lie inside their 95% interval." in said.out
    (run,) = say(f"score prediction={prediction} observations=came.csv format=json").json["runs"]
    assert run["level"] == 95
    assert run["interval"][0] < run["measured"] < run["interval"][1]


def test_a_runs_own_result_is_scored(say, prediction, tmp_path):
    """result.json as training writes it; its N, D and C are those it really had."""
    shape = shape_named("512x8", 32_000, 2_048, 64, "rope")
    spec = plan_run(shape, RecipeConfig(), flop_convention="six_nd", data_id="d", precision="fp32",
                    tokens=2e9)  # fmt: skip
    L = float(LAW(spec.N, spec.D))
    result = RunResult(
        spec=spec, status="finished", reason="", final_loss=L, final_loss_se=0.001,
        final_loss_steps=50, validation_loss={"a": L + 1}, validation_tokens={"a": 1},
        bits_per_byte={"a": 1.0}, n_params=spec.N, n_params_non_embedding=1, steps_done=spec.steps,
        flops_spent=spec.C, train_seconds=1.0, tokens_per_second=1.0, mfu=None, peak_memory_bytes=1,
        device="cpu", versions={}, code=Code("0.1.0"), started_utc="2099-01-01T00:00:00Z",
        finished_utc="2099-01-01T00:00:09Z",
    )  # fmt: skip
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    result.save(run_dir)
    for given in ("run", "run/result.json"):
        (run,) = say(f"score prediction={prediction} result={given} format=json").json["runs"]
        assert (run["N"], run["D"], run["C"]) == (spec.N, spec.D, spec.C)
        assert run["measured"] == L
        assert run["inside"] is True
    (held,) = say(f"score prediction={prediction} result=run loss=validation format=json").json[
        "runs"
    ]
    assert held["inside"] is False
    replace(result, finished_utc="2020-01-01T00:00:09Z").save(run_dir)
    said = say(f"score prediction={prediction} result=run")
    one_line(said, 2, "finished at 2020-01-01T00:00:09Z, before this prediction was made")
    replace(result, status="diverged", reason="NaN", final_loss=None).save(run_dir)
    one_line(say(f"score prediction={prediction} result=run"), 2, "this run diverged (NaN)")


def test_a_result_far_off_is_a_verdict_not_an_error(say, prediction, tmp_path):
    measured(tmp_path / "came.csv", 1.1)
    said = say(f"score prediction={prediction} observations=came.csv")
    assert said.code == 0
    assert "OUTSIDE" in said.out
    assert "0 of 1 runs lie inside their 80% interval." in said.out


def test_a_table_that_holds_fitted_runs_is_not_scored(say, prediction):
    for table in ("runs.csv", "fits/observations.csv"):
        said = say(f"score prediction={prediction} observations={table}")
        one_line(said, 2, "35 of 35 runs (r0, ...) were part of the fit")


def test_a_prediction_needs_the_runs_that_were_fitted(say, fits):
    (fits / "observations.csv").unlink()
    said = say("predict budget_flops=1e21 fits=fits preregister=true")
    one_line(said, 2, "observations.csv does not exist")


def test_a_changed_prediction_is_not_scored(say, prediction, tmp_path):
    measured(tmp_path / "came.csv", 1.0)
    path = tmp_path / prediction
    path.write_text(path.read_text().replace('"law_name": "approach 3', '"law_name": "approach 2'))
    said = say(f"score prediction={prediction} observations=came.csv")
    one_line(said, 2, "was changed after it was written")


def test_a_prediction_gets_its_own_file_and_keeps_it(say, fits):
    words = "predict budget_flops=1e21 fits=fits preregister=true preregister_file=mine.json"
    assert say(words).code == 0
    one_line(say(words), 2, "mine.json exists", "never overwritten")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("prediction=p.json", ["result=FILE.json", "observations=FILE.csv"]),
        ("prediction=p.json result=r", ["p.json does not exist"]),
        ("prediction= result=r", ["prediction is empty", "preregister=true"]),
    ],
)
def test_mistakes_are_refused_in_one_line(say, words, parts):
    one_line(say(f"score {words}"), 2, *parts)

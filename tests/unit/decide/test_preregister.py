"""Preregistered predictions: changes are detected, and results are scored against them."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from recommended import with_recommendation

from chinchilla.core.errors import InputError
from chinchilla.decide.decision import DecisionModel
from chinchilla.decide.predictions import predictions, resampled_losses
from chinchilla.decide.preregister import (
    Preregistration,
    digest,
    load,
    losses_of_new_run,
    preregister,
    save,
    score,
)
from chinchilla.fit import fit_parametric
from chinchilla.fit.result import LossLaw
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend import recommendation

LAW = LossLaw(E=1.7, A=400.0, B=1700.0, alpha=0.34, beta=0.36)
NOISE = 0.004


def runs(N, D, seed=0, kind="train", noise=NOISE) -> Observations:
    N, D = np.array(N, float), np.array(D, float)
    L = LAW(N, D) * np.exp(noise * np.random.default_rng(seed).normal(size=len(N)))
    ids = np.array([f"r{i}" for i in range(len(N))])
    return Observations(ids, np.full(len(N), np.nan), 6 * N * D, N, D, L, "six_nd", loss_kind=kind)


def write(path, record: Preregistration, **changes) -> dict:
    """A file with changed fields and the hash that belongs to them."""
    value = json.loads(json.dumps(asdict(record) | changes))
    path.write_text(json.dumps(value | {"sha256": digest(value)}))
    return value


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Preregistration:
    N = np.repeat(np.geomspace(5e7, 2e9, 8), 5)
    obs = runs(N, N * np.tile([5, 10, 20, 40, 80], 8))
    fit = fit_parametric(obs, n_bootstrap=300)
    fits = FitResults.of({"parametric": fit}, {}, obs)
    file = tmp_path_factory.mktemp("fits") / "frontier.json"
    fits.save(file.parent)
    model = DecisionModel.of(fits)
    return preregister(fits, model, predictions([1e21], fits), [], {"n": 1}, file)


def test_it_is_dated_in_utc_and_identifies_the_fit(record):
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.made_utc)
    assert re.fullmatch(r"[0-9a-f]{64}", record.frontier_sha256)
    assert len(record.fitted_runs) == 40
    assert record.predictions[0].by == "this data, parametric"


def test_what_is_read_is_what_was_written(record, tmp_path):
    path = save(record, None, tmp_path)
    assert path.name == f"{record.made_utc[:10]}-{record.sha256[:8]}.json"
    assert path.parent == tmp_path / "preregistered"
    assert load(path) == record


def test_a_prediction_is_never_overwritten(record, tmp_path):
    path = save(record, tmp_path / "mine.json", tmp_path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        save(replace(record, law_name="another"), path, tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["law"].update(E=r["law"]["E"] * 1.01),
        lambda r: r["predictions"][0].update(N=1e9),
        lambda r: r.update(made_utc="2020-01-01T00:00:00Z"),
        lambda r: r["law_samples"].pop(),
        lambda r: r["log_residuals"].append(1.0),
        lambda r: r.update(note="added later"),
    ],
)
def test_any_change_is_seen(record, tmp_path, change):
    changed = json.loads(json.dumps(asdict(record)))
    change(changed)
    (tmp_path / "p.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match="was changed after it was written"):
        load(tmp_path / "p.json")


def test_layout_is_no_change(record, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(asdict(record), sort_keys=True))
    assert load(tmp_path / "p.json") == record


@pytest.mark.parametrize("text", ["{}", "[1]", '{"schema": 9, "sha256": ""}', "{"])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=r"prediction.*p\.json"):
        load(tmp_path / "p.json")


def test_new_runs_of_the_same_world_lie_inside_as_often_as_stated(record):
    """200 new runs on the law, inside the sizes seen: about 95 % inside their 95 % interval."""
    rng = np.random.default_rng(9)
    N = np.exp(rng.uniform(np.log(1e8), np.log(1e9), 200))
    rows, _ = score(record, runs(N, N * rng.uniform(8, 60, 200), seed=11))
    share = np.mean([row.inside for row in rows])
    assert 0.90 <= share <= 0.99


def test_a_new_run_scatters_wider_than_the_law(record):
    law, run = (
        np.ptp(np.percentile(x, [10, 90]))
        for x in (
            resampled_losses(record.law_samples, 1e9, 2e10),
            losses_of_new_run(record, 1e9, 2e10),
        )
    )
    assert run > 1.5 * law
    assert np.std(record.log_residuals) == pytest.approx(NOISE, rel=0.3)
    assert len(record.log_residuals) == 40


def test_a_run_that_went_wrong_lies_outside(record):
    obs = runs([5e8], [1e10], noise=0.0)
    worse = Observations(
        obs.run_id, obs.budget_flops, obs.C, obs.N, obs.D, 1.03 * obs.L, loss_kind="train"
    )
    ((good,), _), ((bad,), _) = score(record, obs), score(record, worse)
    assert good.inside
    assert bad.inside is False
    assert bad.measured / bad.predicted == pytest.approx(1.03, abs=4e-3)
    assert bad.C == pytest.approx(6 * 5e8 * 1e10)


def test_the_distance_from_the_best_size_is_stated(record):
    best = record.predictions[0]
    (row,), _ = score(record, runs([2 * best.N], [best.D / 2]))
    assert row.N_over_best == pytest.approx(2, rel=1e-3)


def test_another_loss_does_not_compare(record):
    with pytest.raises(InputError, match="loss_kind=train and the result loss_kind=validation"):
        score(record, runs([5e8], [1e10], kind="validation"))


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [("flop_convention", "six_nd", "with_head"), ("n_convention", "total", "non_embedding")],
)
def test_another_count_does_not_compare(record, name, ours, theirs):
    result = replace(runs([5e8], [1e10]), **{name: theirs})
    with pytest.raises(InputError, match=f"{name}={ours} and the result {name}={theirs}"):
        score(replace(record, conventions=record.conventions | {name: ours}), result)


def test_what_is_not_stated_is_noted_and_does_not_prevent_a_score(record):
    result = replace(runs([5e8], [1e10]), flop_convention="unknown")
    rows, notes = score(record, result)
    assert len(rows) == 1
    assert notes[0].startswith("flop_convention, n_convention not compared: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("law", {"E": 1.0}),
        ("law", [1.0]),
        ("law", {"E": "1", "A": 1.0, "B": 1.0, "alpha": 1.0, "beta": 1.0}),
        ("law_samples", None),
        ("log_residuals", {"a": 1}),
        ("flops_per_token", {"log_N": []}),
        ("made_utc", 3),
        ("fitted_runs", None),
        ("fitted_runs", [1]),
        ("conventions", {"loss_kind": None}),
        ("recommended", None),
        ("recommended", [1]),
        ("recommended", [{"C": 1e21}]),
        ("recommended", [{"C": 1e21, "law": dict.fromkeys("EAB", 1.0)}]),
    ],
)
def test_a_file_with_a_right_hash_and_wrong_fields_is_refused(record, tmp_path, field, value):
    write(tmp_path / "p.json", record, **{field: value})
    with pytest.raises(InputError, match=rf"p\.json: {field}"):
        load(tmp_path / "p.json")


def test_a_save_that_fails_leaves_nothing(record, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(record, tmp_path / "p.json", tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ recommended answers


@pytest.fixture(scope="module")
def advised() -> tuple[Preregistration, list]:
    """A prediction with the recommended answers at 1e21 and 1e23 FLOPs, and these answers."""
    N = np.repeat(np.geomspace(5e7, 2e9, 8), 5)
    obs = runs(N, N * np.tile([5, 10, 20, 40, 80], 8))
    fits = FitResults.of({"parametric": fit_parametric(obs, n_bootstrap=50)}, {}, obs)
    fits = with_recommendation(fits, obs)
    answers = [recommendation(fits, C) for C in (1e21, 1e23)]
    return preregister(fits, DecisionModel.of(fits), [], answers, {}), answers


def test_recommended_answers_are_kept_as_they_were_given(advised, tmp_path):
    record, answers = advised
    loaded = load(save(record, None, tmp_path)).recommended
    for row, r in zip(loaded, answers, strict=True):
        assert {k: v for k, v in row.to_dict().items() if k != "law"} == r.to_dict()
        assert float(row.law(r.N, r.D)) == pytest.approx(r.L, rel=1e-9)


@pytest.mark.parametrize("nearly", [0.92, 1.0, 1.09])
def test_a_run_at_a_predicted_budget_is_scored_by_the_recommended_answer(advised, nearly):
    """At twice the best size, to which the loss and its 80% interval are moved."""
    record, answers = advised
    for r in answers:
        obs = runs([2 * r.N], [nearly * r.D / 2], noise=0.0)
        (row,), _ = score(record, obs)
        assert row.by == f"the recommended answer at {r.C:.3g} FLOPs"
        assert row.predicted == pytest.approx(float(LAW(obs.N[0], obs.D[0])), rel=5e-3)
        assert row.N_over_best == pytest.approx(2, rel=0.05)
        assert np.array(row.interval) / row.predicted == pytest.approx(
            np.array(r.L_interval80) / r.L
        )
        assert (row.level, row.inside) == (80, True)
        bad = replace(obs, L=row.interval[1] * np.array([1.0001]))
        assert score(record, bad)[0][0].inside is False


@pytest.mark.parametrize("factor", [0.9, 1.11])
def test_a_run_at_another_budget_is_scored_by_the_law(advised, factor):
    record, (r, _) = advised
    (row,), _ = score(record, runs([r.N], [factor * r.D]))
    assert (row.by, row.level) == ("approach 3 (parametric)", 95)


def test_without_a_law_a_run_at_a_predicted_budget_is_scored_all_the_same(advised):
    record, (r, _) = advised
    assert len(score(replace(record, law=None), runs([r.N], [r.D]))[0]) == 1
    with pytest.raises(InputError, match=r"no loss was predicted for a run of 3e\+19 FLOPs"):
        score(replace(record, law=None), runs([5e8], [1e10]))


def test_without_resamples_there_is_no_verdict(record):
    (row,), _ = score(replace(record, law_samples=[]), runs([5e8], [1e10]))
    assert (row.interval, row.inside) == (None, None)


def test_a_prediction_of_an_earlier_schema_is_refused(record, tmp_path):
    write(tmp_path / "p.json", record, schema=4)
    with pytest.raises(InputError, match=r"schema 4.*version of chinchilla that wrote it"):
        load(tmp_path / "p.json")


def test_a_run_that_was_fitted_is_refused_under_any_name(record):
    N = np.repeat(np.geomspace(5e7, 2e9, 8), 5)
    fitted = runs(N, N * np.tile([5, 10, 20, 40, 80], 8))
    new = runs([5e8], [1e10], seed=4)
    assert "no time is recorded" in score(record, new)[1][-1]
    for k in (0, 17, 39):
        one = replace(fitted.where(np.array([k])), run_id=np.array(["renamed"]))
        with pytest.raises(InputError, match=r"1 of 1 runs \(renamed\) were part of the fit"):
            score(record, one)
    with pytest.raises(InputError, match=r"40 of 40 runs \(r0, \.\.\.\) were part"):
        score(record, fitted)
    again = runs(fitted.N, fitted.D, seed=1)  # other seeds of the same sizes are new runs
    assert len(score(record, again)[0]) == 40


@pytest.mark.parametrize("finished", ["2026-05-01T12:00:01+00:00", "2026-05-01T12:00:00+00:00"])
def test_a_run_that_finished_before_the_prediction_is_refused(record, finished):
    dated = replace(record, made_utc="2026-05-01T12:00:00+00:00")
    new = runs([5e8], [1e10], seed=4)
    if finished == dated.made_utc:
        with pytest.raises(InputError, match=r"r0 finished at .* before this prediction was made"):
            score(dated, new, finished)
    else:
        assert len(score(dated, new, finished)[1]) == 1  # on conventions

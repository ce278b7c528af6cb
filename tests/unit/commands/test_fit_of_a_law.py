"""`chinchilla fit` and `report` of runs of a known law: a table of nine budgets, and a sweep's folder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import one_line

from chinchilla.config import GridConfig, RecipeConfig
from chinchilla.core import paper
from chinchilla.core.provenance import Code
from chinchilla.fit.loss_law import named_law, six_nd_frontier
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.plan.grid import plan_grid
from chinchilla.plan.plan_file import load_plan, save_plan
from chinchilla.plan.records import Curve, RunResult

FIT = "fit observations=runs.csv out_dir=fits n_bootstrap=20 flop_convention=six_nd"
LAW = named_law("hoffmann")


@pytest.fixture
def law_csv(tmp_path):
    """The nine budgets with nine sizes each, losses by the published law, C = 6ND."""
    (log_k, a), _, _ = six_nd_frontier(LAW)
    lines = ["run_id,budget_flops,C,N,D,L"]
    for C in paper.ISOFLOP_BUDGETS:
        for i, factor in enumerate(np.geomspace(1 / 4, 4, 9)):
            N = float(np.exp(log_k) * C**a * factor)
            D = C / (6 * N)
            lines.append(f"c{C:.0e}-{i},{C!r},{C!r},{N!r},{D!r},{float(LAW(N, D))!r}")
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "runs.csv"


def test_fits_of_runs_drawn_from_a_law_recover_it(say, law_csv, tmp_path):
    result = say(f"{FIT} format=json")
    assert (result.code, result.err) == (0, "")
    record = json.loads(result.out)["approaches"]
    assert set(record) == {"envelope", "isoflop", "parametric"}
    assert {f["status"] for f in record.values()} == {"fitted"}
    exponents = {name: f["N_opt"]["exponent"] for name, f in record.items()}
    assert exponents["parametric"] == pytest.approx(0.45653, abs=1e-5)
    # A parabola's minimum is exact only for alpha = beta; the same offset at all budgets.
    assert exponents["isoflop"] == pytest.approx(0.45653, abs=1e-3)
    law = record["parametric"]["law"]
    for name in ("E", "A", "B", "alpha", "beta"):
        assert law[name] == pytest.approx(getattr(LAW, name), rel=1e-4)
    assert (tmp_path / "fits" / "frontier.json").read_text() == result.out
    assert (tmp_path / "fits" / "observations.csv").exists()


def test_predict_and_report_read_a_fit(say, law_csv, tmp_path):
    result = say(FIT)
    assert result.code == 0
    assert "wrote" in result.out
    result = say("predict budget_flops=5.76e23 fits=fits format=json")
    rows = json.loads(result.out)["predictions"]
    by = {row["by"]: row for row in rows}
    assert by["this data, parametric"]["N"] == pytest.approx(40.36e9, rel=1e-3)
    assert by["this data, parametric"]["D"] == pytest.approx(2.379e12, rel=1e-3)
    assert not any(name.startswith(("law", "paper", "Kaplan")) for name in by)  # 44 times too far
    out = say("predict budget_flops=5.76e23 fits=fits").out
    assert "law hoffmann" not in out
    assert all(f"│ {name} " in out for name in ("envelope", "isoflop", "parametric"))
    result = say("report fits=fits")
    assert (result.code, result.err) == (0, "")
    page = (tmp_path / "fits" / "report" / "report.html").read_text()
    assert "<svg" in page or "data:image" in page


def test_predictions_without_fits_are_the_published_ones(say):
    words = "predict budget_flops=[1e22,5.76e23]"
    rows = json.loads(say(f"{words} format=json").out)["predictions"]
    N = {(row["C"], row["by"]): row["N"] for row in rows}
    assert N[1e22, "law besiroglu"] < N[5.76e23, "law besiroglu"]
    assert N[5.76e23, "law besiroglu"] == pytest.approx(72.25e9, rel=2e-4)
    assert N[1e22, "law hoffmann"] == pytest.approx(6.343e9, rel=2e-4)
    assert N[1e22, "paper, approach 2 (line through Table A3)"] == pytest.approx(8.686e9, rel=2e-3)
    assert len(rows) == 7 + 1


def test_a_refused_approach_leaves_no_older_result(say, law_csv, tmp_path):
    say(FIT)
    lines = law_csv.read_text().splitlines()
    law_csv.write_text(
        "\n".join(
            [
                lines[0],
                *(f"{i},,{x.split(',', 2)[2]}" for i, x in enumerate(lines[1:]) if i % 9 in (2, 6)),
            ]
        )
    )  # no budget is named, and two sizes of one C show none
    record = json.loads(say(f"{FIT} approaches=isoflop,parametric format=json").out)
    assert {name: f["status"] for name, f in record["approaches"].items()} == {
        "isoflop": "refused",
        "parametric": "fitted",
    }
    assert "no run has a budget" in record["approaches"]["isoflop"]["reason"]


def test_a_fit_with_all_approaches_refused_exits_3_with_the_reasons(say, tmp_path):
    (tmp_path / "runs.csv").write_text(
        "run_id,budget_flops,C,N,D,L\na,,6e17,1e8,1e9,3.1\nb,,1.2e18,1e8,2e9,3\n"
    )
    result = say(FIT)
    assert result.code == 3
    assert "Traceback" not in result.out + result.err
    result = say(f"{FIT} format=json")
    assert result.code == 3
    record = json.loads(result.out)["approaches"]
    assert set(record) == {"envelope", "isoflop", "parametric"}
    assert {f["status"] for f in record.values()} == {"refused"}


def test_paths_may_hold_spaces_equals_and_brackets(say, law_csv, tmp_path):
    odd = tmp_path / "a b=c (1)"
    odd.mkdir()
    law_csv.rename(odd / "r.csv")
    result = say(["fit", f"observations={odd}/r.csv", f"out_dir={odd}/fits", "n_bootstrap=0",
                "approaches=parametric"])  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert (odd / "fits" / "frontier.json").exists()


# ------------------------------------------------------------------ a sweep's folder


@pytest.fixture
def sweep_dir(tmp_path):
    """A planned sweep of five tiny runs, all finished, losses by the law."""
    grid = GridConfig(
        name="tiny", budgets=[2e11], models=["16x2", "24x2", "32x2", "48x2", "64x3"], kv_size=16,
        seq_len=128, vocab_size=512, min_side=0,
    )  # fmt: skip
    recipe = RecipeConfig(batch_tokens=1024)
    specs = plan_grid(grid, recipe, vocab_size=0, data_id="d", precision="fp32")
    folder = tmp_path / "sweep"
    folder.mkdir()
    save_plan(specs, folder / "plan.jsonl")
    for spec in specs:
        run_dir = folder / "runs" / spec.run_id
        run_dir.mkdir(parents=True)
        loss = float(LAW(spec.N, spec.D)) + 3.0 / np.sqrt(np.arange(1, spec.steps + 1))
        loss[-10:] = final = float(LAW(spec.N, spec.D))
        last = np.array([final + 0.1])
        curve = Curve(np.arange(spec.steps), loss, np.array([spec.steps]), last).save(run_dir)
        RunResult(
            spec=spec, status="finished", reason="", final_loss=final, final_loss_se=0.01,
            final_loss_steps=10, validation_loss={"validation": final + 0.1},
            validation_tokens={"validation": 1000}, bits_per_byte={"validation": 1.0}, n_params=spec.N,
            n_params_non_embedding=1, steps_done=spec.steps, flops_spent=spec.C, train_seconds=1.0,
            tokens_per_second=1.0, mfu=None, peak_memory_bytes=1, device="cpu", versions={},
            code=Code("0.1.0"), started_utc="2026-01-01T00:00:00Z", finished_utc="2026-01-01T00:00:01Z", **curve,
        ).save(run_dir)  # fmt: skip
    return folder


def scale_losses(run_dir: Path, factor: float) -> None:
    """Multiply the losses in both records of a run."""
    result, curve = RunResult.load(run_dir), Curve.load(run_dir)
    loss, last = factor * curve.loss, factor * curve.validation_loss
    curve = replace(curve, loss=loss, validation_loss=last)
    result = replace(
        result, final_loss=float(loss[-10:].mean()), validation_loss={"validation": float(last[-1])}
    )
    replace(result, **curve.save(run_dir)).save(run_dir)


def test_fit_of_a_sweep_writes_into_its_folder(say, sweep_dir):
    result = say("fit sweep_dir=sweep n_bootstrap=20 format=json")
    record = json.loads(result.out)["approaches"]
    assert set(record) == {"envelope", "isoflop", "parametric"}
    assert result.code == (0 if any(f["status"] == "fitted" for f in record.values()) else 3)
    header, *rows = (sweep_dir / "fits" / "observations.csv").read_text().splitlines()
    assert header.startswith("run_id,budget_flops,C,N,D,L")
    assert len(rows) == 5


def test_the_fit_of_a_sweep_states_its_loss(say, sweep_dir):
    said = say("fit sweep n_bootstrap=0 approaches=[parametric]").out
    assert "\nloss=train: the final training loss, smoothed, was fitted.\n" in said


@pytest.mark.parametrize(
    "word", ["flop_convention=six_nd", "n_convention=total", "columns.N=size", "duplicates=refuse"]
)
def test_settings_of_tables_are_refused_for_a_sweep(say, sweep_dir, word):
    said = say(f"fit sweep {word}")
    key = word.split("=")[0].partition(".")[0]
    one_line(said, 2, f"{key}=", "has no effect with sweep_dir=sweep.")
    assert not (sweep_dir / "fits").exists()


def test_a_report_refuses_fits_of_other_runs(say, sweep_dir):
    """Fits of a run that this sweep does not have, and of another final loss of one it has."""
    for path in sweep_dir.glob("runs/*"):  # so tiny that the law's losses are over 15 nats
        scale_losses(path, 0.2)
    say("fit sweep_dir=sweep n_bootstrap=20")
    other = sweep_dir.parent / "other"
    other.mkdir()
    rows = (sweep_dir / "fits" / "observations.csv").read_text().splitlines()
    wider = rows[-1].split(",")
    wider[0], wider[3] = "wider", "1e6"  # run_id and N
    (other / "observations.csv").write_text("\n".join([*rows, ",".join(wider)]) + "\n")
    table = Observations.from_csv(other / "observations.csv")
    replace(FitResults.load(sweep_dir / "fits"), runs=table).save(other)
    result = say("report sweep_dir=sweep fits=other out_dir=page")
    one_line(
        result, 2, "fits=other was fitted to 6 runs, and 1 of them (wider) are not runs of sweep"
    )
    spec = load_plan(sweep_dir / "plan.jsonl")[1]
    scale_losses(sweep_dir / "runs" / spec.run_id, 1.01)
    result = say("report sweep_dir=sweep out_dir=page")
    one_line(
        result, 2, f"fitted to 5 runs, and 1 of them ({spec.run_id}) are not runs of sweep_dir"
    )
    assert not (sweep_dir.parent / "page").exists()


@pytest.mark.parametrize("command", ["status", "fit"])
def test_a_sweep_planned_by_another_version_gives_one_line(say, sweep_dir, command):
    specs = load_plan(sweep_dir / "plan.jsonl")
    save_plan([replace(s, schema=1) for s in specs], sweep_dir / "plan.jsonl")
    one_line(
        say(f"{command} sweep_dir=sweep"), 2, "plan.jsonl line 1", "schema 1", "reads schema 4"
    )


def test_a_result_of_another_version_is_left_out_and_named(say, sweep_dir):
    spec = load_plan(sweep_dir / "plan.jsonl")[0]
    run_dir = sweep_dir / "runs" / spec.run_id
    replace(RunResult.load(run_dir), schema=1).save(run_dir)
    said = say("fit sweep_dir=sweep n_bootstrap=0")
    assert f"run {spec.run_id} is left out" in " ".join(said.out.split())
    assert "RunResult of schema 1" in " ".join(said.out.split())


LEFT_OUT: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a damaged curve": (
        lambda own, other: (own / "curve.npz").write_bytes(b"PK\x03\x04"),
        "curve.npz is not the one that result.json names: launch the sweep again",
    ),
    "no curve": (lambda own, other: (own / "curve.npz").unlink(), "curve.npz is missing"),
    "the curve of another run": (
        lambda own, other: shutil.copy(other / "curve.npz", own),
        "curve.npz is not the one that result.json names",
    ),
    "the result of another run": (
        lambda own, other: shutil.copy(other / "result.json", own),
        "result.json belongs to run",
    ),
    "a changed loss": (
        lambda own, other: (own / "result.json").write_text(
            (own / "result.json").read_text().replace('"final_loss": 4', '"final_loss": 3')
        ),
        "result.json is damaged: its content is not that of its sha256",
    ),
}


@pytest.mark.parametrize(("damage", "problem"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_run_whose_records_do_not_agree_is_named_and_left_out(say, sweep_dir, damage, problem):
    """`fit`, `report` and `status` use the other runs; a report of older fits says it too."""
    for path in sweep_dir.glob("runs/*"):
        scale_losses(path, 4.5 / RunResult.load(path).final_loss)
    own, other = (sweep_dir / "runs" / s.run_id for s in load_plan(sweep_dir / "plan.jsonl")[:2])
    say("fit sweep n_bootstrap=0 out_dir=before")
    damage(own, other)
    said = " ".join(say("report sweep_dir=sweep fits=before out_dir=page").out.split())
    assert f"note: run {own.name} is left out: " in said
    assert problem in said
    assert own.name in (sweep_dir.parent / "page" / "report.html").read_text()
    said = say("fit sweep n_bootstrap=0 approaches=[parametric] format=json").json
    [note] = [note for note in said["data"]["notes"] if own.name in note]
    assert problem in note
    fitted = Observations.from_csv(sweep_dir / "fits" / "observations.csv")
    assert len(fitted) == 4
    assert own.name not in fitted.run_id
    [row] = [
        row for row in say("status sweep format=json").json["rows"] if row["run_id"] == own.name
    ]
    assert "curve.npz" in row["reason"] or "result.json" in row["reason"]


def test_a_sweep_of_which_no_records_agree_gives_its_runs(say, sweep_dir):
    for path in sweep_dir.glob("runs/*/curve.npz"):
        path.unlink()
    said = say("fit sweep")
    assert said.code == 2
    assert said.err.count("curve.npz is missing: launch the sweep again") == 5


def test_a_sweep_without_finished_runs_gives_one_line(say, sweep_dir):
    for result in sweep_dir.glob("runs/*/result.json"):
        result.unlink()
    one_line(say("fit sweep_dir=sweep"), 2, "no run has finished yet", "chinchilla status")


def test_fits_of_another_version_give_one_line(say, law_csv, tmp_path):
    say(FIT)
    record = json.loads((tmp_path / "fits" / "frontier.json").read_text())
    (tmp_path / "fits" / "frontier.json").write_text(json.dumps({**record, "schema": 1}))
    for words in ("predict budget_flops=1e20 fits=fits", "report fits=fits"):
        one_line(say(words), 2, "frontier.json")

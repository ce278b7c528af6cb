import json
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_fakes import edit_record, make_result, make_specs, make_sweep

from chinchilla.core.errors import InputError
from chinchilla.core.files.sealed import sealed
from chinchilla.sweep.claims import acquire
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.sweep.view.status import (
    clock,
    rows_to_show,
    status_table,
    summary_line,
    sweep_status,
)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Six equal runs: finished, diverged, failed, running at half, stopped at half, not started."""
    [one] = make_specs(1)
    specs = [replace(one, seed=i) for i in range(6)]
    make_sweep(tmp_path, specs)
    run_dirs = [run_dir_of(tmp_path, s) for s in specs]
    for run_dir in run_dirs:
        run_dir.mkdir(parents=True)
    make_result(specs[0], tokens_per_second=one.D / 10.0).save(run_dirs[0])
    nan = make_result(specs[1], "diverged", "loss is not finite", tokens_per_second=one.D / 10.0)
    nan.save(run_dirs[1])
    make_result(specs[2], "failed", "RuntimeError: no", tokens_per_second=0.0).save(run_dirs[2])
    acquire(run_dirs[3], "busy")
    acquire(run_dirs[4], "gone").release()
    rate = one.D / 10.0
    half = {"step": 10, "steps": 20, "loss": 4.0, "utc": "", "tokens_per_second": rate}
    for run_dir in (run_dirs[3], run_dirs[4]):
        (run_dir / "progress.json").write_text(json.dumps(half))
    (run_dirs[4] / "attempts").mkdir()
    record = sealed({"reason": "OSError: away"})
    (run_dirs[4] / "attempts" / "1.json").write_text(json.dumps(record))
    return tmp_path


def test_counts_and_time_left(mixed: Path):
    status = sweep_status(mixed)
    assert status.counts == {
        "finished": 1,
        "running": 1,
        "waiting": 2,
        "diverged": 1,
        "failed": 1,
        "blocked": 0,
    }
    assert status.done == 3
    assert status.fraction == pytest.approx(
        3 / 6
    )  # 2 over, 2 halves; the failed one is tried again
    # 2 runs' worth are left for one worker that takes 10 s for each.
    assert status.seconds_left == pytest.approx(20.0)
    running, stopped = status.rows[3], status.rows[4]
    assert (running.state, running.eta_seconds, running.worker) == ("running", 5.0, "busy")
    assert (stopped.state, stopped.reason) == ("waiting", "attempt 1 of 3: OSError: away")


def test_the_line_and_the_table(mixed: Path):
    status = sweep_status(mixed)
    line = "3/6 runs, 50% of FLOPs, 0:20 left, 1 running, 1 diverged, 1 failed"
    assert summary_line(status) == line
    table = status_table(status)
    assert [row[1].text for row in table.rows] == [row.state for row in status.rows]
    assert table.rows[2][-1].text == "RuntimeError: no"


def test_the_status_is_valid_json(mixed: Path):
    value = json.loads(json.dumps(sweep_status(mixed).to_dict(), allow_nan=False))
    assert value["counts"]["failed"] == 1
    assert value["rows"][3]["step"] == 10


def test_without_workers_the_time_left_is_unknown(tmp_path: Path):
    status = sweep_status(make_sweep(tmp_path, make_specs(2)))
    assert status.seconds_left is None
    assert "time left unknown" in summary_line(status)


def test_a_folder_without_plan_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="plan"):
        sweep_status(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0, "0:00"), (92, "1:32"), (7510, "2:05:10"), (273_600, "3d 04:00")],
)
def test_durations(seconds: float | None, text: str):
    assert clock(seconds) == text


def test_a_damaged_claim_with_a_recent_heartbeat_is_said_to_be_damaged(mixed: Path):
    [busy] = [row for row in sweep_status(mixed).rows if row.state == "running"]
    run_dir = mixed / "runs" / busy.run_id
    (run_dir / "claim-1.json").write_text("{")
    (run_dir / "heartbeat").touch()
    row = {row.run_id: row for row in sweep_status(mixed).rows}[busy.run_id]
    assert row.reason.startswith("claim-1.json is damaged: another worker takes the run over")
    assert (row.worker, row.eta_seconds) == ("", None)


def test_a_damaged_result_affects_only_its_row(mixed: Path):
    [run_dir] = [c for c in (mixed / "runs").iterdir() if '"finished"' in _text(c / "result.json")]
    (run_dir / "result.json").write_text('{"schema": 1, "spec": {')
    rows = {row.run_id: row for row in sweep_status(mixed).rows}
    assert rows[run_dir.name].state == "waiting"
    assert "damaged" in rows[run_dir.name].reason
    assert len(rows) == 6


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


DAMAGED = (
    "",
    "[",
    "[]",
    "3",
    '"x"',
    "{}",
    '{"reason":',
    "[" * 100_000,
    '{"step": "x", "loss": [1]}',
)


@pytest.mark.parametrize("text", DAMAGED)
@pytest.mark.parametrize("file", ["progress.json", "attempts/1.json", "claim-1.json"])
def test_damaged_small_files_do_not_stop_the_status(mixed: Path, file: str, text: str):
    for path in list(mixed.glob(f"runs/*/{file}")):
        path.write_text(text)
    status = sweep_status(mixed)
    assert sum(status.counts.values()) == 6
    assert status.done == 3
    assert summary_line(status)
    assert len(status_table(status).rows) == 6


def test_a_large_sweep_shows_what_matters(tmp_path: Path):
    [one] = make_specs(1)
    specs = [replace(one, seed=i) for i in range(12)]
    sweep = make_sweep(tmp_path, specs)
    for i, spec in enumerate(specs[:10]):
        run_dir_of(sweep, spec).mkdir(parents=True)
        status = "failed" if i == 7 else "diverged" if i == 3 else "finished"
        make_result(spec, status).save(run_dir_of(sweep, spec))
    found = sweep_status(sweep)
    shown = [row.run_id for row in rows_to_show(found.rows, 5)]
    assert shown == [specs[i].run_id for i in (0, 3, 7, 10, 11)]
    caption = status_table(found, 5).caption.split("\n")
    assert caption[0] == "sweep toy: 5 of 12 runs; rows=0 shows all"
    assert len(rows_to_show(found.rows, 0)) == 12


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """The result.json of a failed run."""
    specs = make_specs(1)
    run_dir = run_dir_of(make_sweep(tmp_path, specs), specs[0])
    run_dir.mkdir(parents=True)
    make_result(specs[0], "failed", "no memory", failure="oom", final_loss=None).save(run_dir)
    return run_dir / "result.json"


def test_a_failure_has_its_kind(result: Path, tmp_path: Path):
    [row] = sweep_status(tmp_path).rows
    assert (row.state, row.failure, row.reason, row.loss) == ("failed", "oom", "no memory", None)


@pytest.mark.parametrize(
    "odd",
    [
        {"status": "lost"}, {"steps_done": "many"}, {"final_loss": [1]}, {"reason": 3},
        {"spec": 3}, {"spec": None}, {"flops_spent": True}, {"final_loss": "nan"},
    ],
)  # fmt: skip
def test_an_invalid_result_is_shown_as_damaged(result: Path, tmp_path: Path, odd: dict):
    edit_record(result, **odd)
    [row] = sweep_status(tmp_path).rows
    assert (row.state, row.reason) == ("waiting", "result.json is damaged: launch the sweep again")


@pytest.mark.parametrize("name", ["final_loss", "device", "reason", "spec", "status"])
def test_a_result_without_a_field_is_damaged(result: Path, tmp_path: Path, name: str):
    edit_record(result, name)
    [row] = sweep_status(tmp_path).rows
    assert (row.state, row.reason) == ("waiting", "result.json is damaged: launch the sweep again")


def test_a_result_of_another_version_is_a_row(result: Path, tmp_path: Path):
    edit_record(result, schema=99)
    [row] = sweep_status(tmp_path).rows
    assert row.state == "blocked"
    assert "result.json: RunResult of schema 99" in row.reason


@pytest.mark.parametrize("odd", [1e305, 10**299, -1.0])
def test_extreme_numbers_in_a_result_do_not_stop_the_status(
    result: Path, tmp_path: Path, odd: float
):
    edit_record(result, final_loss=odd)
    [row] = sweep_status(tmp_path).rows
    assert (row.state, row.loss) == ("failed", odd)


def test_settings_that_differ_are_columns_and_the_others_are_stated_once(tmp_path: Path):
    [one] = make_specs(1)
    specs = [replace(one, seed=i, peak_lr=1e-3 / (1 + i % 2)) for i in range(4)]
    specs[3] = replace(specs[3], batch_tokens=2048, cosine_steps=3 * one.steps)
    status = sweep_status(make_sweep(tmp_path, specs))
    table = status_table(status)
    columns = dict(zip(table.columns, zip(*table.rows, strict=True), strict=True))
    shown = {head: [cell.text for cell in cells] for head, cells in columns.items()}
    assert shown["peak lr"] == ["1.00e-03", "5.00e-04", "1.00e-03", "5.00e-04"]
    assert shown["batch"] == ["1.02k", "1.02k", "1.02k", "2.05k"]
    assert shown["cosine cycle"] == ["1", "1", "1", "3"]
    assert not {"loss", "tokens/s", "left", "note", "schedule"} & set(shown)
    assert "all runs: schedule cosine, positions rope, precision fp32" in table.caption
    value = status.to_dict()
    assert value["rows"][3]["settings"]["batch_tokens"] == 2048
    assert value["common"]["schedule"] == "cosine"

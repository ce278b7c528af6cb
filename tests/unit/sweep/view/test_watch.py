"""`chinchilla status`: the queue beside the files, watch=true, and large sweeps."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from slurm_fakes import FakeSlurm, on_slurm
from sweep_fakes import make_result, make_specs, make_sweep

from chinchilla.cli import main
from chinchilla.core.errors import InputError
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.launch import launch
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.sweep.slurm.queue import jobs_in_queue
from chinchilla.sweep.view.live import watch
from chinchilla.sweep.view.status import render_status, rows_to_show, sweep_status


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    pytest.importorskip("submitit")
    made = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", made.path)
    return made


def finish(sweep: Path, spec: RunSpec, status: str = "finished") -> None:
    run_dir = run_dir_of(sweep, spec)
    run_dir.mkdir(parents=True, exist_ok=True)
    make_result(spec, status).save(run_dir)


def status(capsys: pytest.CaptureFixture[str], sweep: Path, *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["status", f"sweep_dir={sweep}", *words]) == code
    return capsys.readouterr().out


def test_jobs_in_the_queue_are_shown_with_their_reasons(tmp_path: Path, fake: FakeSlurm, capsys):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    rows = fake.jobs()
    fake.set_jobs([rows[0].replace("PENDING", "RUNNING"), *rows[1:], "77|ada|RUNNING|None|else"])
    assert "jobs in the queue: 1 RUNNING, 2 PENDING (Resources)" in status(capsys, sweep)
    output = json.loads(status(capsys, sweep, "format=json"))["queue"]
    assert output["unknown"] == ""
    assert {
        "job_class": "all",
        "state": "PENDING",
        "reason": "Resources",
        "job_id": "41",
        "n": 2,
    } in (output["jobs"])
    fake.set_jobs([])
    assert "jobs in the queue: none" in status(capsys, sweep)


def test_a_queue_that_does_not_answer_is_unknown_and_no_error(
    tmp_path: Path, fake: FakeSlurm, capsys, monkeypatch: pytest.MonkeyPatch
):
    sweep = tmp_path / "sweep"
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    (fake.folder / "squeue_fails").write_text("Socket timed out")
    assert "queue unknown: squeue failed (Socket timed out)" in status(capsys, sweep)
    monkeypatch.setenv("PATH", str(tmp_path))
    out = status(capsys, sweep)
    assert "0/9 runs" in out
    assert "queue unknown: squeue failed (No such file" in out
    output = json.loads(status(capsys, sweep, "format=json"))
    assert output["queue"]["jobs"] == []
    assert output["counts"]["waiting"] == 9
    next(sweep.glob("submitit/*/intention.json")).write_text("{")
    assert "queue unknown" in status(capsys, sweep)


def test_a_local_sweep_has_no_queue(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    sweep = make_sweep(tmp_path, make_specs(1))
    assert jobs_in_queue(sweep) is None
    assert "queue" not in status(capsys, sweep)
    assert json.loads(status(capsys, sweep, "format=json"))["queue"] is None


def test_different_code_is_shown(tmp_path: Path, capsys):
    sweep = make_sweep(tmp_path, make_specs(1))
    (sweep / "launches.jsonl").write_text('{"label": "aaa"}\n{"label": "aaa"}\n')
    assert "different code" not in status(capsys, sweep)
    with open(sweep / "launches.jsonl", "a") as f:
        f.write('{"label": "bbb+1"}\n')
    assert "launched with different code: aaa, bbb+1 (the latest)" in status(capsys, sweep)
    assert json.loads(status(capsys, sweep, "format=json"))["codes"] == ["aaa", "bbb+1"]


def test_watching_without_a_terminal_prints_each_change_once_and_ends(tmp_path: Path):
    specs = make_specs(3)
    sweep, out = make_sweep(tmp_path, specs), io.StringIO()
    left, naps = list(specs), []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) % 2 == 0:
            finish(sweep, left.pop())

    assert watch(sweep, 7.0, out=out, sleep=sleep) == 0
    assert naps == [7.0] * 6
    lines = out.getvalue().splitlines()
    assert [line.partition(": ")[2] for line in lines if ": " in line] == [
        "3 waiting", "1 finished, 2 waiting", "2 finished, 1 waiting", "3 finished",
    ]  # fmt: skip
    ended = [line.split()[1] for line in lines if line.startswith("finished ")]
    assert ended == [spec.run_id for spec in reversed(specs)]
    assert lines[-1].startswith("3/3 runs")


def test_watching_ends_when_no_job_is_left(tmp_path: Path, fake: FakeSlurm):
    """A cancelled sweep is reported once, after a second check; a requeued job is waited for."""
    sweep, out = tmp_path / "sweep", io.StringIO()
    launch(on_slurm(), make_specs(9), sweep, tmp_path)
    rows, naps = fake.jobs(), []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        fake.set_jobs(rows if len(naps) == 2 else [])

    assert (watch(sweep, 1.0, out=out, sleep=sleep), len(naps)) == (75, 4)
    assert out.getvalue().count("no job of this sweep is left, but 9 runs have not ended") == 1
    (fake.folder / "squeue_fails").write_text("away")
    naps.clear()

    def finish_all(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            for spec in make_specs(9):
                finish(sweep, spec)

    assert watch(sweep, 1.0, out=out, sleep=finish_all) == 0, "an unknown queue is not empty"


def test_the_exit_code_of_watch(tmp_path: Path, fake: FakeSlurm, capsys):
    """So that `status watch=true && fit` does not fit an incomplete sweep."""
    sweep, specs = tmp_path / "sweep", make_specs(2)
    launch(on_slurm(), specs, sweep, tmp_path)
    fake.set_jobs([])
    words = ("watch=true", "interval_seconds=0.01")
    assert "no job of this sweep is left" in status(capsys, sweep, *words, code=75)
    finish(sweep, specs[0], "diverged")
    finish(sweep, specs[1], "failed")
    assert "2/2 runs" in status(capsys, sweep, *words, code=1)
    finish(sweep, specs[1])
    status(capsys, sweep, *words, code=0)


def test_watching_as_json_gives_an_object_a_line(tmp_path: Path, capsys):
    specs = make_specs(2)
    sweep = make_sweep(tmp_path, specs)
    for spec in specs:
        finish(sweep, spec)
    lines = status(capsys, sweep, "watch=true", "format=json").splitlines()
    assert [json.loads(line)["counts"]["finished"] for line in lines] == [2]


def test_a_terminal_gets_a_table_that_stays_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    specs = make_specs(2)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    sweep, out = make_sweep(tmp_path, specs), Terminal()
    left = list(specs)
    watch(sweep, 1.0, out=out, sleep=lambda s: finish(sweep, left.pop()))
    text = out.getvalue()
    assert "2/2 runs" in text
    assert "\x1b[" in text
    assert specs[0].run_id in text


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="plan"):
        watch(tmp_path, 1.0)


def test_a_large_sweep_shows_what_matters(tmp_path: Path):
    [one] = make_specs(1)
    specs = [replace(one, seed=i) for i in range(12)]
    sweep = make_sweep(tmp_path, specs)
    for i, spec in enumerate(specs[:10]):
        finish(sweep, spec, "failed" if i == 7 else "diverged" if i == 3 else "finished")
    found = sweep_status(sweep)
    shown = [row.run_id for row in rows_to_show(found.rows, 5)]
    assert shown == [specs[i].run_id for i in (0, 3, 7, 10, 11)]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render_status(found, limit=5))
    assert "5 of 12 runs shown; rows=0 shows all" in console.export_text()
    assert len(rows_to_show(found.rows, 0)) == 12


@pytest.mark.parametrize("words", [["interval_seconds=0"], ["rows=-1"], ["watch=maybe"]])
def test_invalid_settings_are_refused(tmp_path: Path, words: list[str], capsys):
    assert main(["status", f"sweep_dir={tmp_path}", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1

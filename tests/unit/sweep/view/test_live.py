"""`chinchilla status watch=true`: a line for each change, and an exit code."""

import io
import json
from pathlib import Path

import pytest
from slurm_fakes import FakeSlurm, on_slurm
from sweep_fakes import make_result, make_specs, make_sweep

from chinchilla.cli import main
from chinchilla.core.errors import InputError
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.launch import launch
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.sweep.view.live import watch


def finish(sweep: Path, spec: RunSpec, status: str = "finished") -> None:
    run_dir = run_dir_of(sweep, spec)
    run_dir.mkdir(parents=True, exist_ok=True)
    make_result(spec, status).save(run_dir)


def status(capsys: pytest.CaptureFixture[str], sweep: Path, *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["status", f"sweep_dir={sweep}", *words]) == code
    return capsys.readouterr().out


def test_watching_prints_each_change_once_and_ends(tmp_path: Path):
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
    counts = [line.partition(" ")[0] for line in lines if "runs, " in line]
    assert counts == ["0/3", "1/3", "2/3", "3/3"]
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
    """`status watch=true && fit` must not fit an incomplete sweep."""
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


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="plan"):
        watch(tmp_path, 1.0)


@pytest.mark.parametrize("words", [["interval_seconds=0"], ["rows=-1"], ["watch=maybe"]])
def test_invalid_settings_are_refused(tmp_path: Path, words: list[str], capsys):
    assert main(["status", f"sweep_dir={tmp_path}", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1

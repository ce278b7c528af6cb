"""`chinchilla logs`: attempts and claims of a run, and the ends of its logs."""

import json
from pathlib import Path

import pytest
from sweep_fakes import PROGRAM, RAISES, command, make_specs, make_sweep

from chinchilla.cli import main
from chinchilla.sweep.claims import acquire
from chinchilla.sweep.launch import launch
from chinchilla.sweep.retry import set_aside
from chinchilla.sweep.run_files import run_dir_of


def say(capsys: pytest.CaptureFixture[str], sweep: Path, *words: str) -> str:
    capsys.readouterr()
    assert main(["logs", f"sweep_dir={sweep}", *words]) == 0
    return capsys.readouterr().out


[FINE], [BAD] = make_specs(1), make_specs(1, RAISES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that finished and one that failed three times, by one worker."""
    sweep = tmp_path_factory.mktemp("logs")
    launch(command(kind="local", n_workers=1), [FINE, BAD], sweep, sweep, program=PROGRAM)
    return sweep


def test_the_logs_of_a_run_have_its_errors_and_its_part_of_the_workers_log(trained: Path, capsys):
    out = say(capsys, trained, f"run={BAD.run_id}")
    assert f"{BAD.run_id}\n  failed: RuntimeError: the disk said no" in out
    for n in (1, 2, 3):
        assert f"attempt attempts/{n}.json" in out
    assert "error.txt\n" in out
    assert 'raise RuntimeError("the disk said no' in out
    [log] = trained.glob("workers/*.log")
    assert f"{log}\n" in out
    assert f"claimed {BAD.run_id}" in out
    assert FINE.run_id not in out
    out = say(capsys, trained, f"run={FINE.run_id}")
    assert f"finished {FINE.run_id}" in out
    assert "  claim 1, 20" in out
    assert "  claim 2, by the same worker, to write the result\n" in out


def test_lines_limits_the_lines_of_each_log(trained: Path, capsys):
    output = json.loads(say(capsys, trained, f"run={BAD.run_id}", "lines=2", "format=json"))
    assert list(output)[:2] == [BAD.run_id, "error.txt"]
    assert [len(lines) for lines in list(output.values())[1:]] == [2, 2]
    assert list(output.values())[2][-1].endswith("has failed and will not be retried")


def test_the_logs_of_a_sweep_begin_with_its_errors(trained: Path, capsys):
    out = say(capsys, trained)
    assert out.index(f"failed {BAD.run_id}: RuntimeError") < out.index(".log")
    assert f"failed {FINE.run_id}" not in out


def test_slurms_own_logs_are_found_by_the_workers_job(tmp_path: Path, capsys):
    launch(command(), [FINE], tmp_path, tmp_path, train=_boom)
    run_dir = run_dir_of(tmp_path, FINE)
    for path in run_dir.glob("claim-*.json"):
        value = json.loads(path.read_text())
        path.write_text(json.dumps({**value, "worker": "slurm41_2-node-7-0"}))
    folder = tmp_path / "slurm" / "abc"
    folder.mkdir(parents=True)
    for name in ("41_1_0_log.out", "141_2_0_log.out", "41_2_0_log.out"):
        (folder / name).write_text(f"this is {name}\n")
    out = say(capsys, tmp_path, f"run={FINE.run_id}")
    assert "this is 41_2_0_log.out" in out
    assert "41_1_0" not in out
    assert "141" not in out


def _boom(*args, **kwargs):
    raise RuntimeError("boom")


def test_the_reason_why_a_claim_ended_is_shown(tmp_path: Path, capsys):
    """A full disk counts as no attempt and a killed worker writes no record; the claims show both."""
    make_sweep(tmp_path, [FINE])
    claim = acquire(run_dir_of(tmp_path, FINE), "first")
    claim.release("OSError: no space left on device", excused=True)
    out = say(capsys, tmp_path, f"run={FINE.run_id}")
    assert "claim 1, " in out
    assert ": first; ended: OSError: no space left on device\n" in out
    assert "not released" not in out
    killed = acquire(run_dir_of(tmp_path, FINE), "second")
    killed._stop.set()
    path = run_dir_of(tmp_path, FINE) / "claim-2.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": 2**30}))
    out = say(capsys, tmp_path, f"run={FINE.run_id}")
    assert "waiting" in out
    assert "the last claim was not released: its worker was killed" in out


def test_attempts_before_a_retry_are_shown(trained: Path, capsys):
    run_dir = run_dir_of(trained, BAD)
    set_aside(run_dir)
    try:
        out = say(capsys, trained, f"run={BAD.run_id}")
    finally:
        (run_dir / "result-failed-1.json").rename(run_dir / "result.json")
        (run_dir / "attempts-failed-1").rename(run_dir / "attempts")
        (run_dir / "error-failed-1.txt").rename(run_dir / "error.txt")
    assert f"{BAD.run_id}\n  waiting" in out
    assert "attempt attempts-failed-1/3.json" in out


@pytest.mark.parametrize("text", ["", "[", "3", '{"reason":', '{"pid": 3}', "\xff", "[" * 100_000])
def test_damaged_records_are_shown_as_damaged(trained: Path, capsys, text: str):
    run_dir = run_dir_of(trained, BAD)
    paths = [run_dir / "attempts" / "2.json", next(run_dir.glob("claim-*.json"))]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_text(text, encoding="latin-1")
    try:
        out = say(capsys, trained, f"run={BAD.run_id}")
    finally:
        for path, data in zip(paths, before, strict=True):
            path.write_bytes(data)
    assert "its record is damaged" in out
    assert "attempts/3.json" in out
    assert ", ?: ?\n" in out, "a claim of which nothing is known"


def test_an_unknown_run_is_refused(trained: Path, capsys):
    assert main(["logs", f"sweep_dir={trained}", "run=nothing"]) == 2
    assert "no such run" in capsys.readouterr().err

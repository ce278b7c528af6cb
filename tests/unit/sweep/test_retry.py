"""`chinchilla retry` makes failed runs trainable again and keeps their files."""

import json
from pathlib import Path

import pytest
from sweep_fakes import (
    DIVERGES,
    RAISES,
    command,
    edit_record,
    fake_train,
    make_result,
    make_specs,
    save_curve,
)

from chinchilla.cli import main
from chinchilla.plan.records import RunResult
from chinchilla.sweep import retry as module
from chinchilla.sweep.damage import run_state
from chinchilla.sweep.damage.run_state import runs_to_train
from chinchilla.sweep.launch import launch
from chinchilla.sweep.retry import set_aside
from chinchilla.sweep.run_files import missing_specs, run_dir_of


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A finished, a failed and a diverged run."""
    launch(command(), SPECS, tmp_path, tmp_path, train=fake_train)
    run_dir = run_dir_of(tmp_path, NAN)
    (run_dir / "checkpoints" / "step-00000010").mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    return tmp_path


[FINE], [BAD], [NAN] = make_specs(1), make_specs(1, RAISES), make_specs(1, DIVERGES)
SPECS = [FINE, BAD, NAN]


def say(capsys: pytest.CaptureFixture[str], sweep: Path, *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["retry", f"sweep_dir={sweep}", *words])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_failed_runs_become_trainable_and_their_files_are_kept(sweep: Path, capsys):
    run_dir = run_dir_of(sweep, BAD)
    before = {
        n: (run_dir / n).read_bytes() for n in ("result.json", "error.txt", "attempts/1.json")
    }
    code, out = say(capsys, sweep)
    assert code == 0
    assert "1 run will be trained again; 1 diverged are unchanged" in out
    assert BAD.run_id in out
    assert "Launch them in" in out
    assert "such as result-failed-1.json" in out
    assert missing_specs(sweep) == [BAD]
    kept = ("result-failed-1.json", "error-failed-1.txt", "attempts-failed-1/1.json")
    assert [(run_dir / n).read_bytes() for n in kept] == list(before.values())
    launch(
        command(),
        SPECS,
        sweep,
        sweep,
        train=lambda s, d, *a, **k: make_result(s, **save_curve(d, s)),
    )
    assert RunResult.load(run_dir).status == "finished"
    assert say(capsys, sweep)[1].startswith("no runs will be trained again")


@pytest.mark.slow
def test_a_diverged_run_starts_from_scratch_with_diverged_true(sweep: Path, capsys):
    run_dir = run_dir_of(sweep, NAN)
    code, out = say(capsys, sweep, f"runs=[{NAN.run_id}]")
    assert code == 2
    assert "diverged=true" in out
    assert (run_dir / "result.json").exists()
    code, out = say(capsys, sweep, f"runs=[{NAN.run_id}]", "diverged=true", "format=json")
    assert code == 0
    assert json.loads(out) == {
        "again": [NAN.run_id],
        "busy": [],
        "kept_diverged": [],
        "blocked": [],
    }
    names = {p.name for p in run_dir.iterdir()}
    assert {"result-diverged-1.json", "checkpoints-diverged-1", "metrics-diverged-1.jsonl"} < names
    assert not names & {"checkpoints", "metrics.jsonl", "result.json"}
    assert (run_dir / "checkpoints-diverged-1" / "step-00000010").is_dir()


@pytest.mark.parametrize(
    ("runs", "parts"),
    [
        (FINE.run_id, ["is finished, not failed"]),
        ("zzz", ["no such run"]),
        ("c1e12", ["3 runs match"]),
        (FINE.run_id + "x", ["no such run", "Did you mean"]),
    ],
)
@pytest.mark.slow
def test_runs_that_cannot_be_retried_are_refused(sweep: Path, capsys, runs: str, parts: list[str]):
    code, out = say(capsys, sweep, f"runs=[{BAD.run_id},{runs}]")
    assert code == 2
    assert out.count("\n") == 1
    assert all(part in out for part in parts), out
    assert missing_specs(sweep) == [], "one wrong name, and nothing is touched"


def test_a_run_may_be_named_by_a_prefix(sweep: Path, capsys):
    code, out = say(capsys, sweep, f"runs=[{BAD.run_id[:-2]}]")
    assert (code, BAD.run_id in out) == (0, True)


@pytest.mark.parametrize("damage", ["another size", "the same size"])
def test_a_run_with_a_damaged_curve_can_be_retried(sweep: Path, capsys, damage: str):
    """Also if `status` and a launch, which look at the size only, do not see it."""
    path = run_dir_of(sweep, FINE) / "curve.npz"
    path.write_bytes(bytes(path.stat().st_size if damage == "the same size" else 10))
    code, out = say(capsys, sweep, f"runs=[{FINE.run_id}]")
    assert (code, "1 run will be trained again" in out) == (0, True)
    assert missing_specs(sweep) == [FINE]


def test_a_launch_states_each_run_that_it_trains_again_and_why(sweep: Path, capsys):
    (run_dir_of(sweep, FINE) / "curve.npz").unlink()
    assert runs_to_train(sweep, SPECS) == [FINE, BAD], "of which the cost is stated"
    capsys.readouterr()
    launch(command(), SPECS, sweep, sweep, train=fake_train)
    err = capsys.readouterr().err
    assert f"warning: run {FINE.run_id} is trained again" in err
    assert "curve.npz is missing" in err
    assert f"warning: run {BAD.run_id} is trained again" in err
    assert "it failed (RuntimeError: the disk said no)" in err
    assert NAN.run_id not in err


def test_a_launch_reads_no_curves_of_finished_runs(sweep: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_state, "load_curve", lambda *_: pytest.fail("a curve was read"))
    assert launch(command(), [FINE], sweep, sweep, train=fake_train) == 1


def test_a_crash_between_renames_loses_nothing(sweep: Path, monkeypatch: pytest.MonkeyPatch):
    """After any number of renames the run has ended or is waiting, and the next call completes the rest."""
    run_dir, real = run_dir_of(sweep, NAN), module.rename
    moves = 0
    for last in range(1, 4):
        left = last

        def die(a: Path, b: Path) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            real(a, b)

        monkeypatch.setattr(module, "rename", die)
        try:
            set_aside(run_dir, ("diverged", "damaged"))
        except KeyboardInterrupt:
            assert (run_dir / "result.json").exists()
            moves += 1
        monkeypatch.setattr(module, "rename", real)
    assert moves >= 1
    set_aside(run_dir, ("diverged", "damaged"))
    names = {p.name for p in run_dir.iterdir()}
    assert {"result-diverged-1.json", "checkpoints-diverged-1", "metrics-diverged-1.jsonl"} < names
    assert "result.json" not in names


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "3",
        '"finished"',
        '{"schema": 3}',
        '{"schema": null, "status": "finished"}',
        lambda t: t.replace('"status": "failed"', '"status": "done"'),
        lambda t: t.replace('"status": "failed"', '"status": ["failed"]'),
        lambda t: t.replace('"versions": {}', '"versions": 3'),
        lambda t: t.replace(',\n "schema": 3', ""),
    ],
)
@pytest.mark.slow
def test_json_that_is_not_a_result_is_damaged_and_its_run_trained_again(sweep: Path, capsys, text):
    """Every command reports it and continues; launching again trains the run."""
    path = run_dir_of(sweep, BAD) / "result.json"
    path.write_text(text if isinstance(text, str) else text(path.read_text()))
    assert main(["status", f"sweep_dir={sweep}"]) == 0
    printed = capsys.readouterr().out
    assert FINE.run_id in printed
    assert main(["logs", f"sweep_dir={sweep}", f"run={BAD.run_id}"]) == 0
    launch(command(), SPECS, sweep, sweep, train=lambda s, *a, starts, **k: make_result(s))
    assert RunResult.load(path.parent).status == "finished"
    assert (path.parent / "result-failed-1.json").exists()


@pytest.mark.parametrize("whose", ["result", "spec"])
@pytest.mark.slow
def test_a_result_of_another_version_is_never_renamed(sweep: Path, capsys, whose: str):
    path = run_dir_of(sweep, BAD) / "result.json"
    spec = json.loads(path.read_text())["spec"]
    change = {"schema": 7, "new": 1} if whose == "result" else {"spec": {**spec, "schema": 7}}
    edit_record(path, **change)
    other = path.read_text()
    assert launch(command(), SPECS, sweep, sweep, train=fake_train) == 1
    assert f"blocked {BAD.run_id}" in (printed := capsys.readouterr().out)
    assert "schema 7; this version reads" in printed
    assert "1 are blocked" in say(capsys, sweep)[1]
    assert path.read_text() == other


def test_logs_name_the_whole_command_for_one_run(sweep: Path, capsys):
    assert main(["logs", str(sweep)]) == 0
    assert f"(details: chinchilla logs {sweep} run=ID)" in capsys.readouterr().out.replace(
        "\n", " "
    )

"""Which code a sweep was launched with."""

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from sweep_fakes import command, fake_train, make_specs

from chinchilla.cli import main
from chinchilla.core.provenance import Code, code_here, code_of
from chinchilla.sweep import provenance
from chinchilla.sweep.launch import launch
from chinchilla.sweep.provenance import read_launches


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A checkout with a package of one file, its configs, and notes beside them."""
    made = tmp_path / "checkout" / "package"
    made.mkdir(parents=True)
    (made.parent / "configs").mkdir()
    (made / "__init__.py").write_text("x = 1\n")
    (made.parent / "configs" / "a.yaml").write_text("a: 1\n")
    (made.parent / "notes.md").write_text("one\n")
    git(made.parent, "init")
    git(made.parent, "add", ".")
    git(made.parent, "commit", "-m", "one")
    return made


def test_a_clean_checkout_is_its_commit(package: Path):
    code = code_of(package)
    assert (len(code.commit), code.dirty, code.diff_sha256) == (40, False, "")
    assert code.label == code.commit[:12]
    (package.parent / "notes.md").write_text("two\n")
    assert code_of(package) == code, "notes are no code"


def test_changes_since_the_commit_are_hashed(package: Path):
    clean = code_of(package)
    seen = {clean.label}
    for path, text in (
        (package / "__init__.py", "x = 2\n"),
        (package / "__init__.py", "x = 3\n"),
        (package / "new.py", "y = 1\n"),
        (package / "new.py", "y = 2\n"),
        (package.parent / "configs" / "a.yaml", "a: 2\n"),
    ):
        path.write_text(text)
        code = code_of(package)
        assert code.dirty
        assert code.commit == clean.commit
        seen.add(code.label)
    assert len(seen) == 6
    assert code_of(package) == code, "the same files, the same hash"


def test_without_a_checkout_of_its_own_the_version_is_recorded(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    installed = package.parent / "site-packages" / "package"  # inside somebody's checkout
    shutil.copytree(package, installed)
    assert code_of(installed) == Code(code_here().version)
    shutil.rmtree(package.parent / ".git")
    assert code_of(package).label == f"v{code_here().version}"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert code_of(package).commit == ""


def test_every_launch_is_recorded_and_changed_code_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    codes = [Code("1", "a" * 40), Code("1", "a" * 40), Code("1", "a" * 40, True, "f" * 64)]
    for n, code in enumerate(codes):
        monkeypatch.setattr(provenance, "code_here", lambda code=code: code)
        launch(command(), make_specs(1), tmp_path, tmp_path, train=fake_train)
        printed = capsys.readouterr()
        assert ("used code" in printed.err) == (n == 2)
        assert "used code" not in printed.out
    lines = [json.loads(x) for x in (tmp_path / "launches.jsonl").read_text().splitlines()]
    assert [line["code"] for line in lines] == [asdict(code) for code in codes]
    assert {"utc", "user", "host", "kind"} < set(lines[0])
    assert read_launches(tmp_path).codes == ["a" * 12, "a" * 12 + "+ffffffff"]


def test_damaged_lines_are_skipped(tmp_path: Path):
    launch(command(), make_specs(1), tmp_path, tmp_path, train=fake_train)
    path = tmp_path / "launches.jsonl"
    whole = path.read_text()
    path.write_bytes(b'\xff\n[]\n{"label": 3}\n{"lab' + b"\n" + whole.encode())
    launch(command(), make_specs(1), tmp_path, tmp_path, train=fake_train)
    assert path.read_text().endswith(whole.splitlines()[-1].partition('"kind"')[2] + "\n")
    assert read_launches(tmp_path).codes == [code_here().label]


def test_a_truncated_plan_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    specs = make_specs(3)
    launch(command(), specs, tmp_path, tmp_path, train=fake_train)
    plan = tmp_path / "plan.jsonl"
    whole = plan.read_text()
    plan.write_text("".join(whole.splitlines(keepends=True)[:2]))
    capsys.readouterr()
    assert main(["status", f"sweep_dir={tmp_path}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: plan.jsonl has 2 runs, 3 at the latest launch" in printed
    launch(command(), specs[:2], tmp_path, tmp_path, train=fake_train)
    assert "plan.jsonl has 2 runs, 3 at" in capsys.readouterr().err
    launch(command(), specs, tmp_path, tmp_path, train=fake_train)
    assert "note" not in capsys.readouterr().err
    assert main(["status", f"sweep_dir={tmp_path}"]) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "\n", '{"a'])
def test_a_plan_without_runs_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
):
    specs = make_specs(1)
    launch(command(), specs, tmp_path, tmp_path, train=fake_train)
    plan = tmp_path / "plan.jsonl"
    plan.write_text(text)
    for word in ("status", "cancel", "logs", "retry"):
        capsys.readouterr()
        assert main([word, f"sweep_dir={tmp_path}"]) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert "move it away and give the same sweep command again" in printed
    plan.unlink()
    assert launch(command(), specs, tmp_path, tmp_path, train=fake_train) == 0

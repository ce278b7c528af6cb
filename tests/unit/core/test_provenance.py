"""Which code this process runs."""

import shutil
import subprocess
from pathlib import Path

import pytest

from chinchilla.core.provenance import (
    CODE_SUFFIXES,
    Code,
    code_here,
    code_of,
    package_folder,
    package_hash,
    several_versions,
)


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
    known = Code(code_here().version, package_sha256=package_hash(installed))
    assert code_of(installed) == known
    shutil.rmtree(package.parent / ".git")
    assert code_of(package).label == f"v{code_here().version}+{package_hash(package)[:8]}"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert code_of(package).commit == ""


def test_the_hash_of_a_package_is_that_of_its_files(package: Path):
    """Modules and data count, with their names; what Python and editors leave there does not."""
    before = package_hash(package)
    (package / "__pycache__").mkdir()
    (package / "configs").mkdir()  # as in a wheel
    for left in (
        "configs/a.yaml",
        "__pycache__/a.cpython-311.pyc",
        "old.pyc",
        ".a.py.swp",
        ".nfs0001",
        "a.py~",
        "#a.py#",
        "a.py.orig",
        "nohup.out",
        "core.123",
    ):
        (package / left).write_text("left")
    assert package_hash(package) == before
    seen = {before}
    for change in (
        lambda: (package / "table.j2").write_text("1"),
        lambda: (package / "table.j2").rename(package / "other.j2"),
        lambda: (package / "__init__.py").write_text("x = 2\n"),
        lambda: shutil.copytree(package, package / "inner"),
    ):
        change()
        seen.add(package_hash(package))
    assert len(seen) == 5


def test_files_that_programs_leave_do_not_change_the_label(package: Path):
    clean = code_of(package)
    (package / "a.py~").write_text("left")
    (package / "nohup.out").write_text("left")
    assert code_of(package).label == clean.label


def test_every_file_of_the_package_that_a_worker_needs_is_hashed():
    files = [p for p in package_folder().rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    left_out = {p.name for p in files if not p.name.endswith(CODE_SUFFIXES)}
    assert left_out == {"py.typed", "README.md"}


def test_runs_of_several_versions_of_the_code_are_counted():
    assert several_versions(["a", "a", ""]) == several_versions([]) == ""
    assert several_versions(["a", ""], here="a") == several_versions([], here="a") == ""
    said = several_versions(["a", "a"], here="b")
    assert said == "These runs were trained by another version of the code: a; this is b."
    said = several_versions(["b", "a", "a"])
    assert said == "These runs were trained by 2 versions of the code: a (2 runs), b (1 run)."

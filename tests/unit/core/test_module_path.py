"""The working folder is kept off the module path of a process and of its children."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import subprocess, sys
from chinchilla.core.module_path import exclude_working_folder
exclude_working_folder()
try:
    import planted
except ImportError:
    print("safe")
print(subprocess.run([sys.executable, "-c", "import planted"], capture_output=True).returncode)
"""
PACKAGE = str(Path(__file__).parents[3])


@pytest.mark.parametrize(
    ("path", "safe"),
    [(f"{os.pathsep}{PACKAGE}", True), (PACKAGE, True), (f".{os.pathsep}{PACKAGE}", False)],
    ids=["empty entry", "no entry", "written out"],
)
def test_a_module_in_the_working_folder_is_not_imported(tmp_path: Path, path: str, safe: bool):
    """The program itself lies elsewhere, as the installed command does."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "program.py").write_text(PROGRAM)
    (tmp_path / "planted.py").write_text("")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "bin" / "program.py")], cwd=tmp_path, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": ""}, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == (["safe", "1"] if safe else ["0"]), done.stderr


KEEPS = """
import sys
sys.path.append({root!r})  # as an editable installation does
from chinchilla.core.module_path import exclude_working_folder
exclude_working_folder()
sys.exit({root!r} not in sys.path)
"""


@pytest.mark.parametrize("path", [None, "", os.pathsep], ids=["not set", "empty", "empty entry"])
def test_the_package_is_found_if_it_lies_in_the_working_folder(tmp_path: Path, path: str | None):
    """The installed command, called in the folder of a checkout: its child processes import it too."""
    (tmp_path / "program.py").write_text(KEEPS.format(root=PACKAGE))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {} if path is None else {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], cwd=PACKAGE, capture_output=True,
        text=True, env=environment, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


POOL = """
import multiprocessing
from chinchilla.core.module_path import exclude_working_folder

if __name__ == "__main__":
    {call}
    child = multiprocessing.get_context("spawn").Process(target=print)
    child.start()
    child.join()
"""


@pytest.mark.parametrize(("call", "ran"), [("exclude_working_folder()", False), ("pass", True)])
def test_the_processes_of_a_pool_import_no_module_of_the_working_folder(
    tmp_path: Path, call: str, ran: bool
):
    """They begin with `python -c`, which searches the working folder first."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "program.py").write_text(POOL.format(call=call))
    (tmp_path / "socket.py").write_text("open('ran', 'w')")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    subprocess.run(
        [sys.executable, str(tmp_path / "bin" / "program.py")], cwd=tmp_path, capture_output=True,
        env={**environment, "PYTHONPATH": PACKAGE}, timeout=60,
    )  # fmt: skip
    assert (tmp_path / "ran").exists() == ran

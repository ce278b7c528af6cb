"""`chinchilla retry` and launching again, killed at any call that writes, can be repeated."""

from pathlib import Path

import pytest
from killed import survives
from sweep_fakes import DIVERGES, RAISES, command, fake_train, make_specs

from chinchilla.cli import main
from chinchilla.config import RuntimeConfig
from chinchilla.sweep.launch import launch, prepare
from chinchilla.sweep.run_files import clean_sweep, run_dir_of

[FINE], [BAD], [NAN] = make_specs(1), make_specs(1, RAISES), make_specs(1, DIVERGES)
SPECS = [FINE, BAD, NAN]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, a failed run, and a diverged run with a checkpoint."""
    folder = tmp_path_factory.mktemp("template")
    launch(command(), SPECS, folder, folder, train=fake_train)
    run_dir = run_dir_of(folder, NAN)
    (run_dir / "checkpoints" / "step-00000010").mkdir(parents=True)
    (run_dir / "checkpoints" / "step-00000010" / "state.json").write_text("{}")
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    return folder


@pytest.mark.parametrize("n_points", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_retry(sweep: Path, tmp_path: Path, n_points: int):
    def retry(folder: Path) -> None:
        assert main(["retry", str(folder), "diverged=true"]) == 0

    survives(sweep, tmp_path, retry, n_points)


@pytest.mark.parametrize("n_points", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_launching_a_damaged_sweep_again(sweep: Path, tmp_path: Path, n_points: int):
    """The plan, a finished result and the folder of marks are damaged, and a run has failed."""

    def launched(folder: Path) -> None:
        if not (folder / "was damaged").exists():
            (folder / "plan.jsonl").write_text((folder / "plan.jsonl").read_text()[:-40])
            (run_dir_of(folder, FINE) / "result.json").write_text("{")
            (folder / "was damaged").touch()
        clean_sweep(folder)
        prepare(folder, SPECS, RuntimeConfig(device="cpu"))

    survives(sweep, tmp_path, launched, n_points)

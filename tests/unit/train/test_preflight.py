"""Checks before a run starts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train_world import make_runtime

from chinchilla.cli import main
from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import read_json
from chinchilla.plan.memory import memory
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.sweep.worker import Worker
from chinchilla.train import preflight, train_run, trainer

RUNTIME = make_runtime()


def test_data_of_another_id_is_refused(spec: RunSpec, data_dir: Path, tmp_path: Path):
    other = replace(spec, data_id="0123456789abcdef")
    with pytest.raises(
        InputError, match=f"planned on data 0123456789abcdef, .* holds {spec.data_id}"
    ):
        train_run(other, tmp_path / "run", data_dir, RUNTIME)
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_run_is_refused(spec: RunSpec, data_dir: Path, tmp_path: Path):
    train_run(spec, tmp_path, data_dir, RUNTIME, should_stop=lambda: True)
    other = replace(spec, seed=5)
    with pytest.raises(InputError, match=f"belongs to run {spec.run_id}, not {other.run_id}"):
        train_run(other, tmp_path, data_dir, RUNTIME)
    assert RunSpec.from_record(read_json(tmp_path / "spec.json", "spec"), "here") == spec


# Memory


@pytest.fixture
def large(spec: RunSpec) -> RunSpec:
    """A run that needs some 9 TB."""
    model = replace(spec.model, d_model=2**17, ffw_size=2**19, n_layers=4)
    return replace(spec, model=model)


def test_a_run_that_cannot_fit_is_refused_before_anything_is_allocated(
    large: RunSpec, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trainer, "build_model", lambda *a: pytest.fail("a model was built"))
    with pytest.raises(InputError) as error:
        train_run(large, tmp_path, data_dir, RUNTIME)
    message = str(error.value)
    assert "GB with passes of 16 tokens; " in message
    assert "GB are available on this machine (CPU " in message
    assert "Choose fewer workers, a larger device, more ranks" in message
    assert "\n" not in message


def test_a_worker_leaves_a_run_that_cannot_fit_to_others_and_trains_the_rest(
    spec: RunSpec, large: RunSpec, data_dir: Path, tmp_path: Path
):
    save_plan([large, spec], tmp_path / "plan.jsonl")
    summary = Worker(tmp_path, data_dir, RUNTIME, "w").run()
    assert summary.finished == [spec.run_id]
    assert (summary.failed, summary.errors, summary.n_claimed) == ([], 0, 2)
    assert f"run {large.run_id} of" in summary.cannot_train
    assert not run_dir_of(tmp_path, large).joinpath("attempts").exists()


def test_the_command_refuses_a_run_that_cannot_fit(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    command = [
        "train",
        "model.d_model=131072",
        "model.n_layers=4",
        "model.seq_len=16",
        "tokens=1e5",
        "epochs=1000",
    ]
    code = main(
        [
            *command,
            "recipe=demo",
            f"data_dir={data_dir}",
            f"out_dir={tmp_path}",
            "runtime.device=cpu",
        ]
    )
    assert code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "or a smaller model." in line


def test_available_memory_that_suffices_within_the_error_of_the_estimate_is_accepted(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
):
    need = memory(spec, spec.batch_tokens, device="cpu").total
    cpu = torch.device("cpu")
    for share, fits in ((0.91, True), (0.89, False)):
        monkeypatch.setattr(preflight, "available_memory", lambda device, s=share: s * need)
        if fits:
            assert preflight.micro_batch_rows(spec, 4, RUNTIME, cpu) == 4
        else:
            with pytest.raises(InputError, match=r"runtime\.micro_batch_tokens=16"):
                preflight.micro_batch_rows(spec, 4, RUNTIME, cpu)

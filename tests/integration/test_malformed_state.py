"""Malformed files of launchers and checkpoints, and names in them with paths to other folders."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_malformed import CLAIM, SPECS, only_line
from test_poison import SPEC, pickled
from test_poison_everywhere import PAYLOADS

from chinchilla.cli import main
from chinchilla.core.errors import InputError
from chinchilla.plan.plan_file import save_plan


@pytest.fixture
def sweep_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    (folder / "slurm" / "0123abcd").mkdir(parents=True)
    (folder / "runs" / SPEC.run_id).mkdir(parents=True)
    save_plan(SPECS, folder / "plan.jsonl")
    return folder


# Files of launchers


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "3", "null", '"text"', '{"job_class": 3}', "NaN"]
)
@pytest.mark.slow
def test_unreadable_submissions_block_cancel(sweep_dir: Path, capsys, text: str):
    """The state of the queue is unknown, so nothing is cancelled or submitted."""
    (sweep_dir / "slurm" / "0123abcd" / "job.json").write_text(text)
    assert "0123abcd" in only_line(capsys, main(["cancel", f"sweep_dir={sweep_dir}"]))
    assert main(["status", f"sweep_dir={sweep_dir}"]) == 0
    out, err = capsys.readouterr()
    assert "queue unknown" in out
    assert err == ""


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_payloads_in_a_submission(sweep_dir: Path, tmp_path: Path, payload):
    from chinchilla.sweep.slurm.queue import job_arrays

    (sweep_dir / "slurm" / "0123abcd" / "job.json").write_bytes(payload(tmp_path))
    with pytest.raises(InputError, match="0123abcd"):
        job_arrays(sweep_dir)
    assert not list(tmp_path.rglob("executed"))


@pytest.mark.parametrize("name", ["../../secret", "/etc/secret", "a/../../../secret", "\x00"])
def test_logs_of_a_worker_name_with_a_path_are_not_shown(
    sweep_dir: Path, tmp_path: Path, capsys, name: str
):
    (tmp_path / "secret.log").write_text(f"the secret of {SPEC.run_id}\n")
    (sweep_dir / "workers").mkdir()
    claim = sweep_dir / "runs" / SPEC.run_id / "claim-1.json"
    claim.write_text(json.dumps(CLAIM | {"worker": name}))
    assert main(["logs", f"sweep_dir={sweep_dir}", f"run={SPEC.run_id}"]) == 0
    out, err = capsys.readouterr()
    assert "the secret" not in out
    assert err == ""


# Checkpoints whose manifest matches the changed file

STATES: dict[str, dict[str, Any]] = {
    "no step": {"step": None},
    "another step": {"step": 6},
    "text for a step": {"step": "5"},
    "another run's name": {"run_id": "c1-n1-s0-000000"},
    "no spec": {"spec": None},
    "a list for a spec": {"spec": []},
    "a spec of no steps": {"spec": SPEC.to_dict() | {"steps": 0}},
    "a spec of another schema": {"spec": SPEC.to_dict() | {"schema": 9}},
    "no progress": {"progress": None},
    "text for seconds": {"progress": {"train_seconds": "long", "evaluations": []}},
    "evaluations that are not pairs": {"progress": {"train_seconds": 0, "evaluations": [1]}},
    "evaluations of text": {"progress": {"train_seconds": 0, "evaluations": [["a", "b"]]}},
    "evaluations of three": {"progress": {"train_seconds": 0, "evaluations": [[1, 2, 3]]}},
}  # fmt: skip


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_invalid_checkpoint_states_are_skipped_with_one_line(
    tmp_path: Path, change: dict[str, Any]
):
    import torch

    from chinchilla.core.files.reading import sha256_file
    from chinchilla.train import checkpoint
    from chinchilla.train.checkpoint import files as checkpoint_files

    progress = {"train_seconds": 0.0, "evaluations": []}
    made = checkpoint.Checkpoint(5, {"a": torch.zeros(2)}, {"b": torch.zeros(2)}, progress)
    path = checkpoint.save_checkpoint(tmp_path, SPEC, made)
    state = json.loads((path / checkpoint_files.STATE).read_text()) | change
    (path / checkpoint_files.STATE).write_text(json.dumps(state))
    body = json.loads((path / checkpoint_files.MANIFEST).read_text())
    del body["sha256"]
    body["files"][checkpoint_files.STATE] = sha256_file(path / checkpoint_files.STATE)
    (path / checkpoint_files.MANIFEST).write_text(checkpoint_files.manifest_text(body))
    got, lines = checkpoint.load_checkpoint(tmp_path, SPEC)
    assert got is None
    assert f"{path} is damaged ({checkpoint_files.STATE}" in lines[0]
    assert "\n" not in lines[0]


def test_a_pickle_as_the_record_of_a_job(sweep_dir: Path, tmp_path: Path):
    from chinchilla.sweep.slurm.job import run_job

    folder = sweep_dir / "slurm" / "0123abcd"
    (folder / "job.json").write_bytes(pickled(tmp_path))
    with pytest.raises(InputError, match=r"job\.json is damaged"):
        run_job(folder)
    assert not list(tmp_path.rglob("executed"))

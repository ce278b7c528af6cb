"""Checkpoints that are whole or absent.

    checkpoints/step-00000120/weights.safetensors optimizer.safetensors state.json MANIFEST.json

Written into a temporary folder, every file fsynced, the folder renamed into place; MANIFEST.json
holds the SHA-256 of each file. Loading walks back to the newest that verifies. No pickle.
"""

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from chinchilla.errors import InputError
from chinchilla.files import fsync_dir, read_json, sha256_file, write_json
from chinchilla.records import RunSpec

SCHEMA = 1
KEEP = 2  # checkpoints kept per run: the newest and the one before it
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped."""

    step: int  # updates done
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]  # exp_avg.<name>, exp_avg_sq.<name>, step.<name>, losses
    progress: dict[str, Any]  # plain JSON: wall seconds, held-out evaluations so far


def save_checkpoint(folder: Path, spec: RunSpec, checkpoint: Checkpoint) -> Path:
    """Write one checkpoint under `folder`; keep it and the one before it.

    Those of later steps stay: they are damaged, or belong to whoever took this run over.

    Raises:
        OSError: the disk is full or gone; older checkpoints are untouched.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f".tmp-{uuid.uuid4().hex[:8]}"
    temporary.mkdir(parents=True)
    try:
        save_file(checkpoint.weights, temporary / WEIGHTS)
        save_file(checkpoint.optimizer, temporary / OPTIMIZER)
        state = {
            "schema": SCHEMA,
            "run_id": spec.run_id,
            "spec": spec.to_dict(),
            "step": checkpoint.step,
        }
        write_json(temporary / STATE, state | {"progress": checkpoint.progress})
        files = sorted(p for p in temporary.iterdir())
        for path in files:
            _fsync(path)
        write_json(temporary / "MANIFEST.json", {p.name: sha256_file(p) for p in files})
        if final.exists():  # the same step was saved by an earlier attempt
            shutil.rmtree(final)
        os.rename(temporary, final)
        fsync_dir(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    earlier = [path for path in _newest_first(folder) if path.name <= final.name]
    for path in earlier[KEEP:]:  # later ones stay: they may be a successor's
        shutil.rmtree(path, ignore_errors=True)
    return final


def load_checkpoint(folder: Path, spec: RunSpec) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies (None: start anew), and a line for each that did not.

    What saves that were killed left behind is removed.

    Raises:
        InputError: a checkpoint that verifies belongs to another spec.
    """
    for left in folder.glob(".tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    complaints = []
    for path in _newest_first(folder):
        try:
            manifest = read_json(path / "MANIFEST.json", "checkpoint manifest")
            if not isinstance(manifest, dict) or set(manifest) != {WEIGHTS, OPTIMIZER, STATE}:
                raise InputError("its manifest does not list the three files")
            for name, digest in manifest.items():
                if sha256_file(path / name) != digest:
                    raise InputError(f"{name} does not match its SHA-256")
            state = read_json(path / STATE, "checkpoint state")
            weights = load_file(path / WEIGHTS)
            optimizer = load_file(path / OPTIMIZER)
        except (InputError, OSError, SafetensorError) as error:
            complaints.append(f"checkpoint {path} is damaged ({error}); trying the one before it.")
            continue
        if state.get("schema") != SCHEMA or state["run_id"] != spec.run_id:
            raise InputError(
                f"checkpoint {path} belongs to run {state.get('run_id')}, not {spec.run_id}. "
                "Resume under the spec that wrote it, or use another folder."
            )
        return Checkpoint(state["step"], weights, optimizer, state["progress"]), complaints
    if complaints:
        complaints.append(f"no checkpoint in {folder} can be used: the run starts anew.")
    return None, complaints


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []


def _fsync(path: Path) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())

"""Checks before a run starts: its data, its folder and its memory."""

from pathlib import Path

import torch

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import DataError, InputError, MemoryRefused
from chinchilla.core.files.reading import read_json
from chinchilla.core.files.writing import make_dirs, write_json
from chinchilla.data.dataset import TokenData
from chinchilla.plan.memory import ESTIMATE_ERROR, memory, rows_that_fit
from chinchilla.plan.records import RunSpec
from chinchilla.train.device import available_memory, device_name, memory_room, pick_device
from chinchilla.train.distributed import SINGLE, RankGroup


def open_data(spec: RunSpec, data_dir: Path) -> TokenData:
    """Open the token folder that `spec` was planned with.

    Raises:
        DataError: the folder holds other data.
    """
    data = TokenData.open(data_dir)
    if data.data_id != spec.data_id:
        raise DataError(
            f"run {spec.run_id} was planned on data {spec.data_id}, but {data_dir} holds "
            f"{data.data_id} (other text or another tokenizer). Give the data_dir it was planned on, or plan again."
        )
    return data


def check_run_folder(run_dir: Path, spec: RunSpec) -> None:
    """Write spec.json, or check that the existing one is of this run."""
    path = run_dir / "spec.json"
    make_dirs(run_dir)
    if not path.exists():
        write_json(path, spec.to_record())
    existing = RunSpec.from_record(read_json(path, "run spec"), str(path))
    if existing.run_id != spec.run_id:
        raise InputError(
            f"{run_dir} belongs to run {existing.run_id}, not {spec.run_id}. Use another folder."
        )


def micro_batch_rows(
    spec: RunSpec,
    rows: int,
    runtime: RuntimeConfig,
    device: torch.device,
    group: RankGroup = SINGLE,
) -> int:
    """Rows of a forward pass, equal on all ranks: as configured, or what memory allows.

    Called before the model is built, so that its weights are counted once.

    Args:
        spec: the run.
        rows: those of this rank's part of a batch.
        runtime: micro_batch_tokens and activation_checkpointing.
        device: this rank's.
        group: the ranks that train together.

    Raises:
        MemoryRefused: the run needs more memory than this device has free, even with that many rows.
    """
    seq_len, recompute = spec.model.seq_len, runtime.activation_checkpointing
    settings = (group.shards, recompute, device.type, group.world_size > 1)
    with group.raise_together():
        if tokens := runtime.micro_batch_tokens:
            fitting = max(1, min(rows, tokens // seq_len))
        else:
            fitting = rows_that_fit(spec, rows, memory_room(device), *settings)
        needed = memory(spec, fitting * seq_len, *settings).total
        # Refuse only what cannot fit even if the estimate is too high.
        if (1 - ESTIMATE_ERROR) * needed > (available := available_memory(device)):
            least = memory(spec, seq_len, group.shards, True, *settings[2:]).total
            helps = least <= available
            remedies = [f"runtime.micro_batch_tokens={seq_len}"] if helps and fitting > 1 else []
            remedies += ["runtime.activation_checkpointing=true"] if helps and not recompute else []
            remedies += ["fewer workers", "a larger device", "more ranks that share the weights"]
            raise MemoryRefused(
                f"run {spec.run_id} of {spec.N:,} parameters needs about {needed / 1e9:.3g} GB with passes "
                f"of {fitting * seq_len:,} tokens; {available / 1e9:.3g} GB are available on this machine "
                f"({device_name(device)}). Choose {', '.join(remedies)} or a smaller model."
            )
    return min(group.gather(fitting))


def check_memory(spec: RunSpec, runtime: RuntimeConfig) -> None:
    """Check that one process on this machine has the memory for a run.

    Raises:
        MemoryRefused: it has not.
        InputError: this machine has no such device.
    """
    device = pick_device(runtime.device)
    micro_batch_rows(spec, spec.batch_tokens // spec.model.seq_len, runtime, device)

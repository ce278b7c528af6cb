"""What a run checks before it builds anything: its data, its batch, its folder."""

from pathlib import Path

from chinchilla.core.errors import DataError, InputError
from chinchilla.core.files import make_dirs, read_json, write_json
from chinchilla.data.dataset import TokenData
from chinchilla.plan.records import RunSpec
from chinchilla.train.checkpoint import recorded_tokenizer


def open_data(spec: RunSpec, run_dir: Path, data_dir: Path) -> TokenData:
    """The token folder, if it is the one that `spec` was planned on.

    Raises:
        DataError: it is another one, or has pieces that the model has no room for.
    """
    data = TokenData.open(data_dir)
    tokenizer = data.manifest.tokenizer.sha256
    if data.data_id != spec.data_id:
        trained_with = recorded_tokenizer(run_dir / "checkpoints") or tokenizer
        also = (
            f" (tokenizer {tokenizer[:12]}, not {trained_with[:12]})"
            if trained_with != tokenizer
            else ""
        )
        raise DataError(
            f"run {spec.run_id} was planned on data {spec.data_id}, but {data_dir} holds "
            f"{data.data_id}{also}. Give the data_dir it was planned on, or plan again."
        )
    if data.vocab_size > spec.model.vocab_size:
        raise DataError(
            f"model.vocab_size={spec.model.vocab_size} is below the {data.vocab_size} pieces of {data_dir}. "
            "Leave it 0 to take the tokenizer's."
        )
    return data


def rows_per_rank(spec: RunSpec, world: int) -> int:
    """Rows of a batch that each of `world` ranks takes.

    Raises:
        InputError: the batch does not divide.
    """
    rows = spec.batch_tokens // spec.model.seq_len
    if rows % world:
        raise InputError(
            f"run {spec.run_id}: a batch of {rows} rows ({spec.batch_tokens:,} tokens) does not divide "
            f"among {world} ranks. Choose ranks that divide it, or another recipe.batch_tokens."
        )
    return rows // world


def claim_folder(run_dir: Path, spec: RunSpec) -> None:
    """Write spec.json, or check that the one there is ours."""
    path = run_dir / "spec.json"
    make_dirs(run_dir)
    if path.exists():
        held = RunSpec.from_dict(read_json(path, "run spec"), str(path))
        if held.run_id != spec.run_id:
            raise InputError(
                f"{run_dir} belongs to run {held.run_id}, not {spec.run_id}. Use another folder."
            )
    else:
        write_json(path, spec.to_dict())

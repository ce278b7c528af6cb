"""Checks before a run starts: its data and its folder."""

from pathlib import Path

from chinchilla.core.errors import DataError, InputError
from chinchilla.core.files import make_dirs, read_json, write_json
from chinchilla.data.dataset import TokenData
from chinchilla.plan.records import RunSpec


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
        write_json(path, spec.to_dict())
    existing = RunSpec.from_dict(read_json(path, "run spec"), str(path))
    if existing.run_id != spec.run_id:
        raise InputError(
            f"{run_dir} belongs to run {existing.run_id}, not {spec.run_id}. Use another folder."
        )

"""Properties of the machine a worker runs on: its name, CPU threads, access to the data, disk space, code.

If the machine cannot train at all, the worker stops without using up attempts of any run.
"""

import logging
import os
import shutil
import socket
import sys
from pathlib import Path

from chinchilla.core.errors import DataError, InputError, one_line
from chinchilla.core.provenance import OtherCode
from chinchilla.sweep.run_files import (
    RunFilter,
    check_code,
    ended_runs,
    has_result,
    planned_specs,
    run_dir_of,
)

log = logging.getLogger("chinchilla.sweep")


class DeviceError(InputError):
    """This machine does not have the device that the runs were planned for."""


def limit_threads(n: int) -> None:
    """Set the number of CPU threads of this process, for torch too; 0 changes nothing."""
    if n > 0:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(n)


def worker_name(i: int = 0) -> str:
    """Name from host, process and index in the pool, preceded by the Slurm job's number if any."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    prefix = f"slurm{job}" + (f"_{index}" if index else "") + "-" if job else ""
    return f"{prefix}{socket.gethostname()}-{os.getpid()}-{i}"


def check_machine(
    sweep_dir: Path, data_dir: Path, device: str, only: RunFilter | None = None
) -> None:
    """Check, before anything is claimed, that this machine can train the missing runs.

    Args:
        sweep_dir: the sweep's folder.
        data_dir: token folder; it must hold the data that the runs were planned on.
        device: runtime.device.
        only: selects the runs to train.

    Raises:
        DataError: `data_dir` cannot be opened, or holds other data.
        DeviceError: the runs were planned for a GPU, and there is none here.
    """
    from chinchilla.data.dataset import TokenData

    ended, needs = ended_runs(sweep_dir), set[tuple[str, str]]()
    for spec in planned_specs(sweep_dir, only):  # one look per need, not per run
        need = (spec.data_id, spec.precision)
        known = need in needs or spec.run_id in ended
        if not known and not has_result(run_dir_of(sweep_dir, spec)):
            needs.add(need)
    if not needs:
        return
    planned = {data_id for data_id, _ in needs}
    try:
        data_id = TokenData.open(data_dir).data_id
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"data_dir={data_dir} cannot be opened here ({error}).") from None
    if data_id not in planned:
        raise DataError(
            f"the sweep's runs were planned on data {', '.join(sorted(planned))}, but {data_dir} "
            f"holds {data_id}. Give the data_dir they were planned on."
        )
    precisions = {precision for _, precision in needs} - {"fp32"}
    if device == "auto" and precisions:
        from chinchilla.train.device import pick_device

        if pick_device(device).type == "cpu":
            raise DeviceError(
                f"the sweep's runs were planned in {min(precisions)} for a GPU, and PyTorch finds no GPU on "
                f"{socket.gethostname()}. Start the worker where one is, or launch again with "
                "runtime.device=cpu and another sweep_dir= to train on CPUs."
            )


def free_bytes(path: Path) -> int:
    """Free space on the disk of `path`, which need not exist yet."""
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def files_problem(kind: str, error: Exception, folder: Path) -> str:
    """Message for an error of kind disk, with the free space where it occurred, or of kind files."""
    path = Path(getattr(error, "filename", None) or folder)
    if kind == "files":  # nothing more can be asked of the file system
        return (
            f"the file system of {path} does not answer ({one_line(error)}). No finished work is lost: "
            "launch again when it does."
        )
    return (
        f"no space to write at {path}: {free_bytes(path):,} bytes free ({one_line(error)}). No "
        "finished work is lost: free some space, then launch again."
    )


class LatestLaunch:
    """The record of a sweep's latest launch, which a worker at work checks before each claim."""

    def __init__(self, sweep_dir: Path) -> None:
        self.sweep_dir = sweep_dir
        self._read: tuple[int, ...] = ()  # identifies the runtime.json that was checked

    def check(self) -> None:
        """Check the code of the launch if the record has changed.

        Raises:
            OtherCode: it is not the code of this process.
        """
        try:
            about = os.stat(self.sweep_dir / "runtime.json")
            read = (about.st_ino, about.st_size, about.st_mtime_ns)
            if read != self._read:
                self._read = read
                check_code(self.sweep_dir)
        except FileNotFoundError:
            return  # a worker at work does not need the record
        except OtherCode:
            raise
        except InputError as error:  # damaged; the next launch writes it again
            log.warning("%s", one_line(error))

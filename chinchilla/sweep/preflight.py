"""Properties of the machine a worker runs on: its name, CPU threads, access to the data, disk space.

If the machine cannot train at all, the worker stops without using up attempts of any run.
"""

import os
import shutil
import socket
import sys
from pathlib import Path

from chinchilla.core.errors import DataError, one_line
from chinchilla.sweep.run_files import (
    RunFilter,
    ended_runs,
    has_result,
    planned_specs,
    run_dir_of,
)


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


def check_data(sweep_dir: Path, data_dir: Path, only: RunFilter | None = None) -> None:
    """Check, before anything is claimed, that `data_dir` holds the data of the missing runs.

    Raises:
        DataError: it cannot be opened, or holds other data.
    """
    from chinchilla.data.dataset import TokenData

    ended, planned = ended_runs(sweep_dir), set[str]()
    for spec in planned_specs(sweep_dir, only):  # one look per data set, not per run
        known = spec.data_id in planned or spec.run_id in ended
        if not known and not has_result(run_dir_of(sweep_dir, spec)):
            planned.add(spec.data_id)
    if not planned:
        return
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


def free_bytes(path: Path) -> int:
    """Free space on the disk of `path`, which need not exist yet."""
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def no_space(error: Exception, folder: Path) -> str:
    """Message for a full disk, with the free space where the error occurred."""
    path = Path(getattr(error, "filename", None) or folder)
    return (
        f"no space to write at {path}: {free_bytes(path):,} bytes free ({one_line(error)}). No "
        "finished work is lost: free some space, then launch again."
    )

"""The machine that a worker runs on: its name, its threads, whether it sees the tokens and has room.

Where it cannot do the work, the fault is no run's: the worker stops and costs nothing an attempt.
"""

import os
import shutil
import socket
import sys
from collections.abc import Collection
from pathlib import Path

from chinchilla.core.errors import DataError, one_line
from chinchilla.sweep.run_files import missing_specs


def limit_threads(n: int) -> None:
    """CPU threads of this process; for torch too, imported already or not. 0 changes nothing."""
    if n > 0:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(n)


def worker_name(i: int = 0) -> str:
    """Host, process and place in the pool; a Slurm job's number where there is one."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    head = f"slurm{job}" + (f"_{index}" if index else "") + "-" if job else ""
    return f"{head}{socket.gethostname()}-{os.getpid()}-{i}"


def check_data(sweep_dir: Path, data_dir: Path, only: Collection[str] | None = None) -> None:
    """Prove, before anything is claimed, that this machine sees the tokens of the missing runs.

    Raises:
        DataError: it cannot open them, or they are others.
    """
    from chinchilla.data.dataset import TokenData

    if not (planned := {s.data_id for s in missing_specs(sweep_dir, only)}):
        return
    try:
        found = TokenData.open(data_dir).data_id
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"data_dir={data_dir} cannot be opened here ({error}).") from None
    if found not in planned:
        raise DataError(
            f"the sweep's runs were planned on data {', '.join(sorted(planned))}, but {data_dir} "
            f"holds {found}. Give the data_dir they were planned on."
        )


def free_bytes(path: Path) -> int:
    """What the disk under `path`, which need not exist yet, still takes."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def no_room(error: Exception, near: Path) -> str:
    """What to say of a disk that takes no more, with the bytes free where it was met."""
    path = Path(getattr(error, "filename", None) or near)
    return (
        f"no room to write at {path}: {free_bytes(path):,} bytes free ({one_line(error)}). Nothing is lost: "
        "make room, then launch again."
    )

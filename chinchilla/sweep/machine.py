"""Whether this machine can do a sweep's work: sees its tokens, has room to write.

Where it cannot, the fault is no run's: the worker stops and costs nothing an attempt.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from chinchilla.errors import DataError, one_line
from chinchilla.sweep.cells import missing_specs


def check_data(sweep_dir: Path, data_dir: Path, only: Collection[str] | None = None) -> None:
    """Prove, before anything is claimed, that this machine sees the tokens of the missing runs.

    Raises:
        DataError: it cannot open them, or they are others.
    """
    from chinchilla.data.tokens import TokenData

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

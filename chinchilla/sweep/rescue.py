"""Results that cannot be written: tried again, then kept in a private folder until a worker can publish them.

The folder of a sweep may disappear, or its disk may be full, when a run has finished. Its result and curve are
then written to a new folder of this user, in $XDG_STATE_HOME/chinchilla/rescue (a home is shared between the
nodes of a cluster), else in the folder for temporary files. The next worker of the sweep that this user
starts where the folder can be seen publishes them, under a claim, so that no result is published twice.
"""

import contextlib
import errno
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from chinchilla.core.errors import InputError, one_line
from chinchilla.core.files import folders
from chinchilla.core.files.folders import FolderGone, guard_of
from chinchilla.core.files.reading import read_bytes, read_json
from chinchilla.core.files.writing import atomic_write, remove, write_json
from chinchilla.core.program import state_folder
from chinchilla.plan.records import RunResult
from chinchilla.plan.unwritten import curve_of, forget
from chinchilla.sweep.claims import Claim, acquire
from chinchilla.sweep.failures import failure_kind
from chinchilla.sweep.preflight import worker_name
from chinchilla.sweep.run_files import has_result, mark_ended, planned_specs, run_dir_of
from chinchilla.sweep.signals import Stop

RECORD = "rescue.json"  # of which run and sweep the result is
CURVE = "curve.npz"
log = logging.getLogger("chinchilla.sweep")


class Rescued(Exception):
    """The result was written to a rescue folder; the message says where and why.

    `of_one_run`: the cause lies in the folder of the run, so that other runs can be trained.
    """

    def __init__(self, message: str, of_one_run: bool) -> None:
        super().__init__(message)
        self.of_one_run = of_one_run


def publish(claim: Claim, result: RunResult, stop: Stop | None) -> bool:
    """Publish a result and its curve, trying again for up to `folders.WAIT_SECONDS` or until `stop`.

    Returns:
        Whether it was published; False if another worker has taken the run over.

    Raises:
        Rescued: it could not be written to the sweep, but to a rescue folder.
        OSError: it could not be written anywhere.
    """
    failure: OSError | None = None
    temporary = True
    deadline = time.monotonic() + folders.WAIT_SECONDS
    while True:
        try:
            if curve := curve_of(claim.run_dir):
                curve.save(claim.run_dir)
                forget(claim.run_dir)
            if claim.publish("result.json", result.to_record()):
                return True
            if failure is None or has_result(claim.run_dir):
                return False
            break  # possibly the claim of an attempt before, whose answer was an error
        except OSError as error:
            first, failure = failure is None, error
            temporary = failure_kind(error) in ("disk", "files") or error.errno == errno.EIO
            # A folder that is gone has been waited for.
            if isinstance(error, FolderGone) or not temporary:
                break
            if stop or time.monotonic() > deadline:
                break
            if first:
                text = f"the result of {result.spec.run_id} cannot be written ({one_line(error)})"
                log.warning("%s; trying again for up to %.0f s", text, folders.WAIT_SECONDS)
            time.sleep(folders.POLL_SECONDS)
    folder = _keep(claim.run_dir, result)
    forget(claim.run_dir)
    raise Rescued(
        f"the result of {result.spec.run_id} cannot be written to {claim.run_dir} "
        f"({failure.strerror or failure}). It is kept in {folder}, from where the next worker "
        "of this sweep publishes it: launch again when that is possible.",
        of_one_run=not temporary,
    )


def _places() -> list[Path]:
    """Where rescue folders are made, in the order of preference."""
    return [state_folder() / "rescue", Path(tempfile.gettempdir())]


def _prefix() -> str:
    return f"chinchilla-rescue-{os.getuid()}-"


def _keep(run_dir: Path, result: RunResult) -> Path:
    """Write the result and its curve to a new rescue folder."""
    guard = guard_of(run_dir)
    record = {
        "run_id": result.spec.run_id,
        "sweep_dir": str(guard.root if guard else run_dir.parent.parent),
        "folder_id": guard.identity if guard else "",
    }
    problem: OSError | None = None
    for place in _places():
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = Path(
                tempfile.mkdtemp(prefix=_prefix(), dir=place)
            )  # exclusively, with mode 700
        except OSError as error:
            problem = error
            continue
        try:
            run = folder / result.spec.run_id
            run.mkdir()
            if curve := curve_of(run_dir):
                curve.save(run)
            else:
                with contextlib.suppress(OSError):  # gone with the folder of the sweep
                    (run / CURVE).write_bytes(read_bytes(run_dir / CURVE, limit=None))
            result.save(run)
            write_json(folder / RECORD, record)  # last: without it, the folder is ignored
            return folder
        except OSError as error:
            problem = error
            with contextlib.suppress(OSError):
                remove(folder)
    assert problem is not None
    raise problem


def rescued(sweep_dir: Path) -> Iterator[tuple[Path, str]]:
    """Rescue folders of a sweep, also if it has been renamed or made again, with the id of the run."""
    guard = guard_of(sweep_dir)
    for place in _places():
        found: list[Path] = []
        with contextlib.suppress(OSError):  # the home of another user
            found = sorted(place.glob(f"{_prefix()}*"))
        for folder in found:
            about = folder.lstat()
            private = stat.S_ISDIR(about.st_mode) and not about.st_mode & 0o077
            if not private or about.st_uid != os.getuid():
                continue
            try:
                record = read_json(folder / RECORD, "record of a rescued result")
            except InputError:  # being written
                continue
            if isinstance(record, dict) and (
                record.get("sweep_dir") == str(sweep_dir.resolve())
                or (guard and record.get("folder_id") == guard.identity)
            ):
                yield folder, str(record.get("run_id"))


def kept_text(sweep_dir: Path) -> str:
    """Where results of a sweep are kept that could not be written to it; "" if there are none."""
    kept = [str(folder) for folder, _ in rescued(sweep_dir)]
    return f"The next launch publishes the results kept in {', '.join(kept)}." if kept else ""


def bring_back(sweep_dir: Path) -> None:
    """Publish the results of a sweep that could not be written to it before; problems are logged."""
    found = list(rescued(sweep_dir))
    specs = {s.run_id: s for s in planned_specs(sweep_dir)} if found else {}
    for folder, run_id in found:
        if run_id not in specs:
            log.warning("%s holds a result of %s, which is not in the plan", folder, run_id)
            continue
        if not folder.exists():  # another worker was faster
            continue
        try:
            if _bring_back(folder, run_dir_of(sweep_dir, specs[run_id]), run_id):
                remove(folder)
        except (OSError, InputError) as error:
            log.warning("the result in %s cannot be published: %s", folder, one_line(error))


def _bring_back(folder: Path, run_dir: Path, run_id: str) -> bool:
    """Publish one result; whether its folder is no longer needed."""
    kept = folder / run_id
    result = RunResult.load(kept)
    if result.spec.run_id != run_id:
        raise InputError(f"{kept / 'result.json'} is of {result.spec.run_id}, not {run_id}.")
    claim = acquire(run_dir, worker_name(), to_train=False)
    if claim is None:  # another worker trains it again
        return has_result(run_dir)
    try:
        if has_result(run_dir):
            return True
        if (kept / CURVE).exists():
            with atomic_write(run_dir / CURVE, "wb") as f:
                f.write(read_bytes(kept / CURVE, limit=None))
        done = claim.publish("result.json", result.to_record())
        log.info("published the result of %s from %s", run_id, folder)
        return done
    finally:
        claim.release()
        mark_ended(run_dir)

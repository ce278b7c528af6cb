"""Results that cannot be written: tried again, then kept in a private folder until a worker can publish them.

The folder of a sweep may disappear, or its disk may be full, when a run has finished. Its result and curve are
then written to a new folder of this user, in $XDG_STATE_HOME/chinchilla/rescue (a home is shared between the
nodes of a cluster), else in the folder for temporary files. The next worker of the sweep that this user
starts where the folder can be seen publishes them, under a claim, so that no result is published twice.
The sweep is recognized by its .folder-id, so that one made anew at the same path receives no results of the old one.
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
from chinchilla.core.files.folders import FolderGone, guard_of, wait_for_folder
from chinchilla.core.files.reading import read_bytes, read_json
from chinchilla.core.files.writing import atomic_write, create_once, pretty_json, remove, write_json
from chinchilla.core.program import state_folder
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.plan.unwritten import kept_curve
from chinchilla.sweep.claims import Claim, acquire
from chinchilla.sweep.failures import failure_kind
from chinchilla.sweep.preflight import worker_name
from chinchilla.sweep.run_files import (
    has_result,
    launched_code,
    mark_ended,
    planned_specs,
    run_dir_of,
)
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


class _Overtaken(Exception):
    """Another worker has taken the run over."""


def publish(claim: Claim, result: RunResult, stop: Stop | None) -> bool:
    """Publish a result and its curve, trying again for up to `folders.WAIT_SECONDS` or until `stop`.

    The folder of a run that was deleted is created again, under a new claim.

    Returns:
        Whether it was published; False if another worker has taken the run over.

    Raises:
        Rescued: it could not be written to the sweep, but to a rescue folder.
        OSError: it could not be written anywhere.
    """
    run_dir, holder = claim.run_dir, claim
    curve = kept_curve(run_dir)
    failure: OSError | None = None
    temporary = True
    deadline = time.monotonic() + folders.WAIT_SECONDS
    try:
        while True:
            try:
                wait_for_folder(run_dir)
            except FolderGone as error:
                failure = error
                break
            try:
                holder = _claim_again(holder)
                if _publish_once(holder, result, curve.packed if curve else None):
                    return True
                if failure is None or has_result(run_dir):
                    return False
                break  # possibly the claim of an attempt before, whose answer was an error
            except OSError as error:
                first, failure = failure is None, error
                temporary = failure_kind(error) in ("disk", "files") or error.errno == errno.EIO
                if not temporary or stop or time.monotonic() > deadline:
                    break
                if first:
                    text = f"the result of {result.spec.run_id} cannot be written"
                    limit = f"trying again for up to {folders.WAIT_SECONDS:.0f} s"
                    log.warning("%s (%s); %s", text, one_line(error), limit)
                time.sleep(folders.POLL_SECONDS)
    finally:
        if holder is not claim:
            with contextlib.suppress(OSError):
                holder.release()
    folder = _write_rescue_folder(run_dir, result, curve)
    raise Rescued(
        f"the result of {result.spec.run_id} cannot be written to {run_dir} "
        f"({failure.strerror or failure}). It is kept in {folder}, from where the next worker "
        "of this sweep publishes it: launch again when that is possible.",
        of_one_run=not temporary,
    )


def _claim_again(claim: Claim) -> Claim:
    """The claim, or a new one if it was deleted with the folder of the run."""
    path = claim.run_dir / f"claim-{claim.record.fence}.json"
    if os.path.lexists(path):
        return claim
    new = acquire(claim.run_dir, claim.record.worker, to_train=False)
    if new is None and os.path.lexists(path):  # the folder of the sweep was away for a moment
        return claim
    claim.lost = True  # nothing is written under it: its number may be used again
    if new is None:
        text = "its folder was deleted, and another worker has claimed the run"
        raise FileNotFoundError(errno.ENOENT, text, str(claim.run_dir))
    log.warning("the folder of %s was deleted; it is created again", claim.run_dir.name)
    return new


def _publish_once(claim: Claim, result: RunResult, curve: bytes | None) -> bool:
    """Publish a result with the content of its curve; False if another worker has taken the run over.

    The next claim is made after everything that may take long, and immediately before the curve is renamed
    into place. So a holder that was overtaken replaces nothing, and the curve and the result are those of
    one holder. If the process dies after the claim, the claim expires, and the next holder resumes from the
    last checkpoint and replaces the curve.
    """
    run_dir = claim.run_dir
    if curve is None:
        return claim.publish("result.json", result.to_record())
    try:
        with atomic_write(run_dir / CURVE, "wb") as f:
            f.write(curve)
            f.flush()
            os.fsync(f.fileno())
            if not claim.commit() or has_result(run_dir):
                raise _Overtaken
    except _Overtaken:
        return False
    # A folder that is away now may come back after another worker has taken the run over.
    text = pretty_json(result.to_record()) + "\n"
    return create_once(run_dir / "result.json", text, wait=False)


def _places() -> list[Path]:
    """Where rescue folders are made, in the order of preference."""
    return [state_folder() / "rescue", Path(tempfile.gettempdir())]


def _prefix() -> str:
    return f"chinchilla-rescue-{os.getuid()}-"


def _write_rescue_folder(run_dir: Path, result: RunResult, curve: Curve | None) -> Path:
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
            # Created exclusively, with mode 700.
            folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=place))
        except OSError as error:
            problem = error
            continue
        try:
            run = folder / result.spec.run_id
            run.mkdir()
            if curve:
                curve.save(run)
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
    """Rescue folders of a guarded sweep, also if it has been renamed, with the id of the run."""
    guard = guard_of(sweep_dir)
    for place in _places():
        found: list[Path] = []
        with contextlib.suppress(OSError):  # the home of another user
            found = sorted(place.glob(f"{_prefix()}*"))
        for folder in found:
            try:
                about = folder.lstat()
                private = stat.S_ISDIR(about.st_mode) and not about.st_mode & 0o077
                if not private or about.st_uid != os.getuid():
                    continue
                record = read_json(folder / RECORD, "record of a rescued result")
            except (OSError, InputError):  # being written, or published by another worker
                continue
            identity = record.get("folder_id") if isinstance(record, dict) else None
            if guard and identity and identity == guard.identity:
                yield folder, str(record.get("run_id"))


def rescue_message(sweep_dir: Path) -> str:
    """Where results of a sweep are kept that could not be written to it; "" if there are none."""
    kept = [str(folder) for folder, _ in rescued(sweep_dir)]
    return f"The next launch publishes the results kept in {', '.join(kept)}." if kept else ""


def publish_rescued(sweep_dir: Path) -> None:
    """Publish the results of a sweep that could not be written to it before; problems are logged."""
    found = list(rescued(sweep_dir))
    specs = {s.run_id: s for s in planned_specs(sweep_dir)} if found else {}
    for folder, run_id in found:
        if run_id not in specs:
            log.warning("%s holds a result of %s, which is not in the plan", folder, run_id)
            continue
        try:
            if _publish_rescued(folder, sweep_dir, specs[run_id]):
                remove(folder)
        except (OSError, InputError) as error:
            if folder.exists():  # else another worker was faster
                log.warning("the result in %s cannot be published: %s", folder, one_line(error))


def _publish_rescued(folder: Path, sweep_dir: Path, spec: RunSpec) -> bool:
    """Publish one result; whether its folder is no longer needed."""
    kept, run_dir = folder / spec.run_id, run_dir_of(sweep_dir, spec)
    result = RunResult.load(kept)
    code, launched = result.code, launched_code(sweep_dir)
    if code.package_sha256 != launched.package_sha256:
        raise InputError(
            f"it was trained by chinchilla {code.label} (package {code.package_sha256[:8]}), and the sweep "
            f"was launched with {launched.label} (package {launched.package_sha256[:8]})."
        )
    curve = read_bytes(kept / CURVE, limit=None) if (kept / CURVE).exists() else None
    claim = acquire(run_dir, worker_name(), to_train=False)
    if claim is None:  # another worker trains it again
        return has_result(run_dir)
    try:
        if has_result(run_dir):
            return True
        done = _publish_once(claim, result, curve)
        log.info("published the result of %s from %s", spec.run_id, folder)
        return done
    finally:
        claim.release()
        mark_ended(run_dir)

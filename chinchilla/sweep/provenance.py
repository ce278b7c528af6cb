"""Which code a sweep was launched with: recorded at every launch, never copied.

launches.jsonl in the sweep's folder has a line for each launch; the array of a Slurm launch has the
same in its intention.json. Runs say for themselves what trained them (`git` in result.json).
"""

import dataclasses
import functools
import hashlib
import json
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chinchilla
from chinchilla.core.files import write_text
from chinchilla.sweep.claims import utc_now
from chinchilla.sweep.slurm.queue import user_name

GIT_SECONDS = 20.0  # for an answer from git; then only the version is known


@dataclass(frozen=True)
class Code:
    """The source that a process runs. Without git, or outside its own checkout, the version alone."""

    version: str
    commit: str = ""
    dirty: bool = False  # the package or its configs differ from the commit
    diff_sha256: str = ""  # of that difference, files that git does not know included

    @property
    def label(self) -> str:
        """One word for people: two launches of the same code have the same."""
        if not self.commit:
            return f"v{self.version}"
        return self.commit[:12] + (f"+{self.diff_sha256[:8]}" if self.dirty else "")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@functools.cache
def code_here() -> Code:
    """The code of this process, by git where the package lies in a checkout of its own."""
    return code_of(Path(chinchilla.__file__).parent)


def code_of(package: Path) -> Code:
    """The code in `package`: its commit, and a hash of what differs from it."""
    places = [str(p) for p in (package, package.parent / "configs") if p.is_dir()]
    try:
        # An environment inside somebody else's checkout has a commit, but not of this code.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD").decode().strip()
        plain = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")
        diff = _git(package, "diff", "HEAD", *plain, "--", *places)
        new = _git(package, "ls-files", "-o", "-z", "--exclude-standard", "--full-name", "--", *places)  # fmt: skip
        top = Path(_git(package, "rev-parse", "--show-toplevel").decode().strip()) if new else package  # fmt: skip
        digest = hashlib.sha256(diff)
        for name in sorted(filter(None, new.split(b"\0"))):
            digest.update(name + b"\0" + (top / os.fsdecode(name)).read_bytes())
    except (OSError, subprocess.SubprocessError):
        return Code(chinchilla.__version__)
    dirty = bool(diff or new)
    return Code(chinchilla.__version__, commit, dirty, digest.hexdigest() if dirty else "")


def _git(folder: Path, *words: str) -> bytes:
    """What git says about `folder`, whatever a hook or an alias has put into the environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(folder), *words],
        env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
        capture_output=True,
        check=True,
        timeout=GIT_SECONDS,
    ).stdout


def record_launch(sweep_dir: Path, kind: str) -> str:
    """Add a line to launches.jsonl; to be called by one launcher at a time.

    Args:
        sweep_dir: the sweep's folder.
        kind: cluster.kind.

    Returns:
        What to say: that the launch before it ran other code, that it planned more; else nothing.
    """
    path, code = sweep_dir / "launches.jsonl", code_here()
    n_runs, n_before = n_planned(sweep_dir), n_launched(sweep_dir)
    before = launched_codes(sweep_dir)
    line = {
        "utc": utc_now(),
        "user": user_name(),
        "host": socket.gethostname(),
        "kind": kind,
        "code": code.to_dict(),
        "label": code.label,
        "n_runs": n_runs,
    }
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    write_text(path, text + json.dumps(line) + "\n")
    notes = []
    if before and before[-1] != code.label:
        notes.append(
            f"note: this sweep was launched with code {before[-1]} before, and now with "
            f"{code.label}: its runs may not all be trained by the same."
        )
    if n_runs < n_before:
        notes.append(f"note: {fewer_runs(n_runs, n_before)}")
    return "\n".join(notes)


def fewer_runs(n_runs: int, n_before: int) -> str:
    """What to say of a plan that has become shorter, as one that was cut does."""
    return (
        f"plan.jsonl has {n_runs} runs, and had {n_before} at the newest launch: if it was cut, "
        "launch again with all that was planned. Runs that were trained are kept."
    )


def n_planned(sweep_dir: Path) -> int:
    """Lines of the plan, each once; 0 without one."""
    try:
        return len(set((sweep_dir / "plan.jsonl").read_bytes().splitlines()))
    except OSError:
        return 0


def n_launched(sweep_dir: Path) -> int:
    """Runs that the plan had at the newest launch; 0 where it did not say."""
    found = _launches(sweep_dir)
    n = found[-1].get("n_runs", 0) if found else 0
    return n if type(n) is int else 0


def launched_codes(sweep_dir: Path) -> list[str]:
    """Labels of the codes that the sweep was launched with, each once, the last one last."""
    labels: dict[str, None] = {}
    for launch in _launches(sweep_dir):
        if isinstance(label := launch.get("label"), str):
            labels.pop(label, None)
            labels[label] = None
    return list(labels)


def _launches(sweep_dir: Path) -> list[dict[str, Any]]:
    """The records of the launches, oldest first. Notes for people: a damaged line stops nothing."""
    try:
        lines = (sweep_dir / "launches.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in lines.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found

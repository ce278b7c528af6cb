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
from chinchilla.files import write_text
from chinchilla.sweep.claims import utc_now
from chinchilla.sweep.slurm_queue import user_name

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
        A line to say when the launch before it ran other code; else nothing.
    """
    path, code = sweep_dir / "launches.jsonl", code_here()
    before = launched_codes(sweep_dir)
    line = {
        "utc": utc_now(),
        "user": user_name(),
        "host": socket.gethostname(),
        "kind": kind,
        "code": code.to_dict(),
        "label": code.label,
    }
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    write_text(path, text + json.dumps(line) + "\n")
    if not before or before[-1] == code.label:
        return ""
    return (
        f"note: this sweep was launched with code {before[-1]} before, and now with {code.label}: "
        "its runs may not all be trained by the same."
    )


def launched_codes(sweep_dir: Path) -> list[str]:
    """Labels of the codes that the sweep was launched with, each once, the last one last."""
    try:
        lines = (sweep_dir / "launches.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    labels: dict[str, None] = {}
    for line in lines.splitlines():
        try:
            label = json.loads(line)["label"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # a note for people: a damaged line stops nothing
        if isinstance(label, str):
            labels.pop(label, None)
            labels[label] = None
    return list(labels)

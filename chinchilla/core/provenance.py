"""Identify the code that this process runs: version, git commit, hash of uncommitted changes."""

import functools
import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import chinchilla
from chinchilla.core.reading import read_blocks

GIT_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Code:
    """Source code of a process. Outside a git checkout of its own, only the version is known."""

    version: str
    commit: str = ""
    dirty: bool = False  # the package or its configs differ from the commit
    diff_sha256: str = ""  # of the difference, including untracked files

    @property
    def label(self) -> str:
        """Short name; equal for equal code."""
        if not self.commit:
            return f"v{self.version}"
        return self.commit[:12] + (f"+{self.diff_sha256[:8]}" if self.dirty else "")


@functools.cache
def code_here() -> Code:
    """The code of this process."""
    return code_of(Path(chinchilla.__file__).parent)


def code_of(package: Path) -> Code:
    """The code in the folder `package` and in configs/ beside it."""
    paths = [str(p) for p in (package, package.parent / "configs") if p.is_dir()]
    try:
        # Fails if the package is installed inside the checkout of another project.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD").decode().strip()
        plain = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")
        diff = _git(package, "diff", "HEAD", *plain, "--", *paths)
        untracked = _git(package, "ls-files", "-oz", "--exclude-standard", "--full-name", *paths)
        root = Path(_git(package, "rev-parse", "--show-toplevel").decode().strip())
        digest = hashlib.sha256(diff)
        for name in sorted(filter(None, untracked.split(b"\0"))):
            digest.update(name + b"\0")
            for block in read_blocks(root / os.fsdecode(name)):
                digest.update(block)
    except (OSError, subprocess.SubprocessError):
        return Code(chinchilla.__version__)
    dirty = bool(diff or untracked)
    return Code(chinchilla.__version__, commit, dirty, digest.hexdigest() if dirty else "")


def _git(folder: Path, *args: str) -> bytes:
    """Output of a git command, independent of GIT_* variables set by hooks or aliases."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(folder), *args],
        env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
        capture_output=True,
        check=True,
        timeout=GIT_TIMEOUT_SECONDS,
    ).stdout

"""Identify the code that this process runs: version, git commit, hashes of changes and of the package."""

import functools
import hashlib
import os
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import chinchilla
from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import read_blocks, sha256_file

GIT_TIMEOUT_SECONDS = 20.0
CODE_SUFFIXES = (".py", ".j2", ".xz")  # of modules, templates and data of the package


class OtherCode(InputError):
    """This process does not run the code that it should."""


@dataclass(frozen=True)
class Code:
    """Source code of a process. Outside a git checkout of its own, there is no commit."""

    version: str
    commit: str = ""
    dirty: bool = False  # the package or its configs differ from the commit
    diff_sha256: str = ""  # of the difference, including untracked files
    package_sha256: str = ""  # of the files of the imported package (`package_hash`)

    @property
    def label(self) -> str:
        """Short name; equal for equal code."""
        if not self.commit:
            return f"v{self.version}+{self.package_sha256[:8]}"
        return self.commit[:12] + (f"+{self.diff_sha256[:8]}" if self.dirty else "")


@functools.cache
def code_here() -> Code:
    """The code of this process, as it was when this function was first called."""
    return code_of(package_folder())


def check_unchanged() -> None:
    """Check that the package's files are those that this process has started with.

    Called after modules were imported: they are then the modules that were hashed.

    Raises:
        OtherCode: a file was changed, added or removed.
    """
    here = code_here()
    if package_hash(package_folder()) != here.package_sha256:
        raise OtherCode(
            f"the files in {package_folder()} have changed since this process started with chinchilla "
            f"{here.label}. Launch the sweep again."
        )


def check_same_code(launched: Code, sweep: str) -> None:
    """Check that this process runs the code that `sweep` was launched with.

    Raises:
        OtherCode: its package has other files.
    """
    here = code_here()
    if launched.package_sha256 != here.package_sha256:
        labels = [f"{c.label} (package {c.package_sha256[:8]})" for c in (launched, here)]
        raise OtherCode(
            f"{sweep} was launched with chinchilla {labels[0]}, and {package_folder()} is {labels[1]}. "
            "Launch the sweep again with this version, or start the worker from the other installation."
        )


def several_versions(labels: Iterable[str], here: str = "") -> str:
    """One sentence about the labels of the code that trained runs.

    "" if there is only one, and it is `here`, the label of this process's code, if that is given.
    """
    counts = Counter(filter(None, labels)).most_common()
    if len(counts) == 1 and here not in ("", counts[0][0]):
        return f"These runs were trained by another version of the code: {counts[0][0]}; this is {here}."
    if len(counts) < 2:
        return ""
    versions = ", ".join(f"{label} ({n} run{'' if n == 1 else 's'})" for label, n in counts)
    return f"These runs were trained by {len(counts)} versions of the code: {versions}."


def package_folder() -> Path:
    """The folder of the imported package."""
    return Path(chinchilla.__file__).parent


def package_hash(package: Path) -> str:
    """SHA-256 of the names and contents of the files of a package that have one of CODE_SUFFIXES.

    Other files (compiled modules, logs, copies that editors make), hidden ones, and configs/, which is in the
    package only if it was installed from a wheel, are not part of it: a worker needs none of them. It takes a
    few milliseconds.
    """
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(package):
        left_out = ("__pycache__", "configs" if folder == os.fspath(package) else "")
        folders[:] = sorted(f for f in folders if f not in left_out and not f.startswith("."))
        for name in sorted(f for f in files if not f.startswith(".") and f.endswith(CODE_SUFFIXES)):
            path = Path(folder, name)
            content = sha256_file(path)
            digest.update(f"{path.relative_to(package).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def code_of(package: Path) -> Code:
    """The code in the folder `package` and in configs/ beside it."""
    package_sha256 = package_hash(package)
    paths = [str(p) for p in (package, package.parent / "configs") if p.is_dir()]
    try:
        # Fails if the package is installed inside the checkout of another project.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD").decode().strip()
        plain = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")
        diff = _git(package, "diff", "HEAD", *plain, "--", *paths)
        listed = _git(package, "ls-files", "-oz", "--exclude-standard", "--full-name", *paths)
        names = (os.fsdecode(name) for name in listed.split(b"\0"))
        untracked = sorted(name for name in names if name.endswith((*CODE_SUFFIXES, ".yaml")))
        root = Path(_git(package, "rev-parse", "--show-toplevel").decode().strip())
        digest = hashlib.sha256(diff)
        for name in untracked:
            digest.update(os.fsencode(name) + b"\0")
            for block in read_blocks(root / name):
                digest.update(block)
    except (OSError, subprocess.SubprocessError):
        return Code(chinchilla.__version__, package_sha256=package_sha256)
    dirty = bool(diff or untracked)
    diff_sha256 = digest.hexdigest() if dirty else ""
    return Code(chinchilla.__version__, commit, dirty, diff_sha256, package_sha256)


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

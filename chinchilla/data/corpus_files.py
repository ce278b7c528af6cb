"""Find the files of a corpus: files, folders, and patterns such as books/*.txt or **/*.jsonl.zst.

Links are followed. What cannot be read is refused: broken links, folders without permission, Git LFS
pointers. What is not read is reported: files with other suffixes, files and folders that are found twice.
"""

import errno
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

from chinchilla.config import SourceConfig
from chinchilla.config.data import SUFFIXES
from chinchilla.core.errors import DataError
from chinchilla.core.files.reading import LFS_POINTER_BYTES, is_lfs_pointer, open_regular

MAX_NAMED = 3  # files in a message; the others are counted
FOUND_TWICE = "folder found twice"
FILE_FOUND_TWICE = "file found twice"
NOT_REGULAR = "not a regular file"


@dataclass
class Found:
    """The files of a source, and what was left out of its folders: reason -> paths."""

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def note(self) -> str:
        """One line on what was left out; empty if nothing was."""
        kinds = [f"{reason} ({_named(paths)})" for reason, paths in sorted(self.left_out.items())]
        return f"left out: {'; '.join(kinds)}." if kinds else ""


def corpus_files(source: SourceConfig) -> list[Path]:
    """The files of a source in a fixed order; none for a data set on the hub.

    For a local copy of a hub data set, all visible files, of which `datasets` may read only some.

    Raises:
        DataError: a path does not exist or cannot be read, or nothing matches a pattern or format.
    """
    return _find(source).files


def find_files(source: SourceConfig) -> Found:
    """The files of a source, and what was left out.

    Raises:
        DataError: as `corpus_files`; or files that are read are Git LFS pointers.
    """
    found = _find(source)
    if source.format == "hub" and found.files:
        _compare_with_read(source, found)
    else:
        refuse_lfs_pointers(found.files)
    return found


def _find(source: SourceConfig) -> Found:
    if source.format == "embedded":
        return Found([Path(str(resources.files("chinchilla.data") / "embedded" / "sotu.jsonl.xz"))])
    found = Found()
    for name in [source.hub_name] if source.format == "hub" else source.paths:
        path = Path(name).expanduser()
        try:
            if source.format != "hub":
                found.files += _at(path, source, found)
            elif path.is_dir():  # `datasets` ignores hidden files such as .git and .cache
                found.files = _walk(path, ("",), found, hidden=False)
        except OSError as error:
            raise DataError(f"{name} cannot be read ({error.strerror}).") from None
    if source.format != "hub":
        _keep_first(found)
    return found


def _keep_first(found: Found) -> None:
    """Keep each file once, under the path that was found first; paths may overlap."""
    first: dict[str, Path] = {}
    repeated = [
        path for path in found.files if first.setdefault(os.path.realpath(path), path) is not path
    ]
    found.files = list(first.values())
    read = set(found.files)
    for reason, paths in list(found.left_out.items()):  # a folder may have been searched twice
        found.left_out[reason] = [path for path in dict.fromkeys(paths) if path not in read]
        if not found.left_out[reason]:
            del found.left_out[reason]
    if repeated:
        found.left_out[FILE_FOUND_TWICE] = list(dict.fromkeys(repeated))


def _compare_with_read(source: SourceConfig, found: Found) -> None:
    """Check that `datasets` reads a local copy of a hub data set completely; note the files that it does not.

    It ignores linked folders. In a configuration, patterns choose the files, so they are not refused.

    Raises:
        DataError: files that are read are Git LFS pointers, or a linked folder is not read.
    """
    import datasets

    try:
        data_files = datasets.load_dataset_builder(**hub_settings(source)).config.data_files or {}
    except Exception:  # of many kinds; reading the documents raises it too, with advice
        return
    read = {Path(name).resolve() for name in data_files.get(source.hub_split, [])}
    refuse_lfs_pointers(sorted(path for path in read if path.is_file()))
    root = Path(source.hub_name, source.hub_dir)
    suffixes, linked = {path.suffix for path in read}, dict[Path, bool]()  # whether it is read
    for path in found.files:
        is_read = path.resolve() in read
        if not is_read:
            found.left_out[f"not read by datasets, *{_shown(path.suffix)}"].append(path)
        if path.is_relative_to(root) and path.suffix in suffixes:
            for name in path.relative_to(root).parents[:-1]:
                if (root / name).is_symlink():
                    linked[root / name] = linked.get(root / name, False) or is_read
    unread = [folder for folder, is_read in linked.items() if not is_read]
    if unread and not source.hub_config:
        raise DataError(
            f"{_named(unread)}: a link to a folder, which the library datasets does not read. Replace the link "
            f"by the folder, or set corpus.hub_dir={unread[0].relative_to(source.hub_name)}."
        )


def refuse_source_folder(data_dir: Path, sources: Iterable[SourceConfig]) -> None:
    """Refuse a folder for tokens that is a folder of the text, lies in one that is read, or contains one.

    A file that is named in corpus.paths may lie in the folder for tokens.

    Raises:
        DataError: naming both folders.
    """
    target = Path(os.path.realpath(data_dir))
    for source in sources:
        if source.format == "embedded":
            continue
        names = [source.hub_name] if source.format == "hub" else source.paths
        given = [Path(name).expanduser() for name in names]
        read = {path for path in given if path.is_dir()}
        read |= {Path(*p.parts[: p.parts.index("**")]) for p in given if "**" in p.parts}
        holds = {path.parent for path in _find(source).files if path not in given}
        for folder in sorted(read | holds):
            real = Path(os.path.realpath(folder))
            if real.is_relative_to(target) or (folder in read and target.is_relative_to(real)):
                raise DataError(
                    f"data_dir={data_dir} would put tokens beside the text that is read from {folder}. "
                    "Choose a data_dir outside of the text's folder that does not contain it."
                )


def hub_settings(source: SourceConfig) -> dict[str, Any]:
    """The arguments of `datasets.load_dataset` that choose a data set."""
    return {
        "path": source.hub_name,
        "name": source.hub_config or None,
        "data_dir": source.hub_dir or None,
        "revision": source.hub_revision or None,
    }


def refuse_lfs_pointers(files: Iterable[Path]) -> None:
    """Refuse files whose contents Git LFS has not fetched.

    Raises:
        DataError: naming the files.
    """
    pointers = [path for path in files if _is_pointer(path)]
    if pointers:
        raise DataError(
            f"{_named(pointers)}: Git LFS pointer in place of the data. Fetch the contents in that "
            "repository with: git lfs pull."
        )


def _is_pointer(path: Path) -> bool:
    try:
        if path.stat().st_size >= LFS_POINTER_BYTES:
            return False
        with open_regular(path) as file:
            return is_lfs_pointer(file.read(LFS_POINTER_BYTES))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None


def _at(path: Path, source: SourceConfig, found: Found) -> list[Path]:
    """The file itself, the files of the format in a folder, or those that match a pattern."""
    suffixes = SUFFIXES[source.format]
    if path.is_file():
        return [path]
    if path.is_dir():
        files = _walk(path, suffixes, found)
        if not files:
            raise DataError(f"folder {path} has no files named *{', *'.join(suffixes)}.")
        return files
    if path.exists():
        raise DataError(f"corpus.paths: {path} is not a regular file. Copy the text to one.")
    if path.is_symlink():
        raise _broken([path])
    first = next((i for i, part in enumerate(path.parts) if _is_pattern(part)), None)
    if first is None:
        advice = f" Create it with: {source.build_command}" if source.build_command else ""
        raise DataError(f"corpus.paths: {path} does not exist.{advice}")
    root, files = Path(*path.parts[:first]), []
    matches = _matches(root, path.parts[first:], found) if root.is_dir() else iter(())
    folders = []
    for match in sorted(set(matches)):
        if match.is_dir():
            folders.append(match)
            files += _walk(match, suffixes, found)
        else:
            files += _at(match, source, found)
    if not files and folders:
        raise DataError(
            f"corpus.paths: {path} matches only folders without files named *{', *'.join(suffixes)}: "
            f"{_named(folders)}. Check the pattern and corpus.format."
        )
    if not files:
        raise DataError(
            f"corpus.paths: nothing matches {path}. Check the pattern: * is any text without /, and ** "
            "any number of folders."
        )
    return files


def _is_pattern(part: str) -> bool:
    return any(character in part for character in "*?[")


def _matches(folder: Path, parts: tuple[str, ...], found: Found) -> Iterator[Path]:
    """Files and folders below `folder` that match a pattern, given as its parts between slashes."""
    part, rest = parts[0], parts[1:]
    if part == "**" and rest:
        for each, _ in _folders(folder, found, hidden=False):
            yield from _matches(each, rest, found)
    elif part == "**":
        yield folder
    else:
        for entry in _scan(folder):
            hidden = entry.name.startswith(".") and not part.startswith(".")
            if hidden or not fnmatchcase(entry.name, part):
                continue
            if entry.is_symlink() and not _exists(entry):
                raise _broken([Path(entry.path)])
            if not rest:
                yield Path(entry.path)
            elif entry.is_dir():
                yield from _matches(Path(entry.path), rest, found)


def _walk(root: Path, suffixes: tuple[str, ...], found: Found, hidden: bool = True) -> list[Path]:
    """The files below a folder that have one of the suffixes, sorted by name."""
    files = []
    for _, entries in _folders(root, found, hidden):
        for entry in entries:
            if not entry.is_file():
                found.left_out[NOT_REGULAR].append(Path(entry.path))
            elif entry.name.lower().endswith(suffixes):
                files.append(Path(entry.path))
            else:
                found.left_out[f"*{_shown(Path(entry.name).suffix)}"].append(Path(entry.path))
    return sorted(files)


def _folders(
    root: Path, found: Found, hidden: bool = True
) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """A folder and all below it, each once and with its entries that are not folders.

    Linked folders come last, so that a folder is found under its own name before its links.

    Raises:
        DataError: a folder cannot be read, or has broken links.
    """
    seen: set[tuple[int, int]] = set()
    folders, linked = [root], list[Path]()
    while folders or linked:
        folder = (folders or linked).pop()
        stat = folder.stat()
        if (stat.st_dev, stat.st_ino) in seen:  # also a link to a folder above it
            found.left_out[FOUND_TWICE].append(folder)
            continue
        seen.add((stat.st_dev, stat.st_ino))
        others, broken = [], []
        for entry in _scan(folder):
            if entry.name.startswith(".") and not hidden:
                continue
            if entry.is_symlink() and not _exists(entry):
                broken.append(Path(entry.path))
            elif entry.is_dir():
                (linked if entry.is_symlink() else folders).append(Path(entry.path))
            else:
                others.append(entry)
        if broken:
            raise _broken(broken)
        yield folder, others


def _exists(entry: os.DirEntry[str]) -> bool:
    """Whether the target of a link exists."""
    try:
        entry.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return False
    return True


def _is_loop(link: Path) -> bool:
    try:
        os.stat(link)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _broken(links: list[Path]) -> DataError:
    if loops := [link for link in links if _is_loop(link)]:
        return DataError(f"{_named(loops)}: a link to itself (loop). Remove the link.")
    return DataError(
        f"{_named(links)}: a link to a file that does not exist. Restore the file (of git-annex: git annex "
        "get), or remove the link."
    )


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"folder {folder} cannot be read ({error.strerror}). Ask for permission, or give the paths "
            "of other files and folders."
        ) from None


def _named(paths: list[Path]) -> str:
    """`a, b, c and 7 more`."""
    more = f" and {len(paths) - MAX_NAMED:,} more" if len(paths) > MAX_NAMED else ""
    return ", ".join(_shown(str(path)) for path in paths[:MAX_NAMED]) + more


def _shown(name: str) -> str:
    """A name that can be printed, also if it is not UTF-8 on disk."""
    return name.encode("utf-8", "backslashreplace").decode()

"""Move a finished preparation into its token folder, without overwriting files of anyone else.

A preparation is built in `.chinchilla-work` inside the folder. Once it has a manifest there, it is
complete, and `install` moves its files into place, the manifest last. An interrupted `install` is
repeated by the next command. The files of a folder that may be replaced are those that its manifest
names: damaged data, which stays until its replacement is complete.
"""

import os
import re
import shutil
from pathlib import Path

from chinchilla.config import DataCommand, TokenizerConfig
from chinchilla.core.errors import DataError, InputError
from chinchilla.core.files import fsync_dir
from chinchilla.data.data_card import CARD, CARD_JSON, overlap_reports
from chinchilla.data.manifest import MANIFEST, SPLITS, Manifest
from chinchilla.data.tokenizer import Tokenizer

TOKENIZER_FILE = "tokenizer.model"


def install(work: Path, data_dir: Path) -> None:
    """Move the files of the finished preparation in `work` to `data_dir`, and delete `work`.

    Raises:
        InputError: a file that neither preparation wrote is in the way.
    """
    new = Manifest.load(work)
    old = Manifest.load(data_dir) if (data_dir / MANIFEST).exists() else None
    same_tokenizer = _same_bytes(data_dir / TOKENIZER_FILE, work / TOKENIZER_FILE)
    stay = [TOKENIZER_FILE] if same_tokenizer else []
    replaceable = [name for name in _own_files(old, data_dir) if name not in stay]
    # A file that is not in `work` was moved before an interruption.
    waiting = [
        name
        for name in (CARD, CARD_JSON, TOKENIZER_FILE, *new.shard_files)
        if name not in stay and (work / name).exists()
    ]
    in_the_way = [
        name for name in waiting if name not in replaceable and os.path.lexists(data_dir / name)
    ]
    if in_the_way:
        raise _refusal(data_dir, in_the_way)
    if old:
        _remove_damaged(old, replaceable, data_dir, new.data_id)
    for name in waiting:
        os.replace(work / name, data_dir / name)
    fsync_dir(data_dir)
    os.replace(work / MANIFEST, data_dir / MANIFEST)
    fsync_dir(data_dir)
    shutil.rmtree(work, ignore_errors=True)


def _remove_damaged(old: Manifest, files: list[str], data_dir: Path, new_id: str) -> None:
    """Remove damaged data, its manifest last, and reports about tokens that are gone."""
    for name in files:
        (data_dir / name).unlink(missing_ok=True)
    for path, report in overlap_reports(data_dir):
        if report["data_id"] == old.data_id != new_id:
            path.unlink()
    fsync_dir(data_dir)
    (data_dir / MANIFEST).unlink()
    fsync_dir(data_dir)


def _own_files(manifest: Manifest | None, data_dir: Path) -> list[str]:
    """Files of a folder that a preparation wrote; a tokenizer that was given is not among them."""
    if manifest is None:
        return []
    for name in manifest.shard_files:
        if not re.fullmatch(r"[\w.-]+\.bin", name):
            raise DataError(f"{data_dir / MANIFEST}: {name!r} is not the name of a shard.")
    trained = manifest.tokenizer.algorithm != "given"
    return [CARD, CARD_JSON, *([TOKENIZER_FILE] if trained else []), *manifest.shard_files]


def refuse_foreign_files(command: DataCommand, data_dir: Path, old: Manifest | None) -> None:
    """Stop, before any text is read, if the folder has files that would be overwritten.

    Args:
        command: what is to be prepared.
        data_dir: the token folder.
        old: manifest of the damaged data in the folder, if there is any.

    Raises:
        InputError: names the files.
    """
    replaceable = _own_files(old, data_dir)
    sources = command.corpus.each()
    suffix = (
        "|".join(f"-{re.escape(source.name)}" for source in sources) if len(sources) > 1 else ""
    )
    shard = re.compile(rf"({'|'.join(SPLITS)})({suffix})-\d{{5,}}\.bin")
    foreign = [
        name
        for name in sorted(os.listdir(data_dir))
        if (name in (CARD, CARD_JSON) or shard.fullmatch(name)) and name not in replaceable
    ]
    foreign += [
        path.name
        for path, report in overlap_reports(data_dir)
        if old is None or report["data_id"] != old.data_id
    ]
    if foreign:
        raise _refusal(data_dir, foreign)
    if TOKENIZER_FILE not in replaceable:
        refuse_other_tokenizer(command.tokenizer, data_dir)


def _refusal(data_dir: Path, names: list[str]) -> InputError:
    listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return InputError(
        f"data_dir={data_dir} has files that would be overwritten and that no {MANIFEST} there names: "
        f"{listed}. Move them away, or choose another data_dir."
    )


def refuse_other_tokenizer(
    config: TokenizerConfig, data_dir: Path, trained: Tokenizer | None = None
) -> None:
    """Stop if the folder has a tokenizer that these settings do not give.

    Before training, a tokenizer with the right number of pieces is accepted.

    Raises:
        InputError: it is another tokenizer, which would be overwritten.
    """
    existing = data_dir / TOKENIZER_FILE
    if not os.path.lexists(existing):
        return
    expected = Tokenizer.load(Path(config.model).expanduser()) if config.model else trained
    try:
        tokenizer = Tokenizer.load(existing)
        if expected:
            same = tokenizer.sha256 == expected.sha256
        else:
            same = tokenizer.vocab_size == config.vocab_size
    except DataError:
        same = False
    if not same:
        raise InputError(
            f"{existing} is another tokenizer than these settings give, and would be overwritten. Use "
            f"it (tokenizer.model={existing}), move it away, or choose another data_dir."
        )


def _same_bytes(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()

"""Which files of a token folder are ours: only those are ever replaced or removed.

Ours are those that a manifest names and, in a folder without one, those that
`.chinchilla-work/placed.json` names: the shards and cards that a preparation had begun to put into their
places. The list is on the disk before the first of them moves. Damaged data stays until all of it is
made anew. Anything else that a preparation would write over stops it before it reads.
"""

import contextlib
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from chinchilla.config import DataCommand
from chinchilla.core.errors import DataError, InputError
from chinchilla.core.files import fsync_dir, read_json, write_json
from chinchilla.core.json_codec import built
from chinchilla.data.data_card import CARD, CARD_JSON, overlap_files
from chinchilla.data.manifest import MANIFEST, SPLITS, Manifest
from chinchilla.data.prepare.stages import TOKENIZER_FILE
from chinchilla.data.tokenizer import Tokenizer

PLACED = "placed.json"
REPLACED = "replaced.json"  # files of damaged data, while they give way to those made anew


@dataclass(frozen=True)
class Placed:
    """Files of one preparation in their places, or on their way there."""

    data_id: str = ""
    files: list[str] = field(default_factory=list)  # names inside the token folder

    def __post_init__(self) -> None:
        for name in self.files:
            if not re.fullmatch(r"[\w.-]+\.(bin|model|md|json)", name):
                raise InputError(f"{name!r} is no name of a shard, tokenizer or card.")

    @staticmethod
    def of(manifest: Manifest, tokenizer: bool) -> "Placed":
        """The files of a manifest; its tokenizer too, where that is not the person's own."""
        model = [manifest.tokenizer.file] if tokenizer else []
        return Placed(manifest.data_id, [CARD, CARD_JSON, *model, *shard_files(manifest)])

    @staticmethod
    def load(work: Path, name: str = PLACED) -> "Placed":
        """The list in a working folder; an empty one where there is none that can be read."""
        try:
            found: Placed = built(Placed, read_json(work / name, "placed"), name)
        except InputError:
            return Placed()
        return found

    def save(self, work: Path, name: str = PLACED) -> None:
        """Put the list into the working folder in one step."""
        work.mkdir(exist_ok=True)
        write_json(work / name, asdict(self))

    def without(self, name: str) -> "Placed":
        """The list without one of its files."""
        return replace(self, files=[file for file in self.files if file != name])

    def take_back(self, data_dir: Path, work: Path) -> None:
        """Shards and tokenizer back into the working folder; cards go."""
        for name in self.files:
            if name in (CARD, CARD_JSON):
                (data_dir / name).unlink(missing_ok=True)
                continue
            with contextlib.suppress(FileNotFoundError):
                os.replace(data_dir / name, work / name)
        if self.files:
            Placed(self.data_id).save(work)

    def remove(self, data_dir: Path, keep: str) -> None:
        """Delete them all, and what was measured on these tokens unless their data_id is `keep`."""
        for name in self.files:
            (data_dir / name).unlink(missing_ok=True)
        self.remove_reports(data_dir, keep)

    def remove_reports(self, data_dir: Path, keep: str) -> None:
        """Delete what was measured on these tokens unless their data_id is `keep`."""
        for path, told in overlap_files(data_dir):
            if told["data_id"] == self.data_id != keep:
                path.unlink()


def make_room(damaged: Placed, data_dir: Path, work: Path, data_id: str) -> None:
    """Remove damaged data, now that all of it is made anew in `work`.

    Args:
        damaged: its files.
        data_dir: where they and their manifest are.
        work: the working folder.
        data_id: of the tokens made anew; if it is the same, what was measured on them stays.
    """
    Placed(data_id).save(work)
    damaged.save(work, REPLACED)
    (data_dir / MANIFEST).unlink()
    finish_removing(data_dir, work)


def finish_removing(data_dir: Path, work: Path, spare: str = "") -> None:
    """What `make_room` had begun, but for the file `spare`; `data_dir` has no manifest any more."""
    if (work / REPLACED).exists():
        Placed.load(work, REPLACED).without(spare).remove(data_dir, Placed.load(work).data_id)
        fsync_dir(data_dir)
        (work / REPLACED).unlink()


def given_here(command: DataCommand, data_dir: Path) -> str:
    """Name of the folder's tokenizer where it is the one that was given: then it is not ours."""
    model = command.tokenizer.model
    there = data_dir / TOKENIZER_FILE
    same = bool(model) and Path(model).expanduser().resolve() == there.resolve()
    return TOKENIZER_FILE if same else ""


def shard_files(manifest: Manifest) -> list[str]:
    """Names of all shards."""
    return [shard.file for split in manifest.splits.values() for shard in split.shards]


def refuse_others(command: DataCommand, data_dir: Path, ours: Placed) -> None:
    """Stop before anything is read if the folder holds files that would be written over.

    Raises:
        InputError: naming them.
    """
    sources = command.corpus.each()
    named = "|".join(f"-{re.escape(source.name)}" for source in sources) if len(sources) > 1 else ""
    shard = re.compile(rf"({'|'.join(SPLITS)})({named})-\d{{5,}}\.bin")
    found = [
        name
        for name in sorted(os.listdir(data_dir))
        if (name in (CARD, CARD_JSON) or shard.fullmatch(name)) and name not in ours.files
    ]
    found += [
        path.name for path, told in overlap_files(data_dir) if told["data_id"] != ours.data_id
    ]
    if found:
        listed = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
        raise InputError(
            f"data_dir={data_dir} has no {MANIFEST} that names {listed}, which preparing would write "
            "over. Move what is there away, or choose another data_dir."
        )
    if TOKENIZER_FILE not in ours.files:
        refuse_another_size(command, data_dir / TOKENIZER_FILE)


def refuse_another_size(command: DataCommand, there: Path) -> None:
    """Stop for a tokenizer that cannot be the one asked for, as far as can be told before training.

    Raises:
        InputError: there is one.
    """
    if not os.path.lexists(there):
        return
    if command.tokenizer.model:
        given = Path(command.tokenizer.model).expanduser()
        refuse_another_model(there, Tokenizer.load(given).model)
        return
    try:
        same = Tokenizer.load(there).vocab_size == command.tokenizer.vocab_size
    except DataError:
        same = False
    if not same:
        raise _another_model(there)


def refuse_another_model(there: Path, model: bytes) -> None:
    """Stop before a tokenizer is replaced by one with other bytes.

    Raises:
        InputError: there is one.
    """
    if os.path.lexists(there) and (not there.is_file() or there.read_bytes() != model):
        raise _another_model(there)


def _another_model(there: Path) -> InputError:
    return InputError(
        f"{there} is another tokenizer than these settings give, and would be lost. Use it "
        f"(tokenizer.model={there}), move it away, or choose another data_dir."
    )

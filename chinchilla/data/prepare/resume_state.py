"""How far a preparation has come: `state.json` in its working folder, from which it goes on.

Whatever was written after the state is cut off again, so that going on gives the bytes that never
having stopped would have given. A state that is damaged, of other settings, of other text or of another
version of this package is as none.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import chinchilla
from chinchilla.config import DataCommand
from chinchilla.core.errors import InputError
from chinchilla.core.files import read_json, write_json
from chinchilla.core.json_codec import built
from chinchilla.data.manifest import Split
from chinchilla.data.prepare.fingerprint import settings_of
from chinchilla.data.prepare.shuffle_dedup import SpoolState

STATE = "state.json"


@dataclass
class Unfinished:
    """What is on the disk for good.

    Attributes:
        asked: digest of the settings and of the text.
        spool: the documents.
        source, documents: which source is being read, and how many documents of it were; the number
            of sources once all are read.
        distinct: of the buckets whose signatures are there, how many documents each has (dedup=near).
        tokenizer: sha256 of the tokenizer, once there is one.
        left_out: of the buckets that are tokens, what was left out, by source and reason.
        written: `source/split` -> its tokens.
    """

    asked: str
    spool: SpoolState = field(default_factory=SpoolState)
    source: int = 0
    documents: int = 0
    distinct: list[int] = field(default_factory=list)
    tokenizer: str = ""
    left_out: list[list[dict[str, int]]] = field(default_factory=list)
    written: dict[str, Split] = field(default_factory=dict)

    def save(self, work: Path) -> None:
        """Put the state into the working folder in one step."""
        write_json(work / STATE, asdict(self))

    @staticmethod
    def load(work: Path, asked: str) -> "Unfinished | None":
        """The state in a working folder, if it is of what is asked for now."""
        try:
            found: Unfinished = built(Unfinished, read_json(work / STATE, "state"), STATE)
        except (InputError, OSError, TypeError, KeyError):
            return None
        return found if found.asked == asked else None


def digest_of(command: DataCommand, files: list[dict[str, Any]]) -> str:
    """What an unfinished preparation has to agree with to be gone on with."""
    texts = [[file.get("source"), file["sha256"]] for file in files]
    asked = [chinchilla.__version__, settings_of(command), texts]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

"""JSON records that contain a hash of their own content.

`sealed` adds the key "sha256", a hash of everything else in the record, and `unsealed` checks it. A
changed bit of such a file is therefore an error, or changes only how the same content is written
(white space, the case of an exponent).
"""

import hashlib
import json
from typing import Any

from chinchilla.core.errors import InputError

KEY = "sha256"
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


class DamagedRecord(InputError):
    """A record that is not what chinchilla wrote, or that does not belong to the records beside it.

    Attributes:
        problem: what is wrong with it, without its path.
        remedy: what to do, one or more sentences.
    """

    def __init__(self, where: str, problem: str, remedy: str = "") -> None:
        super().__init__(f"{where} {problem}.{f' {remedy}' if remedy else ''}")
        self.where, self.problem, self.remedy = where, problem, remedy


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON value, hexadecimal; white space and the order of keys do not matter."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """A record with its hash, to be written as JSON."""
    return {**value, KEY: content_hash(value)}


def unsealed(value: Any, where: str, schema: int | None = None) -> dict[str, Any]:
    """A record as read from JSON, without its hash, which is checked.

    Args:
        value: parsed JSON.
        where: the file, for error messages.
        schema: of this version. A record of another schema and without a hash is returned as it is:
            earlier versions wrote none, and `json_codec.check_fields` names the schema.

    Raises:
        DamagedRecord: not an object, without a hash, or with another content than was hashed.
    """
    if not isinstance(value, dict):
        raise DamagedRecord(where, "is damaged: it is not a JSON object")
    if KEY not in value:
        if type(value.get("schema")) is int and value["schema"] != schema:
            return value
        raise DamagedRecord(where, f"is damaged: it has no {KEY} of its content")
    content = {k: x for k, x in value.items() if k != KEY}
    if content_hash(content) != value[KEY]:
        raise DamagedRecord(where, f"is damaged: its content is not that of its {KEY}")
    return content

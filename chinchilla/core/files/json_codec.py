"""Decode JSON into dataclasses: exactly the fields of the class, every value of its annotated type."""

import dataclasses
import functools
import json
import sys
import types
import typing
from typing import Any

from chinchilla.core.errors import InputError


class OtherVersion(InputError):
    """A record that another version of chinchilla wrote."""


IN_MEMORY = {"stored": False}  # metadata of a field that is not saved
_EXPECTED = {  # types in error messages
    list: "a list", tuple: "a list", dict: "an object", float: "a finite number",
    int: "a whole number", str: "text", bool: "true or false",
}  # fmt: skip
_LARGEST = {int: 10**40 - 1, float: sys.float_info.max}


@functools.cache
def field_names(cls: type) -> tuple[dict[str, None], frozenset[str]]:
    """Names of the saved fields of a dataclass in order, and of those without a default."""
    fields = [f for f in dataclasses.fields(cls) if f.metadata.get("stored", True)]
    missing = dataclasses.MISSING
    required = (f.name for f in fields if f.default is missing and f.default_factory is missing)
    return {f.name: None for f in fields}, frozenset(required)


def check_fields(value: Any, cls: type, where: str, schema: int | None = None) -> dict[str, Any]:
    """Check that `value` is a JSON object with the fields of `cls` and the given schema number.

    Returns:
        `value`.

    Raises:
        OtherVersion: of another schema.
        InputError: naming the file and what differs.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a {cls.__name__} (a JSON object was expected).")
    if schema is not None and "schema" not in value:
        raise InputError(
            f"{where} states no schema, so chinchilla did not write it. Restore the file, or create it again."
        )
    if schema is not None and value.get("schema") != schema:
        raise OtherVersion(
            f"{where}: {cls.__name__} of schema {value.get('schema')!r}; this version reads schema {schema}. "
            "Use the version of chinchilla that wrote it, or a new folder."
        )
    known, required = field_names(cls)
    if differences := sorted(required - value.keys()) + sorted(value.keys() - known.keys()):
        raise InputError(
            f"{where}: not a {cls.__name__}: {', '.join(differences)} missing or unknown. Restore the file, "
            "or create it again."
        )
    return value


def decode(cls: Any, value: Any, where: str, schema: int | None = None) -> Any:
    """Make an instance of `cls`, and of the dataclasses in it, from JSON.

    Args:
        cls: a dataclass, or any type that its fields are annotated with.
        value: parsed JSON.
        where: file and field, for error messages.
        schema: the required schema number of a dataclass; None if it has none.

    Raises:
        InputError: fields missing or unknown, values of another type, or numbers that are not
            finite.
    """
    if _is_plain(cls, value):
        return value
    if dataclasses.is_dataclass(cls):
        check_fields(value, typing.cast(type, cls), where, schema)
        hints = _type_hints(typing.cast(type, cls))
        fields = {  # a plain value needs no name for messages, which would take half the time
            name: x if _is_plain(hints[name], x) else decode(hints[name], x, f"{where}: {name}")
            for name, x in value.items()
        }
        try:
            return typing.cast(Any, cls)(**fields)
        except InputError as error:  # of the dataclass itself, without the name of the file
            raise InputError(f"{where}: {error}") from None
    origin, args = typing.get_origin(cls), typing.get_args(cls)
    if origin in (typing.Union, types.UnionType):  # only X | None occurs
        [inner] = (arg for arg in args if arg is not type(None))
        return None if value is None else decode(inner, value, where)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return origin(decode(args[0], x, where) for x in value)
    if origin is dict and isinstance(value, dict):
        return {
            name: x if _is_plain(args[1], x) else decode(args[1], x, f"{where}.{name}")
            for name, x in value.items()
        }
    raise InputError(
        f"{where} must be {_EXPECTED[origin or cls]}, and is {json.dumps(value)[:40]}."
    )


def _is_plain(cls: Any, value: Any) -> bool:
    """Whether a value of text, a number, true or false is valid for `cls`."""
    kind = type(value)
    if cls is float or cls is int:
        return (kind is cls or kind is int) and abs(value) <= _LARGEST[cls]
    return cls is Any or (kind is cls and (cls is str or cls is bool))


_type_hints = functools.cache(typing.get_type_hints)

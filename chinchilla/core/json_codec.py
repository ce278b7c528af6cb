"""Records out of JSON that somebody may have edited: every field there, and every value of its type.

`checked` looks at a record's outline, `built` makes it and the records in it, and both say in which
file what differs. Floor 0: the standard library only.
"""

import dataclasses
import functools
import json
import math
import types
import typing
from typing import Any

from chinchilla.core.errors import InputError


def checked(value: Any, cls: type, schema: int | None, where: str) -> dict[str, Any]:
    """`value` if it is a record of `cls`: an object, of this schema, with exactly its fields.

    Raises:
        InputError: saying in which file what differs.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a {cls.__name__} (a JSON object was expected).")
    if schema is not None and value.get("schema") != schema:
        raise InputError(
            f"{where}: {cls.__name__} of schema {value.get('schema')!r}; this version reads schema {schema}. "
            "Use the version of chinchilla that wrote it, or a new folder."
        )
    known, required = fields_of(cls)
    if (missing := required - value.keys()) or value.keys() - known.keys():
        differs = sorted(missing) + sorted(value.keys() - known.keys())
        raise InputError(f"{where}: not a {cls.__name__}: {', '.join(differs)} missing or unknown.")
    return value


IN_MEMORY = {"stored": False}  # metadata of a field that no file holds


def stored_fields(record: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass, or of an instance of one, that its file holds."""
    return [f for f in dataclasses.fields(record) if f.metadata.get("stored", True)]


@functools.cache
def fields_of(cls: type) -> tuple[dict[str, None], frozenset[str]]:
    """Names of a dataclass's stored fields in their order, and those without a default."""
    fields = stored_fields(cls)
    required = (
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    return {f.name: None for f in fields}, frozenset(required)


def built(cls: Any, value: Any, where: str) -> Any:
    """A record of `cls`, and of the records in it, from JSON, every value of the type it should have.

    Args:
        cls: a dataclass, or any type that its fields are annotated with.
        value: what JSON gave.
        where: names file and field in errors.

    Raises:
        InputError: fields missing or unknown, values of another type, numbers that are not finite.
    """
    origin, args = _parts(cls)
    if cls is Any:
        return value
    if dataclasses.is_dataclass(cls):
        given = checked(value, typing.cast(type, cls), None, where)
        hints = _hints(typing.cast(Any, cls))
        values = {
            name: x if _fits(hints[name], x) else built(hints[name], x, f"{where}: {name}")
            for name, x in given.items()
        }
        try:
            return typing.cast(Any, cls)(**values)
        except InputError as error:  # of the record itself, which does not know where it stands
            raise InputError(f"{where}: {error}") from None
    if origin in (typing.Union, types.UnionType):  # only X | None occurs
        (inner,) = (arg for arg in args if arg is not type(None))
        return None if value is None else built(inner, value, where)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return origin(built(args[0], x, where) for x in value)
    if origin is dict and isinstance(value, dict):
        return {name: built(args[1], x, f"{where}.{name}") for name, x in value.items()}
    if origin is None and _fits(cls, value):
        return value
    if cls is float and type(value) is int and abs(value) < 10**300:
        return value
    kind = {list: "a list", tuple: "a list", dict: "an object", float: "a finite number",
            int: "a whole number", str: "text", bool: "true or false"}[origin or cls]  # fmt: skip
    raise InputError(f"{where} must be {kind}, and is {json.dumps(value)[:40]}.")


_hints = functools.cache(typing.get_type_hints)


@functools.cache
def _parts(cls: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(cls), typing.get_args(cls)


def _fits(cls: Any, value: Any) -> bool:
    """Whether `value` is of a plain type `cls` as it stands; numbers must be within bounds."""
    if type(value) is not cls:
        return False
    if cls is float:
        return math.isfinite(value)
    return cls in (str, bool) or (cls is int and abs(value) < 10**40)

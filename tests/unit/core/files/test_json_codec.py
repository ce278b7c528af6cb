"""JSON is decoded into dataclasses with the annotated types only."""

from dataclasses import asdict, dataclass, field

import pytest

from chinchilla.core.errors import InputError
from chinchilla.core.files.json_codec import IN_MEMORY, decode


@dataclass(frozen=True)
class Inner:
    x: float

    def __post_init__(self) -> None:
        if self.x < 0:
            raise InputError("x is negative.")


@dataclass(frozen=True)
class Outer:
    name: str
    n: int
    inner: Inner
    maybe: Inner | None = None
    pairs: tuple[float, ...] = ()
    by_name: dict[str, int] = field(default_factory=dict)
    cache: object = field(default=None, metadata=IN_MEMORY)
    schema: int = 3


VALID = {"name": "a", "n": 2, "inner": {"x": 1.5}, "schema": 3}


def test_round_trip():
    record = Outer("a", 2, Inner(1.5), Inner(2.0), (1.0, 2.0), {"b": 3})
    value = asdict(record)
    del value["cache"]
    assert decode(Outer, value, "f.json", schema=3) == record
    assert decode(Outer, VALID, "f.json", schema=3) == Outer("a", 2, Inner(1.5))


def test_an_integer_is_a_valid_float():
    assert decode(Inner, {"x": 1}, "f.json") == Inner(1)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 2}, "f.json: Outer of schema 2; this version reads schema 3"),
        ({"extra": 1}, "f.json: not a Outer: extra missing or unknown"),
        ({"cache": 1}, "cache missing or unknown"),
        ({"n": True}, "f.json: n must be a whole number, and is true"),
        ({"n": 2.0}, "n must be a whole number"),
        ({"n": 10**40}, "n must be a whole number"),
        ({"name": None}, "name must be text, and is null"),
        ({"inner": {"x": float("nan")}}, "f.json: inner: x must be a finite number"),
        ({"inner": {"x": "1"}}, "inner: x must be a finite number"),
        ({"inner": {"x": -1.0}}, "f.json: inner: x is negative"),
        ({"inner": None}, "f.json: inner: not a Inner"),
        ({"maybe": 3}, "maybe: not a Inner"),
        ({"pairs": 3}, "pairs must be a list"),
        ({"pairs": [1.0, "2"]}, "pairs must be a finite number"),
        ({"by_name": {"b": 1.5}}, "by_name.b must be a whole number"),
        ({"by_name": [1]}, "by_name must be an object"),
    ],
    ids=str,
)
def test_other_values_are_refused_by_file_and_field(change, problem):
    with pytest.raises(InputError, match=problem):
        decode(Outer, VALID | change, "f.json", schema=3)


@pytest.mark.parametrize("value", [None, 3, "text", [VALID]])
def test_what_is_not_an_object_is_refused(value):
    with pytest.raises(InputError, match=r"f.json: not a Outer \(a JSON object was expected\)"):
        decode(Outer, value, "f.json")

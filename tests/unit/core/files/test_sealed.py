"""Records with a hash of their content: a changed bit is an error or changes nothing."""

import json

import pytest

from chinchilla.core.errors import InputError
from chinchilla.core.files.sealed import DamagedRecord, sealed, unsealed

VALUE = {
    "name": "a\u00e9\x0b",
    "loss": 3.0625e-7,
    "whole": -0.0,
    "n": 12,
    "none": None,
    "yes": True,
    "of": {"b": [1, 2.5], "a": {}},
    "schema": 3,
}


def test_a_record_survives_json_and_its_hash_ignores_how_it_is_written():
    written = sealed(VALUE)
    for text in (
        json.dumps(written),
        json.dumps(written, indent=4, ensure_ascii=False),
        json.dumps(dict(reversed(written.items())), separators=(",", ":")),
    ):
        assert unsealed(json.loads(text), "here") == VALUE


def test_every_flipped_bit_is_found_or_changes_nothing():
    text = json.dumps(sealed(VALUE), indent=1).encode()
    n_found = 0
    for i in range(len(text)):
        for bit in range(8):
            flipped = text[:i] + bytes([text[i] ^ 1 << bit]) + text[i + 1 :]
            try:
                value = unsealed(json.loads(flipped), "here", schema=3)
                assert repr(value) == repr(VALUE), flipped
            except (ValueError, UnicodeDecodeError):  # an InputError is a ValueError
                n_found += 1
    assert n_found > 7 * len(text)


@pytest.mark.parametrize("value", [None, [], "text", 3], ids=str)
def test_what_is_no_object_is_refused(value):
    with pytest.raises(DamagedRecord, match=r"^here is damaged: it is not a JSON object"):
        unsealed(value, "here")


def test_a_record_without_a_hash_is_damaged_unless_an_older_version_wrote_it():
    with pytest.raises(DamagedRecord, match=r"^here is damaged: it has no sha256"):
        unsealed(VALUE, "here", schema=3)
    with pytest.raises(DamagedRecord):
        unsealed({**VALUE, "schema": "3"}, "here", schema=3)
    assert unsealed(VALUE, "here", schema=4) == VALUE, "its schema is refused by `check_fields`"
    damaged = {**sealed(VALUE), "schema": 2}
    with pytest.raises(DamagedRecord):
        unsealed(damaged, "here", schema=3)


def test_an_error_states_the_file_the_problem_and_the_remedy():
    error = DamagedRecord("a.json", "is damaged", "Restore it.")
    assert str(error) == "a.json is damaged. Restore it."
    assert str(DamagedRecord("a.json", "is damaged")) == "a.json is damaged."
    assert (error.problem, error.remedy) == ("is damaged", "Restore it.")
    assert isinstance(error, InputError)

"""Reading files that may be damaged, missing or outside of their folder."""

import pytest

from chinchilla.core.errors import InputError
from chinchilla.core.files import write_json
from chinchilla.core.reading import inside, read_json, sha256_file


def test_json_round_trip(tmp_path):
    value = {"a": [1, 2.5e-300, None, "ä\u2028"], "b": {}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json", "thing") == value


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}}', b"\xff\xfe"])
def test_invalid_json_is_reported_with_its_path(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"thing: {path} cannot be read"):
        read_json(path, "thing")


def test_a_missing_file_and_a_folder_are_reported_with_their_path(tmp_path):
    with pytest.raises(InputError, match=r"thing: .*none.json does not exist"):
        read_json(tmp_path / "none.json", "thing")
    with pytest.raises(InputError, match=r"thing: .* cannot be read .*directory"):
        read_json(tmp_path, "thing")


def test_sha256_of_more_than_one_block(tmp_path):
    path = tmp_path / "b"
    path.write_bytes(b"a" * 1_000_000 + b"b" * 1_000_000)
    # sha256sum of the same bytes
    assert sha256_file(path) == "af1d4dc65b0fc058024a01f569b02a5ae351de9a8f9ea052a52c135d920c3e07"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ".", "", "out/x"])
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "out").symlink_to(tmp_path)
    with pytest.raises(InputError, match="points outside of"):
        inside(tmp_path / "folder", name)
    assert inside(tmp_path / "folder", "a/b") == tmp_path / "folder" / "a" / "b"


@pytest.mark.parametrize("content", [b"[" * 100_000, b"9" * 5_000])
def test_json_beyond_the_limits_of_python_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path / "x.json", "thing")

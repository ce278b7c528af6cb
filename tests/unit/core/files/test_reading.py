"""Reading files that may be damaged, missing or outside of their folder."""

import os
import re
from pathlib import Path

import pytest
from special_files import at_most, put_special

import chinchilla
from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import (
    inside,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    read_lines,
    read_tail,
    sha256_file,
)
from chinchilla.core.files.writing import write_json


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


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("FIFO", "it is a FIFO, and only regular files are read"),
        ("device", "it is a device, and"),
        ("terminal", "it is a device, and"),
        ("socket", "it is a socket, and"),
        ("directory", "Is a directory"),
        ("link to nothing", "is a link to nothing, which does not exist"),
        ("link to itself", "Too many levels of symbolic links"),
    ],
)
def test_what_is_not_a_regular_file_is_named_and_not_opened(tmp_path, kind, reason):
    put_special(kind, tmp_path / "x.json")
    with at_most(5), pytest.raises(InputError, match=f"thing: .*x.json.*{reason}"):
        read_json(tmp_path / "x.json", "thing")
    for read in (open_regular, read_bytes, sha256_file, lambda path: next(read_lines(path))):
        with pytest.raises(OSError):
            read(tmp_path / "x.json")


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"contents")
    (tmp_path / "link").symlink_to("x")
    assert read_bytes(tmp_path / "link") == b"contents"


def test_a_file_that_is_replaced_by_a_fifo_between_look_and_open_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "x")
    (tmp_path / "file").touch()
    about = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda path: about)
    with pytest.raises(OSError, match="FIFO"):
        open_regular(tmp_path / "x")


def test_a_file_over_its_limit_is_refused_with_both_sizes(tmp_path):
    with open(tmp_path / "x", "wb") as f:
        f.truncate(10**12)  # takes no space
    with pytest.raises(OSError, match=r"1,000,000.0 MB; files of its kind have at most 64.0 MB"):
        read_bytes(tmp_path / "x")
    with pytest.raises(InputError, match=r"at most 4\.0 MB"):
        read_json(tmp_path / "x", "thing")
    with pytest.raises(OSError, match=r"a line of over 1\.0 MB"):
        next(read_lines(tmp_path / "x"))


def test_lines_are_counted_to_a_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"ab\n" * 4)
    assert list(read_lines(tmp_path / "x", limit=12)) == [b"ab\n"] * 4
    with pytest.raises(OSError, match="at most"):
        list(read_lines(tmp_path / "x", limit=11))


def test_the_tail_of_a_log(tmp_path):
    (tmp_path / "log").write_bytes(b"\xff" * 100 + "ä\n".encode())
    assert read_tail(tmp_path / "log", 3) == ("ä\n", True)
    assert read_tail(tmp_path / "log", 200)[1] is False


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": [{"c": 2, "c": 2}]}', "key 'c' occurs twice"),
        ("[NaN]", "NaN is not allowed"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "{}," * 3_000_000 + "{}]", "may take .* MB of memory"),
    ],
    ids=["duplicate key", "NaN", "nested", "large"],
)
def test_json_that_is_never_written_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


@pytest.mark.parametrize(
    "value",
    ["{},", "[],", '{"":0},', '{"":{}},', '{"":[0]},', "[0],", '"ab",', "1e9,", '"\U0001f600",', '"abcdefgh\U0001f600",'],
)  # fmt: skip
def test_memory_of_json_is_at_most_what_is_estimated(value):
    import tracemalloc

    text = ("[" + value * 20_000)[:-1] + "]"
    data = text.encode()
    with pytest.raises(ValueError) as refused:
        parse_json(data, memory=0)
    estimate = float(re.search(r"take ([\d,]+) MB", str(refused.value))[1].replace(",", ""))
    tracemalloc.start()
    parse_json(data)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert peak < estimate + 0.5
    assert estimate < 12 * peak


def test_no_other_module_opens_files_for_reading():
    """Of the exceptions, device.py and files.py read /proc."""
    raw = re.compile(
        r"\.read_(text|bytes)\(|\bnp\.(load|loadtxt|genfromtxt|memmap)\(|\bjson\.load\(|(?<![\w.])open\([^)]*\"rb?\"|(?<![\w.])open\([^,()]+\)"
    )
    package = Path(chinchilla.__file__).parent
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if raw.search(line)
        and path.relative_to(package).as_posix()
        not in ("core/files/reading.py", "core/files/writing.py", "train/device.py")
        and "np.memmap(file," not in line  # of a file that open_regular has opened
    ]
    assert found == []

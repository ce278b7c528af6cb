"""Arrays of an .npz file, and files that only look like one."""

import io
import struct
import zipfile

import numpy as np
import pytest

from chinchilla.core.files.npz import read_npz

NAMES = ("step", "loss")


def arrays(n: int = 1000) -> dict[str, np.ndarray]:
    return {"step": np.arange(n), "loss": np.linspace(4, 3, n, dtype="f4")}


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive(path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as z:
        for name, data in members:
            z.writestr(name, data)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("n", [0, 1000])
def test_arrays_are_read_as_numpy_has_written_them(tmp_path, save, n):
    save(tmp_path / "x.npz", **arrays(n))
    read = read_npz(tmp_path / "x.npz", NAMES, max_values=1000)
    for name, array in arrays(n).items():
        np.testing.assert_array_equal(read[name], array, strict=True)


def hostile() -> dict[str, list[tuple[str, bytes]]]:
    good = {name: npy(array) for name, array in arrays().items()}
    others = {
        "has a string": npy(np.array(["a"])),
        "has objects": b"\x93NUMPY\1\0\x76\0{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(
            128
        ),
        "has two dimensions": npy(np.zeros((2, 2))),
        "is short": good["loss"][:-1],
        "is long": good["loss"] + b"\0",
        "is empty": b"",
        "is larger than allowed": npy(np.zeros(5000)),
        "has a huge shape": npy(np.zeros(1)).replace(b"(1,)", b"(9999999999999999999999,)"),
        "has a negative shape": npy(np.zeros(1)).replace(b"(1,), ", b"(-1,),"),
        "has another version": good["loss"].replace(b"NUMPY\1", b"NUMPY\3", 1),
    }
    files = {
        name: [("step.npy", good["step"]), ("loss.npy", data)] for name, data in others.items()
    }
    files["lacks a member"] = [("step.npy", good["step"])]
    files["has another member"] = [(f"{k}.npy", good[k]) for k in NAMES] + [("x.npy", b"")]
    files["has a member twice"] = [("step.npy", good["step"])] * 2
    files["has many members"] = [(f"{i}.npy", b"") for i in range(1000)]
    return files


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", hostile())
def test_members_that_are_not_the_arrays_are_refused(tmp_path, kind):
    archive(tmp_path / "x.npz", hostile()[kind])
    with pytest.raises(ValueError, match=r"\S"):
        read_npz(tmp_path / "x.npz", NAMES, max_values=2000)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_methods_of_compression_are_refused(tmp_path, method):
    archive(tmp_path / "x.npz", [(f"{k}.npy", npy(a)) for k, a in arrays().items()], method)
    with pytest.raises(ValueError, match=r"step\.npy has an unusual compression method"):
        read_npz(tmp_path / "x.npz", NAMES, max_values=2000)


def changed_directory(path, offset: int, data: bytes) -> None:
    """Write at an offset of the first entry of the archive's directory."""
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\1\2") + offset
    raw[at : at + len(data)] = data
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("offset", "data", "reason"),
    [
        (8, b"\1", "encrypted"),
        (24, struct.pack("<I", 4_000_000_000), "has 4,000.0 MB; at most"),
        (24, struct.pack("<I", 100), r"\S"),
        (16, b"\1\2\3\4", "CRC"),
        (10, b"\x63", "unusual compression"),
        (42, b"\xff", r"\S"),
    ],
    ids=["encrypted", "large", "short", "crc", "method", "offset"],
)
def test_a_directory_that_states_something_else_is_refused(tmp_path, offset, data, reason):
    np.savez_compressed(tmp_path / "x.npz", **arrays())
    changed_directory(tmp_path / "x.npz", offset, data)
    with pytest.raises(ValueError, match=reason):
        read_npz(tmp_path / "x.npz", NAMES, max_values=2000)


def test_no_damage_of_a_byte_raises_another_error(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", **arrays(20))
    raw = (tmp_path / "x.npz").read_bytes()
    for at in range(len(raw)):
        (tmp_path / "x.npz").write_bytes(raw[:at] + bytes([raw[at] ^ 0x55]) + raw[at + 1 :])
        try:
            read = read_npz(tmp_path / "x.npz", NAMES, max_values=2000)
        except ValueError:
            continue
        assert all((read[k] == a).all() for k, a in arrays(20).items()), at

"""Token folders as small as they go, for machines without a network: uint16 tokens under xz.

A pack holds every shard in parts of PART_BYTES, each compressed on its own, so that packing and
unpacking go on where they were stopped; `pack.json`, written last, has the hash of every part. Nothing
is unpacked that does not match: part by part against the pack, shard by shard against the manifest.
"""

import hashlib
import lzma
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chinchilla.core.errors import DataError, InputError
from chinchilla.core.files import (
    atomic_write,
    clean_leftovers,
    fsync_dir,
    inside,
    read_json,
    sha256_file,
    writable_dir,
    write_json,
)
from chinchilla.core.json_codec import built
from chinchilla.data.data_card import CARD, CARD_JSON, overlap_files, write_card
from chinchilla.data.manifest import MANIFEST, Manifest

PACK = "pack.json"
SCHEMA = 1
_NAMES = r"[\w.-]+\.(bin|model)|overlap-[\w.-]+\.json"
PART_BYTES = 16 << 20  # of a shard in one part; xz needs about ten times that in memory
UNPACK_BYTES = 64 << 20  # of memory that one part may ask for when it is unpacked

Progress = Callable[[str, float, float], None]


@dataclass(frozen=True)
class PackedPart:
    """One compressed part of a file."""

    file: str  # name inside the pack
    size: int  # bytes, compressed
    sha256: str  # of those
    raw: int  # bytes, uncompressed


@dataclass(frozen=True)
class PackedFile:
    """One file of a token folder."""

    file: str  # name inside the token folder
    sha256: str  # of its bytes
    parts: list[PackedPart]


@dataclass(frozen=True)
class Pack:
    """What a pack holds."""

    data_id: str
    tokens: int
    files: list[PackedFile]  # tokenizer and shards
    schema: int = SCHEMA
    overlaps: list[PackedFile] = field(default_factory=list)  # what `data overlap` found

    @property
    def size(self) -> int:
        """Compressed bytes."""
        return sum(part.size for file in self.all_files() for part in file.parts)

    def all_files(self) -> list[PackedFile]:
        """Everything but manifest and card."""
        return [*self.files, *self.overlaps]


def pack(data_dir: Path, pack_dir: Path, n_workers: int, progress: Progress | None = None) -> Pack:
    """Compress a token folder into `pack_dir`; parts that are there already are checked and kept.

    Raises:
        InputError: no token folder, or pack_dir holds another pack; DataError: damaged tokens.
    """
    manifest = Manifest.load(data_dir)
    manifest.check_sizes(data_dir)
    _refuse_one_folder(data_dir, pack_dir)
    pack_dir = writable_dir(pack_dir, "pack_dir")
    if (pack_dir / PACK).exists() and (other := load_pack(pack_dir)).data_id != manifest.data_id:
        raise InputError(
            f"pack_dir={pack_dir} holds data {other.data_id}, not {manifest.data_id}. "
            "Choose another pack_dir."
        )
    _refuse_another_manifest(pack_dir, manifest)
    clean_leftovers(pack_dir)
    names = {manifest.tokenizer.file: manifest.tokenizer.sha256, **_shard_hashes(manifest)}
    n_files = len(names)
    for path, told in overlap_files(data_dir):
        if told["data_id"] == manifest.data_id:
            names[path.name] = sha256_file(path)
    total = sum((data_dir / name).stat().st_size for name in names)
    done, files = 0, []
    with ThreadPoolExecutor(n_workers or os.cpu_count() or 1) as pool:  # xz lets go of the GIL
        for name, sha256 in names.items():
            if sha256_file(data_dir / name) != sha256:
                raise DataError(
                    f"{data_dir / name} has other contents than the manifest states. "
                    "Delete it, and prepare the data again (chinchilla data)."
                )
            size = (data_dir / name).stat().st_size
            jobs = [
                pool.submit(_pack_part, data_dir / name, begin, pack_dir / f"{name}.{k:04d}.xz")
                for k, begin in enumerate(range(0, size, PART_BYTES))
            ]
            parts = []
            for job in jobs:
                parts.append(job.result())
                done += parts[-1].raw
                if progress:
                    progress("pack", done, total)
            files.append(PackedFile(name, sha256, parts))
    with atomic_write(pack_dir / MANIFEST, "wb") as out:
        out.write((data_dir / MANIFEST).read_bytes())
    tokens = sum(split.tokens for split in manifest.splits.values())
    made = Pack(manifest.data_id, tokens, files[:n_files], overlaps=files[n_files:])
    write_json(pack_dir / PACK, asdict(made))
    return made


def _pack_part(source: Path, begin: int, target: Path) -> PackedPart:
    """Compress one part, unless `target` holds it already."""
    with open(source, "rb") as file:
        file.seek(begin)
        raw = file.read(PART_BYTES)
    packed = target.read_bytes() if target.exists() else b""
    if not packed or _decompressed(packed, len(raw)) != raw:
        packed = lzma.compress(raw, lzma.FORMAT_XZ, filters=[_xz(len(raw))])
        with atomic_write(target, "wb") as out:
            out.write(packed)
    return PackedPart(target.name, len(packed), hashlib.sha256(packed).hexdigest(), len(raw))


def _xz(size: int) -> dict[str, int]:
    """The strongest xz whose dictionary is the part; lp and pb tell it that tokens are two bytes."""
    return {
        "id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": max(4096, size), "lc": 3, "lp": 1, "pb": 1,
    }  # fmt: skip


def load_pack(pack_dir: Path) -> Pack:
    """Read a pack's pack.json.

    Raises:
        InputError: none there, or damaged.
    """
    path = pack_dir / PACK
    if not path.exists():
        raise InputError(
            f"pack_dir={pack_dir} holds no finished pack (no {PACK}). "
            "Make one: chinchilla data pack data_dir=... pack_dir=..."
        )
    found: Pack = built(Pack, read_json(path, "pack"), str(path))
    if found.schema != SCHEMA:
        raise InputError(f"{path} has schema {found.schema}, this version reads {SCHEMA}.")
    return found


def unpack(pack_dir: Path, data_dir: Path, progress: Progress | None = None) -> Manifest:
    """Make the token folder again, byte for byte; files that are there already are kept.

    Raises:
        InputError: no pack, or data_dir holds other data or files that would be written over; DataError: a part that does not match.
    """
    found = load_pack(pack_dir)
    manifest = Manifest.load(pack_dir)
    _refuse_one_folder(data_dir, pack_dir)
    data_dir = writable_dir(data_dir, "data_dir")
    wanted = {manifest.tokenizer.file: manifest.tokenizer.sha256, **_shard_hashes(manifest)}
    if found.data_id != manifest.data_id or wanted != {f.file: f.sha256 for f in found.files}:
        raise DataError(f"{pack_dir / PACK} and the {MANIFEST} beside it are of different data.")
    if (data_dir / MANIFEST).exists():
        other = Manifest.load(data_dir)
        if other.data_id != found.data_id:
            raise InputError(
                f"data_dir={data_dir} holds data {other.data_id}, not {found.data_id}. "
                "Choose another data_dir."
            )
        if _shard_hashes(other) != _shard_hashes(manifest):
            raise InputError(
                f"data_dir={data_dir} holds these tokens in other shards: train on them as they are, or "
                "choose another data_dir."
            )
    for file in found.all_files():
        _check_name(data_dir, file.file, pack_dir / PACK)
    if not (data_dir / MANIFEST).exists():
        _refuse_others(data_dir, found)
    clean_leftovers(data_dir)
    total, done = sum(part.raw for file in found.all_files() for part in file.parts), 0
    for file in found.all_files():
        target = data_dir / file.file
        if not (target.is_file() and sha256_file(target) == file.sha256):
            digest = hashlib.sha256()
            with atomic_write(target, "wb") as out:
                for raw in _raw_parts(pack_dir, file):
                    digest.update(raw)
                    out.write(raw)
                if digest.hexdigest() != file.sha256:
                    raise DataError(f"{pack_dir}: {file.file} unpacks to other bytes than packed.")
        done += sum(part.raw for part in file.parts)
        if progress:
            progress("unpack", done, total)
    fsync_dir(data_dir)
    with atomic_write(data_dir / MANIFEST, "wb") as out:
        out.write((pack_dir / MANIFEST).read_bytes())
    write_card(data_dir, manifest)  # last: a card without a manifest is nothing that we left
    return manifest


def _check_name(data_dir: Path, name: str, where: Path) -> None:
    target = inside(data_dir, name)
    if target.parent != data_dir or not re.fullmatch(_NAMES, name):
        raise DataError(f"{where}: {name!r} is no name of a shard or tokenizer.")


def _refuse_one_folder(data_dir: Path, pack_dir: Path) -> None:
    if data_dir.resolve() == pack_dir.resolve():
        raise InputError(
            f"pack_dir={pack_dir} is data_dir itself, and each has a {MANIFEST}. "
            "Choose another pack_dir."
        )


def _refuse_another_manifest(pack_dir: Path, manifest: Manifest) -> None:
    """What stands where the pack's manifest belongs, and is none of this data."""
    path = pack_dir / MANIFEST
    if not path.exists():
        return
    if any((pack_dir / name).exists() for name in _shard_hashes(manifest)):
        raise InputError(f"{path} is of a token folder. Choose another pack_dir.")
    try:
        same = Manifest.load(pack_dir).data_id == manifest.data_id
    except InputError:
        same = False
    if not same:
        raise InputError(
            f"{path} is of other data, and would be written over. Choose another pack_dir."
        )


def _refuse_others(data_dir: Path, found: Pack) -> None:
    """Files that no unpacking left there, as those are whole, and that it would write over."""
    for file in found.all_files():
        path = data_dir / file.file
        if os.path.lexists(path) and not (path.is_file() and sha256_file(path) == file.sha256):
            raise InputError(
                f"{path} is not the file of that name in the pack, and would be written over. "
                "Move it away, or choose another data_dir."
            )
    for name in (CARD, CARD_JSON):
        if os.path.lexists(data_dir / name):
            raise InputError(
                f"{data_dir / name} is of other data, as there is no {MANIFEST} beside it, and would be "
                "written over. Move it away, or choose another data_dir."
            )


def _raw_parts(pack_dir: Path, file: PackedFile) -> Iterator[bytes]:
    for part in file.parts:
        path = inside(pack_dir, part.file)
        packed = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(packed).hexdigest() != part.sha256:
            what = "is damaged" if packed else "is missing"
            raise DataError(f"{path} {what}. Copy the pack again, or pack again.")
        raw = _decompressed(packed, part.raw)
        if raw is None:
            raise DataError(f"{path} does not hold the {part.raw} bytes that {PACK} states.")
        yield raw


def _decompressed(packed: bytes, size: int) -> bytes | None:
    """Exactly `size` bytes out of xz, or None; never more than that in memory."""
    if not 0 <= size <= PART_BYTES:
        return None
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=UNPACK_BYTES)
    try:
        raw = decompressor.decompress(packed, max_length=size + 1)
    except lzma.LZMAError:
        return None
    return raw if len(raw) == size and decompressor.eof else None


def _shard_hashes(manifest: Manifest) -> dict[str, str]:
    return {s.file: s.sha256 for split in manifest.splits.values() for s in split.shards}

"""A pack gives its token folder back byte for byte, goes on where it was stopped, and hides no damage."""

import hashlib
import json
import lzma
import shutil
from pathlib import Path

import pytest
from data_corpora import command, documents, write_jsonl

from chinchilla.cli import main
from chinchilla.core.errors import DataError, InputError
from chinchilla.data import pack as packs
from chinchilla.data.dataset import TokenData
from chinchilla.data.manifest import Manifest
from chinchilla.data.pack import load_pack, pack, unpack
from chinchilla.data.prepare.pipeline import prepare


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(packs, "PART_BYTES", 1_500)


@pytest.fixture
def packed(tmp_path, token_dir):
    pack(token_dir, tmp_path / "pack", 2)
    return tmp_path / "pack"


def contents(folder: Path) -> dict[str, str]:
    files = [*folder.glob("*.bin"), folder / "tokenizer.model", folder / "manifest.json"]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_folder_comes_back_byte_for_byte(packed, token_dir, tmp_path):
    made = load_pack(packed)
    assert max(len(file.parts) for file in made.files) > 1
    assert unpack(packed, tmp_path / "d").data_id == made.data_id
    assert contents(tmp_path / "d") == contents(token_dir)
    TokenData.open(tmp_path / "d", verify=True)
    assert (tmp_path / "d" / "data_card.md").exists()


def test_packing_goes_on_where_it_was_stopped(packed, token_dir, monkeypatch):
    """Parts that are there are kept; a part cut short and one of other data are made again."""
    whole = {p.name: p.read_bytes() for p in packed.iterdir()}
    (packed / "pack.json").unlink()
    lost, cut, other, *_ = sorted(p for p in packed.glob("train-*.xz"))
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:40])
    other.write_bytes(lzma.compress(b"x" * 1_500))
    made: list[int] = []
    compress = lzma.compress
    monkeypatch.setattr(
        lzma, "compress", lambda raw, *a, **k: made.append(1) or compress(raw, *a, **k)
    )
    pack(token_dir, packed, 1)
    assert len(made) == 3
    assert {p.name: p.read_bytes() for p in packed.iterdir()} == whole


def test_an_unfinished_pack_is_no_pack(packed, tmp_path):
    (packed / "pack.json").unlink()
    with pytest.raises(InputError, match="holds no finished pack"):
        unpack(packed, tmp_path / "d")


@pytest.mark.parametrize("after", range(0, 12, 2))
def test_unpacking_stopped_anywhere_leaves_no_folder_and_goes_on(
    packed, token_dir, tmp_path, after
):
    class Stop(Exception):
        pass

    seen: list[float] = []

    def progress(stage: str, done: float, total: float) -> None:
        seen.append(done)
        if len(seen) == after + 1:
            raise Stop

    with pytest.raises(Stop):
        unpack(packed, tmp_path / "d", progress)
    with pytest.raises(InputError, match="holds no prepared tokens"):
        TokenData.open(tmp_path / "d")
    unpack(packed, tmp_path / "d")
    assert contents(tmp_path / "d") == contents(token_dir)


def test_what_was_measured_comes_along_and_the_card_is_the_same(tmp_path, token_dir):
    shutil.copytree(token_dir, tmp_path / "d")
    evaluation = write_jsonl(tmp_path / "e.jsonl", documents(3))
    words = ["data", "overlap", f"data_dir={tmp_path / 'd'}", f"against={evaluation}"]
    assert main(words) == 0
    pack(tmp_path / "d", tmp_path / "pack", 1)
    unpack(tmp_path / "pack", tmp_path / "again")
    first, again = (
        {p.name: p.read_bytes() for p in (tmp_path / n).iterdir() if p.name != ".lock"}
        for n in ("d", "again")
    )
    assert first == again
    assert any(name.startswith("overlap-e.jsonl-") for name in again)


def test_pack_and_tokens_are_two_folders(tmp_path, token_dir, packed, capsys):
    shutil.copytree(token_dir, tmp_path / "d")
    before = {p.name for p in (tmp_path / "d").iterdir()}
    (tmp_path / "link").symlink_to(tmp_path / "d")
    given = [f"data_dir={tmp_path / 'd'}", f"pack_dir={tmp_path / 'link'}"]
    assert main(["data", "pack", *given]) == 2
    assert "is data_dir itself" in capsys.readouterr().err
    assert {p.name for p in (tmp_path / "d").iterdir()} == before
    with pytest.raises(InputError, match="is data_dir itself"):
        unpack(packed, packed)


def test_unpacking_writes_over_nothing_that_is_not_its_own(packed, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train-00001.bin").write_text("mine")
    with pytest.raises(InputError, match=r"train-00001.bin is not the file of that name"):
        unpack(packed, tmp_path / "d")
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["train-00001.bin"]


def test_packing_leaves_the_manifest_of_other_data(token_dir, tmp_path):
    other = command(tmp_path / "other", write_jsonl(tmp_path / "o.jsonl", documents(40, seed=9)))
    prepare(other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text('{"important": 1}')
    for folder in ("other", "mine"):
        before = {p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()}
        with pytest.raises(InputError, match=r"manifest.json is of (other data|a token folder)"):
            pack(token_dir, tmp_path / folder, 1)
        assert {p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()} == before


def test_the_same_tokens_in_other_shards_are_left_as_they_are(tmp_path):
    text = write_jsonl(tmp_path / "a.jsonl", documents(60))
    prepare(command(tmp_path / "small", text))
    prepare(command(tmp_path / "large", text, shard_tokens=100_000))
    pack(tmp_path / "large", tmp_path / "pack", 1)
    before = contents(tmp_path / "small")
    with pytest.raises(InputError, match="is of a token folder"):
        pack(tmp_path / "large", tmp_path / "small", 1)
    with pytest.raises(InputError, match="holds these tokens in other shards"):
        unpack(tmp_path / "pack", tmp_path / "small")
    assert contents(tmp_path / "small") == before


@pytest.mark.parametrize("card", ["data_card.md", "data_card.json"])
def test_unpacking_leaves_a_card_of_other_data(packed, tmp_path, card):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / card).write_text("mine")
    with pytest.raises(InputError, match=rf"{card} is of other data"):
        unpack(packed, tmp_path / "d")
    assert [(p.name, p.read_text()) for p in (tmp_path / "d").iterdir()] == [(card, "mine")]


DAMAGE = {
    "missing part": (lambda p: p.unlink(), "is missing"),
    "cut part": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "is damaged"),
    "flipped byte": (lambda p: p.write_bytes(b"x" + p.read_bytes()[1:]), "is damaged"),
    "other part": (lambda p: p.write_bytes(lzma.compress(b"y")), "is damaged"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_and_nothing_is_taken_for_whole(packed, tmp_path, case):
    damage, message = DAMAGE[case]
    part = sorted(packed.glob("train-*.xz"))[2]
    damage(part)
    with pytest.raises(DataError, match=f"{part.name} {message}"):
        unpack(packed, tmp_path / "d")
    assert not (tmp_path / "d" / "manifest.json").exists()


def edit(packed, change):
    record = json.loads((packed / "pack.json").read_text())
    change(record)
    (packed / "pack.json").write_text(json.dumps(record))


def test_a_part_that_would_grow_beyond_what_is_stated_is_refused(packed, tmp_path):
    """A few bytes of xz can hold gigabytes; no more than stated is ever decompressed."""
    bomb = lzma.compress(bytes(50_000_000))
    part = sorted(packed.glob("train-*.xz"))[0]
    part.write_bytes(bomb)

    def trust(record):
        [mine] = [p for f in record["files"] for p in f["parts"] if p["file"] == part.name]
        mine["sha256"] = hashlib.sha256(bomb).hexdigest()

    edit(packed, trust)
    with pytest.raises(DataError, match="does not hold the 1500 bytes"):
        unpack(packed, tmp_path / "d")


@pytest.mark.parametrize("name", ["../evil.bin", "/tmp/evil.bin", "evil.py", "a/evil.bin"])
def test_a_pack_writes_nothing_but_shards_and_tokenizer_into_its_folder(packed, tmp_path, name):
    record = json.loads((packed / "manifest.json").read_text())
    record["splits"]["train"]["shards"][0]["file"] = name
    (packed / "manifest.json").write_text(json.dumps(record))
    first = record["splits"]["train"]["shards"][0]["sha256"]

    def rename(record):
        for file in record["files"]:
            if file["sha256"] == first:
                file["file"] = name

    edit(packed, rename)
    with pytest.raises(InputError, match=r"leads out|no name of a shard"):
        unpack(packed, tmp_path / "d")
    assert not list(tmp_path.rglob("evil*"))


def test_pack_and_manifest_of_different_data(packed, tmp_path):
    prepare(command(tmp_path / "other", write_jsonl(tmp_path / "a.jsonl", documents(61))))
    with pytest.raises(InputError, match=r"pack_dir=.* holds data .*another pack_dir"):
        pack(tmp_path / "other", packed, 1)
    with pytest.raises(InputError, match=r"data_dir=.* holds data .*another data_dir"):
        unpack(packed, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "manifest.json", packed / "manifest.json")
    with pytest.raises(DataError, match="are of different data"):
        unpack(packed, tmp_path / "d")


def test_damaged_tokens_are_not_packed(tmp_path, token_dir):
    shutil.copytree(token_dir, tmp_path / "d")
    shard = tmp_path / "d" / "train-00001.bin"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(DataError, match=r"train-00001.bin has other contents"):
        pack(tmp_path / "d", tmp_path / "pack", 1)
    assert not (tmp_path / "pack" / "pack.json").exists()


def test_on_the_command_line(token_dir, tmp_path, capsys):
    assert main(["data", "pack", f"data_dir={token_dir}"]) == 2
    assert "pack_dir is missing" in capsys.readouterr().err
    given = f"pack_dir={tmp_path / 'pack'}"
    assert main(["data", "pack", f"data_dir={token_dir}", given]) == 0
    assert "packed in" in capsys.readouterr().out
    assert main(["data", "unpack", f"data_dir={tmp_path / 'd'}", given, "format=json"]) == 0
    data_id = Manifest.load(token_dir).data_id
    assert json.loads(capsys.readouterr().out)["data_id"] == data_id
    assert Manifest.load(tmp_path / "d").data_id == data_id

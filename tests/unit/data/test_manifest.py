"""manifest.json: edited and older ones are refused; data_id."""

import json
import shutil

import pytest

from chinchilla.core.errors import DataError
from chinchilla.data.dataset import TokenData
from chinchilla.data.manifest import Manifest


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m["sources"][0].update(rows=0), "was changed after it was written"),
        (lambda m: m["sources"][0]["splits"]["train"].update(tokens=7), "was changed after"),
        (lambda m: m["sources"][0]["splits"].pop("validation"), "is not a token manifest"),
        (lambda m: m["sources"].pop(), "was changed after it was written"),
        (lambda m: m.update(dtype="uint7"), "has dtype 'uint7', not uint16 or uint32"),
        (lambda m: m.update(schema=99), "has schema 99"),
        (lambda m: m.pop("sources"), "is not a token manifest"),
        (lambda m: m.clear(), "is not a token manifest"),
    ],
)
def test_an_edited_manifest_is_refused(tmp_path, token_dir, edit, message):
    shutil.copytree(token_dir, tmp_path / "d")
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    edit(manifest)
    (tmp_path / "d" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=message):
        Manifest.load(tmp_path / "d")


def test_folders_of_an_older_schema_are_refused_in_one_line(tmp_path, token_dir):
    shutil.copytree(token_dir, tmp_path / "d")
    record = json.loads((tmp_path / "d" / "manifest.json").read_text())
    (tmp_path / "d" / "manifest.json").write_text(json.dumps({**record, "schema": 3}))
    with pytest.raises(DataError, match=r"has schema 3.*reads 4\. Prepare.*another data_dir\.$"):
        TokenData.open(tmp_path / "d")


def test_a_manifest_of_before_files_were_counted_is_read(tmp_path, token_dir):
    shutil.copytree(token_dir, tmp_path / "d")
    record = json.loads((tmp_path / "d" / "manifest.json").read_text())
    del record["sources"][0]["files_left_out"]
    (tmp_path / "d" / "manifest.json").write_text(json.dumps(record))
    assert Manifest.load(tmp_path / "d") == Manifest.load(token_dir)


def test_data_id_has_not_changed(token_dir):
    """A change would invalidate every sweep and need a new DATA_ID_VERSION."""
    assert Manifest.load(token_dir).data_id == "367b2fabe76e7857"

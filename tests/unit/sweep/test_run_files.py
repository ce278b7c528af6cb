"""Folder names in printed commands are quoted for the shell and the command line parser."""

import json
import shlex
from pathlib import Path

import pytest
from sweep_fakes import make_specs, make_sweep

from chinchilla.cli import main
from chinchilla.sweep.run_files import sweep_argument

NAMES = ["plain", "sp ace", "it's", "'quoted'", "a=b,[c]", " lead", "tail ", "$HOME", "ümlaut", "a;b&c", "{x}", 'back\\slash"']  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("relative", [False, True])
def test_a_printed_argument_restores_the_folder(
    tmp_path: Path, name: str, relative: bool, capsys, monkeypatch: pytest.MonkeyPatch
):
    make_sweep(tmp_path / name, make_specs(2))
    monkeypatch.chdir(tmp_path)
    hint = sweep_argument(name if relative else tmp_path / name)
    assert main(["status", *shlex.split(hint), "format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["waiting"] == 2


def test_plain_folders_are_not_quoted():
    assert sweep_argument("/tmp/a-b_c.d") == "sweep_dir=/tmp/a-b_c.d"
    assert sweep_argument("/tmp/sp ace") == "'sweep_dir=/tmp/sp ace'"

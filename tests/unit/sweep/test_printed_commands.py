"""Printed commands: the shell and the parser restore the folder, whatever its name."""

import json
import shlex
from pathlib import Path

import pytest
from sweep_fakes import make_specs, make_sweep

from chinchilla.cli import main
from chinchilla.config import ClusterConfig
from chinchilla.sweep.launch import torchrun_command
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


def test_the_torchrun_command_has_nodes_ranks_and_threads():
    one = ClusterConfig(kind="torchrun", ranks_per_node=8, threads_per_worker=4)
    words = shlex.split(torchrun_command(one, Path("/runs/it's"), Path("/data")))
    assert words == [
        "torchrun", "--standalone", "--nproc-per-node", "8", "-m", "chinchilla.sweep.worker",
        "/runs/it's", "/data", "--threads", "4",
    ]  # fmt: skip
    two = torchrun_command(ClusterConfig(kind="torchrun", nodes=2), Path("/runs"), Path("/data"))
    assert "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint FIRST_NODE:29500" in two

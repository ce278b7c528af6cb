"""`chinchilla plan tokens=...`: one model on many GPUs."""

import json
import re

import pytest
from small_world import make_speeches

from chinchilla.cli import main
from chinchilla.commands import plan
from chinchilla.commands.plan import chosen_precision
from chinchilla.config import ClusterConfig, RecipeConfig, ResourceConfig

SEVENTY = ["plan", "model=chinchilla_70b", "tokens=1.4e12", "recipe.batch_tokens=2097152"]


def test_seventy_billion_parameters_on_512_gpus(capsys: pytest.CaptureFixture[str]):
    options = ["model.positions=relative", "gpus=512", "format=json"]
    assert main([*SEVENTY, *options]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["n_params"] == 70_061_956_352  # as tests/paper counts it
    assert plan["training_flops"]["six_nd"] == pytest.approx(6 * 70_061_956_352 * 1.4e12, rel=1e-6)
    parts = plan["memory_bytes_per_gpu"]
    assert parts["weights"] == pytest.approx(4 * plan["n_params"] / 512)
    assert parts["moments"] == 2 * parts["weights"]
    assert parts["total"] == pytest.approx(sum(v for k, v in parts.items() if k != "total"))
    assert parts["total"] < 80e9


def test_blocks_are_recomputed_only_where_the_model_fits_no_other_way(
    capsys: pytest.CaptureFixture[str],
):
    assert main([*SEVENTY, "gpus=512"]) == 0
    assert "activation_checkpointing" not in capsys.readouterr().out
    assert main([*SEVENTY, "gpus=32"]) == 0
    assert "fits only with runtime.activation_checkpointing=true" in capsys.readouterr().out


def test_a_model_that_does_not_fit_is_refused_with_its_largest_part(
    capsys: pytest.CaptureFixture[str],
):
    assert main([*SEVENTY, "gpus=8"]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "GB on each of 8 GPUs" in err
    assert "Give more gpus" in err


def test_a_batch_that_does_not_divide_among_the_gpus_is_refused_with_the_next_that_does(
    capsys: pytest.CaptureFixture[str],
):
    """As training refuses it."""
    assert main([*SEVENTY, "gpus=1000"]) == 2
    err = capsys.readouterr().err
    assert "a batch of 1,024 rows" in err
    [following] = re.findall(r"recipe.batch_tokens=(\d+)", err)
    assert main([*SEVENTY[:-1], f"recipe.batch_tokens={following}", "gpus=1000"]) == 0


def test_a_small_run_on_one_gpu_reads_naturally(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "model=44m", "tokens=1e6"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 GPU, passes of" in out
    assert "D/N = 0.0252." in out  # 2 batches of 524,288 tokens, 41,615,104 parameters


def test_a_grid_with_too_few_sizes_at_an_edge_too_few_steps_and_tokens_is_refused_once(
    say, tmp_path
):
    make_speeches(tmp_path / "data")
    words = "grid.budgets=1e9,1e13 grid.min_sizes=12"
    result = say(f"plan demo recipe=demo data_dir=data {words}")
    assert result.code == 2  # as too few tokens alone
    lines = result.err.splitlines()
    parts = [
        "5 sizes, at least 12",
        "are smaller",
        "are larger",
        "steps of 512 tokens",
        "epochs of the",
    ]
    assert len(lines) == len(parts)
    for part, line in zip(parts, lines, strict=True):
        assert part in line


CPU_CLASS, GPU_CLASS = (
    ResourceConfig(name="a", gpus_per_node=0, max_params=1e9),
    ResourceConfig(name="b"),
)


@pytest.mark.parametrize("gpu_here", [True, False])
@pytest.mark.parametrize(
    ("cluster", "device", "precision"),
    [
        ({"kind": "slurm"}, "auto", "bf16"),
        ({"kind": "slurm", "gpus_per_node": 0}, "auto", "fp32"),
        ({"kind": "slurm"}, "cpu", "fp32"),
        ({"kind": "slurm", "gpus_per_node": 0}, "cuda", "bf16"),
        ({"kind": "slurm", "resources": [CPU_CLASS]}, "auto", "fp32"),
        ({"kind": "slurm", "resources": [CPU_CLASS, GPU_CLASS]}, "auto", "bf16"),
        ({"kind": "manual"}, "auto", "bf16"),
        ({"kind": "manual", "gpus_per_node": 0}, "auto", "fp32"),
        ({"kind": "local"}, "cuda:1", "bf16"),
        ({"kind": "local"}, "cpu", "fp32"),
        ({"kind": "local"}, "auto", "here"),
        ({"kind": "debug"}, "auto", "here"),
    ],
)  # fmt: skip
def test_the_precision_is_that_of_the_device_of_the_jobs(
    monkeypatch: pytest.MonkeyPatch, gpu_here: bool, cluster: dict, device: str, precision: str
):
    """Only a local sweep asks this machine, so that a login node without GPU plans as one with."""
    monkeypatch.setattr(plan, "Path", lambda path: GPU if gpu_here else NO_GPU)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(plan.metadata, "version", lambda name: "2.13.0+cu130")
    monkeypatch.setattr(plan, "_lacks_bf16", lambda cluster, device: False)
    expected = precision if precision != "here" else "bf16" if gpu_here else "fp32"
    assert chosen_precision(RecipeConfig(), ClusterConfig(**cluster), device) == expected


class File:
    def __init__(self, found: bool) -> None:
        self.exists = lambda: found


GPU, NO_GPU = File(True), File(False)

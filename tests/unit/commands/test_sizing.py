"""`chinchilla plan tokens=...`: one model on many GPUs."""

import json

import pytest

from chinchilla.cli import main
from chinchilla.config import RecipeConfig
from chinchilla.core.shapes import shape_named
from chinchilla.plan.grid import plan_run
from chinchilla.plan.memory import memory

SEVENTY = ["plan", "model=chinchilla_70b", "tokens=1.4e12", "gpus=512"]


def test_seventy_billion_parameters_on_512_gpus(capsys: pytest.CaptureFixture[str]):
    more = ["model.positions=relative", "activation_checkpointing=true", "format=json"]
    assert main([*SEVENTY, *more]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n_params"] == 70_061_956_352  # as tests/paper counts it
    assert told["training_flops"]["six_nd"] == pytest.approx(6 * 70_061_956_352 * 1.4e12, rel=1e-6)
    parts = told["memory_bytes_per_gpu"]
    assert parts["weights"] == pytest.approx(4 * told["n_params"] / 512)
    assert parts["moments"] == 2 * parts["weights"]
    assert parts["total"] == pytest.approx(sum(v for k, v in parts.items() if k != "total"))
    assert parts["total"] < 80e9


def test_what_does_not_fit_is_refused_with_what_would(capsys: pytest.CaptureFixture[str]):
    assert main([*SEVENTY[:-1], "gpus=8"]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "GB on each of 8 GPUs" in said
    gpus = said.partition("Give ")[2].split()[0]
    more = [gpus, "activation_checkpointing=true"]
    assert main([*SEVENTY[:-1], *more]) == 0, said


def test_a_pass_that_is_no_rows_of_a_gpus_part_is_refused(capsys: pytest.CaptureFixture[str]):
    for tokens in (5, 2048 * 10_000):
        assert main(["plan", "model=44m", "tokens=1e9", f"micro_batch_tokens={tokens}"]) == 2
        assert "micro_batch_tokens=" in capsys.readouterr().err


def test_each_part_shrinks_with_what_makes_it_smaller():
    shape = shape_named("1.43b", 32_000, 2_048, 128, "rope")
    spec = plan_run(
        shape,
        RecipeConfig(),
        flop_convention="six_nd",
        data_id="none",
        precision="bf16",
        tokens=1e9,
    )
    one, eight = memory(spec, 8192), memory(spec, 8192, shards=8)
    assert one.gathered == 0
    assert eight.weights == one.weights / 8
    assert eight.compute_copies == 0
    assert memory(spec, 8192, recompute=True).activations < 0.2 * one.activations
    assert memory(spec, 4096).activations == one.activations / 2


def test_a_small_run_on_one_gpu_is_said_as_a_person_would(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "model=44m", "tokens=1e6"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 GPU, passes of" in said
    assert "D/N = 0.0252." in said  # 2 batches of 524,288 tokens, 41,615,104 parameters

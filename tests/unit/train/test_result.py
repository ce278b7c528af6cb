"""The contents of a run's result."""

import math
from pathlib import Path

import pytest
from sweep_fakes import edit_record
from train_world import (
    ROWS,
    SEQ_LEN,
    make_runtime,
)

from chinchilla.core.shapes import flops_per_token, n_params
from chinchilla.data.dataset import TokenData
from chinchilla.plan.records import Curve, RunResult, RunSpec

RUNTIME = make_runtime()


def test_the_final_loss_is_the_mean_over_its_window(whole):
    result, run_dir = whole
    tail = Curve.load(run_dir).loss[-result.final_loss_steps :]
    assert result.final_loss_steps == len(tail) == 1  # 2% of 24 steps, at least one
    assert result.final_loss == pytest.approx(tail.mean(), rel=1e-12)
    assert result.final_loss_se is None  # one step has no spread


def test_the_result_counts_parameters_tokens_and_flops(whole, spec: RunSpec):
    result, _ = whole
    assert result.spec == spec
    assert result.n_params == n_params(spec.model)
    assert result.n_params_non_embedding == n_params(spec.model) - 400 * 16
    assert result.steps_done == 24
    assert result.flops_spent == pytest.approx(
        flops_per_token(spec.model, "with_head") * 24 * ROWS * SEQ_LEN, rel=1e-12
    )
    assert result.flops_spent == pytest.approx(spec.C, rel=1e-12)


def test_bits_per_byte_use_the_validation_text_only(whole, data_dir: Path):
    result, _ = whole
    split = TokenData.open(data_dir).manifest.splits["validation"]
    expected = result.validation_loss["validation"] / math.log(2) * split.tokens / split.bytes
    assert result.bits_per_byte == {"validation": pytest.approx(expected, rel=1e-12)}
    assert result.validation_tokens == {"validation": 256}


def test_a_cpu_has_a_name_and_no_mfu(whole):
    result, _ = whole
    assert result.mfu is None
    assert result.device.startswith("CPU ")
    assert result.device.endswith(" threads")
    assert result.peak_memory_bytes > 1e7
    assert {"python", "torch", "numpy", "chinchilla", "sentencepiece"} <= set(result.versions)
    assert result.started_utc <= result.finished_utc


def test_the_result_tells_how_the_run_was_executed(whole):
    result, _ = whole
    assert result.execution == {
        "device": result.device, "ranks": 1, "shards": 1, "dtype": "fp32", "threads": 1,
        "compiled": False, "cuda_graphs": False, "update_in_graph": False, "attention": "default",
        "micro_batch_tokens": ROWS * SEQ_LEN, "activation_checkpointing": False,
    }  # fmt: skip


def test_a_result_of_an_earlier_version_has_no_execution(whole, tmp_path: Path):
    whole[0].save(tmp_path)
    edit_record(tmp_path / "result.json", "execution")
    assert RunResult.read(tmp_path / "result.json").execution == {}

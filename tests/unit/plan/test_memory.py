"""The estimated memory of a run, part by part."""

import itertools
from dataclasses import replace

import pytest
from planned import SMALL, one_run
from train_world import make_spec

from chinchilla.config import RecipeConfig
from chinchilla.core.shapes import named_shapes, shape_named
from chinchilla.plan.grid import plan_run
from chinchilla.plan.memory import MEMORY_SHARE, memory, rows_that_fit


def test_memory_of_a_large_model_is_its_weights_and_their_optimizer():
    """70B at one row per pass: 16 bytes per parameter, 2 for the bf16 copy, plus activations."""
    shape = replace(named_shapes()["chinchilla_70b"], positions="rope")
    spec = one_run(shape, budget_flops=5.76e23)
    assert 18 * spec.N < memory(spec, 2048).total < 20 * spec.N
    each = memory(spec, 2048, shards=512)
    assert each.weights == 4 * spec.N / 512
    assert each.total < 70e9


@pytest.mark.parametrize(
    "bigger",
    [
        {"model": replace(SMALL, n_layers=16)},
        {"model": replace(SMALL, d_model=1024)},
        {"model": replace(SMALL, vocab_size=64_000)},
        {"model": replace(SMALL, seq_len=4096)},
        {"batch_tokens": 2**20},
    ],
    ids=["layers", "width", "vocabulary", "length with relative positions", "batch"],
)
def test_estimated_memory_grows_with_batch_and_model(bigger):
    spec = one_run()
    assert memory(replace(spec, **bigger)).total > memory(spec).total


def test_a_smaller_pass_needs_less_memory_and_a_larger_one_no_more_than_the_batch():
    spec = one_run()
    assert memory(spec, 2048).total < memory(spec, 4096).total < memory(spec).total
    assert memory(spec, 2**30).total == memory(spec).total


def test_fp32_needs_no_compute_copy_but_larger_activations():
    spec = one_run()
    fp32 = replace(spec, precision="fp32")
    assert memory(fp32).total > memory(spec).total
    one_token = [memory(replace(s, batch_tokens=1)).total for s in (spec, fp32)]
    assert one_token[0] - one_token[1] == pytest.approx(2 * spec.N, rel=0.02)


def test_memory_by_part_with_sharding_recomputation_and_smaller_passes():
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


def test_a_whole_copy_on_each_of_several_ranks_is_gathered_as_a_shard_is():
    """runtime.shard_ranks=1: FSDP wraps the model although nothing is sharded."""
    spec = one_run()
    one, wrapped = memory(spec, 2048), memory(spec, 2048, fsdp=True)
    assert (wrapped.weights, wrapped.compute_copies) == (one.weights, 0)
    assert wrapped.gathered == memory(spec, 2048, shards=2).gathered > 0


@pytest.mark.parametrize(
    ("rows", "room_rows", "fits"),
    [
        (4, 4, 4), (4, 3, 2), (4, 2, 2), (4, 1, 1), (4, 0, 1),
        (30, 29, 15), (30, 14, 10), (35, 20, 18), (127, 100, 64), (49, 48, 25), (49, 13, 7), (72, 16, 12), (2, 1, 1),
    ],
)  # fmt: skip
def test_passes_have_equally_many_rows_where_a_divisor_fits(rows: int, room_rows: int, fits: int):
    """35 = 5 * 7, 49 and 127 have no divisor near what fits: 18+17, 25+24 and 64+63 rows."""
    spec = one_run()
    spec = replace(spec, batch_tokens=rows * spec.model.seq_len)
    room = memory(spec, room_rows * spec.model.seq_len, shards=2).total if room_rows else 0.0
    assert rows_that_fit(spec, rows, room, shards=2) == fits


def test_the_passes_of_a_step_law_grid_are_few_and_equal():
    """Batches of 39 to 541 rows, some of them primes, on GPUs with 80, 40 and 24 GB."""
    law = RecipeConfig(lr_batch_rule="step_law", peak_lr=0, batch_tokens=0, final_lr_ratio=0)
    equal = n = 0
    for name, tokens in itertools.product(("44m", "425m", "1.43b"), (1e9, 3e9, 1e10, 3e10, 1e11)):
        spec = plan_run(
            shape_named(name, 32_000, 2_048, 128, "rope"), law,
            flop_convention="six_nd", data_id="none", precision="bf16", tokens=tokens,
        )  # fmt: skip
        rows = spec.batch_tokens // 2_048
        for gigabytes in (80, 40, 24):
            room = MEMORY_SHARE * 1e9 * gigabytes
            if memory(spec, 2_048).total > room:
                continue
            fits = rows_that_fit(spec, rows, room)
            most = max(n for n in range(1, rows + 1) if memory(spec, n * 2_048).total <= room)
            passes = -(-rows // fits)
            assert fits <= most
            assert rows % fits == 0 or passes == -(-rows // most)
            assert 2 * fits >= most
            equal += rows % fits == 0
            n += 1
    assert n == 40
    assert equal > n / 2


def test_bf16_weights_halve_the_estimated_memory_of_the_state():
    specs = {p: make_spec(precision=p) for p in ("fp32", "bf16", "bf16_weights")}
    estimated = {p: memory(s, device="cpu").total for p, s in specs.items()}
    N = specs["fp32"].N  # with a vocabulary of 400, which is not padded on a CPU
    assert estimated["bf16"] - estimated["bf16_weights"] == (16 - 8 + 2) * N  # and no compute copy

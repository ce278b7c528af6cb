from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from train_world import make_runtime, make_spec

from chinchilla.model import Transformer
from chinchilla.plan.memory import memory
from chinchilla.train.evaluate import evaluation_rows, evaluation_steps, validation_loss

SHAPE = make_spec().model


def test_validation_loss_is_the_mean_over_all_targets():
    model = Transformer(SHAPE).init_weights(0)
    rows = np.random.default_rng(0).integers(0, 400, (7, 17))
    tokens = torch.from_numpy(rows)
    with torch.no_grad():
        logits = model(tokens[:, :-1])
        expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    for rows_per_pass in (1, 3, 7, 100):  # 3 leaves a last pass of one row
        assert validation_loss(model, rows, rows_per_pass) == pytest.approx(expected, rel=1e-6)


def test_validation_loss_leaves_no_gradient():
    model = Transformer(SHAPE).init_weights(0)
    validation_loss(model, np.zeros((2, 17), np.int64), 2)
    assert all(p.grad is None for p in model.parameters())


def steps_of(steps: int, n: int, validation_tokens: int = 1) -> list[int]:
    runtime = make_runtime(validation_evals=n, validation_tokens=validation_tokens)
    return evaluation_steps(make_spec(steps=steps), runtime)


def test_evaluations_are_geometric_over_the_last_eighth_fold():
    assert steps_of(800, 4) == [100, 200, 400, 800]


def test_one_evaluation_is_the_last():
    assert steps_of(800, 1) == [800]


@settings(deadline=None)
@given(st.integers(1, 100_000), st.integers(1, 40))
def test_evaluations_are_at_most_n_and_end_the_run(steps: int, n: int):
    at = steps_of(steps, n)
    assert 1 <= len(at) <= n
    assert at[-1] == steps
    assert at == sorted(set(at))
    assert at[0] >= max(1, steps // 8)


@pytest.mark.parametrize(("steps", "n"), [(800, 8), (8_000, 9), (80_000, 24)])
def test_evaluations_of_a_short_run_take_a_tenth_of_its_flops(steps: int, n: int):
    """64 tokens per update; 16,384 tokens per evaluation, whose forward pass is a third of an update."""
    assert len(steps_of(steps, 24, 16_384)) == n
    assert n == 8 or n * 16_384 / 3 <= 0.1 * 64 * steps


def test_a_forward_pass_without_gradients_has_more_rows_if_memory_allows():
    spec, device = make_spec(), torch.device("cpu")
    small, configured = make_runtime(), make_runtime(micro_batch_tokens=2 * 16)
    assert evaluation_rows(spec, 4, small, 1e9, device) == 4096 // 16
    assert evaluation_rows(spec, 4, small, 1.0, device) == 4
    assert evaluation_rows(spec, 2, configured, 1e9, device) == 2
    some = memory(replace(spec, batch_tokens=4096), 64 * 16, recompute=True, device="cpu").total
    assert evaluation_rows(spec, 4, small, some, device) == 64

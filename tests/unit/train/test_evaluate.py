import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from train_world import make_spec

from chinchilla.model import Transformer
from chinchilla.train.evaluate import evaluation_steps, validation_loss

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


def test_evaluations_are_geometric_over_the_last_eighth_fold():
    assert evaluation_steps(800, 4) == [100, 200, 400, 800]


def test_one_evaluation_is_the_last():
    assert evaluation_steps(800, 1) == [800]


@given(st.integers(1, 100_000), st.integers(1, 40))
def test_evaluations_are_at_most_n_and_end_the_run(steps: int, n: int):
    at = evaluation_steps(steps, n)
    assert 1 <= len(at) <= n
    assert at[-1] == steps
    assert at == sorted(set(at))
    assert at[0] >= max(1, steps // 8)

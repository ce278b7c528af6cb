"""muP and CompleteP: factors, scale of activations, transfer of the best learning rate."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from chinchilla.config import RecipeConfig
from chinchilla.core.errors import InputError
from chinchilla.core.parametrization import multipliers
from chinchilla.core.shapes import ModelShape
from chinchilla.model import Transformer
from chinchilla.plan.grid import plan_run
from chinchilla.plan.records import RunSpec
from chinchilla.train.optim import build_optimizer, set_learning_rate
from chinchilla.train.schedule import learning_rate

ROWS, SEQ_LEN, VOCAB = 8, 16, 64  # so small that one thread is fastest
BASE_WIDTH, BASE_LAYERS = 32, 2


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def shape_of(width: int, layers: int = BASE_LAYERS) -> ModelShape:
    return ModelShape(width, 4 * width, 16, width // 16, layers, VOCAB, SEQ_LEN)


def spec_of(kind: str, width: int, layers: int = BASE_LAYERS, lr: float = 1e-2, **more) -> RunSpec:
    recipe = RecipeConfig(
        parametrization=kind, peak_lr=lr, lr_base_width=BASE_WIDTH, batch_tokens=ROWS * SEQ_LEN,
        base_layers=BASE_LAYERS if kind == "completep" else 0, **{"warmup_steps": 0, **more},
    )  # fmt: skip
    return plan_run(
        shape_of(width, layers), recipe, flop_convention="with_head", data_id="none",
        precision="fp32", tokens=80 * ROWS * SEQ_LEN,
    )  # fmt: skip


def model_of(spec: RunSpec) -> Transformer:
    return Transformer(spec.model, factors=spec.multipliers).init_weights(0)


def loss_of(model: Transformer, rows: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


# Factors


def test_factors_of_the_standard_parametrization():
    by = multipliers(shape_of(64))
    assert (by.embedding_std, by.branch_divisor, by.attention) == (1 / 8, 2.0, 1 / 4)
    assert (by.residual, by.output, by.hidden_lr, by.hidden_decay, by.eps) == (1, 1, 1, 1, 1)


def test_factors_of_mup():
    """Four times the base width: Yang et al. 2022, table 8, with a tied embedding."""
    by = multipliers(shape_of(128), "mup", BASE_WIDTH)
    assert by.embedding_std == BASE_WIDTH**-0.5  # does not shrink with the width
    assert (by.output, by.hidden_lr, by.attention) == (1 / 4, 1 / 4, 1 / 16)
    assert (by.hidden_decay, by.eps, by.residual, by.branch_divisor) == (1, 1, 1, 2)


def test_factors_of_completep():
    """Four times the base width, eight times the base depth."""
    by = multipliers(shape_of(128, 16), "completep", BASE_WIDTH, BASE_LAYERS)
    assert (by.output, by.hidden_lr, by.attention) == (1 / 4, 1 / 4, 1 / 16)
    assert (by.residual, by.hidden_decay, by.eps) == (1 / 8, 4, 1 / 32)
    assert by.branch_divisor == 1  # the residual factor takes its place


@pytest.mark.parametrize("kind", ["mup", "completep"])
def test_learning_rate_and_decay_of_hidden_matrices(kind):
    spec = spec_of(kind, 128, weight_decay=0.1)
    model = model_of(spec)
    optimizer = build_optimizer(model, spec)
    set_learning_rate(optimizer, 0.02)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    decay = {"mup": 0.1, "completep": 0.4}[kind]
    for name, p in model.named_parameters():
        group = of[id(p)]
        hidden = p.dim() == 2 and name != "embedding"
        expected = (0.005, decay) if hidden else (0.02, 0.1 if name == "embedding" else 0.0)
        assert (group["lr"], group["weight_decay"]) == pytest.approx(expected), name
        assert group["eps"] == pytest.approx(1e-8 / {"mup": 1, "completep": 4}[kind])


@pytest.mark.parametrize("kind", ["mup", "completep"])
def test_the_forward_pass_applies_the_factors(kind):
    """Logits of one block computed by hand in float64."""
    spec = spec_of(kind, 64, layers=4 if kind == "completep" else 1)
    model, by = model_of(spec).double(), spec.multipliers
    model.dtype = torch.float64
    x = model.embedding[tokens := torch.arange(8)[None]]
    for block in model.blocks:
        seen = {}
        hook = block.attention.out.register_forward_pre_hook(lambda _, i: seen.update(y=i[0]))  # noqa: B023
        a = block.attention(block.attention_norm(x), model.positions)
        hook.remove()
        assert seen["y"].shape == x.shape
        x = x + by.residual * a
        x = x + by.residual * block.ffw(block.ffw_norm(x))
    logits = model.norm(x) @ model.embedding.T * by.output + model.output_bias
    torch.testing.assert_close(model(tokens), logits)
    assert all(block.attention.scale == 1 / 16 for block in model.blocks)


# Transfer


def moved(spec: RunSpec, steps: int = 5) -> float:
    """RMS change of the last residual stream after `steps` updates on one batch."""
    model = model_of(spec)
    optimizer = build_optimizer(model, spec)
    set_learning_rate(optimizer, spec.peak_lr)
    rows = torch.randint(VOCAB, (ROWS, SEQ_LEN + 1), generator=torch.Generator().manual_seed(1))
    stream = []
    hook = model.blocks[-1].register_forward_hook(lambda _, i, y: stream.append(y.detach()))
    for _ in range(steps):
        loss_of(model, rows).backward()
        optimizer.step()
        optimizer.zero_grad()
    loss_of(model, rows)
    hook.remove()
    return (stream[-1] - stream[0]).square().mean().sqrt().item()


def test_updates_of_mup_and_completep_are_independent_of_width():
    """Coordinate check: with one learning rate, the updates of a standard model grow with the width."""
    far = {kind: [moved(spec_of(kind, d)) for d in (32, 128, 256)]
           for kind in ("standard", "mup", "completep")}  # fmt: skip
    assert far["standard"][-1] > 4 * far["standard"][0]
    for kind in ("mup", "completep"):
        assert max(far[kind]) < 1.5 * min(far[kind]), far[kind]
        assert 0.3 < min(far[kind]) < max(far[kind]) < 3  # of order one


def test_only_updates_of_completep_are_independent_of_depth():
    far = {kind: [moved(spec_of(kind, 32, n)) for n in (2, 4, 16)]
           for kind in ("standard", "mup", "completep")}  # fmt: skip
    assert far["standard"][-1] > 4 * far["standard"][0]
    assert far["mup"][-1] > 4 * far["mup"][0]
    assert max(far["completep"]) < 2 * min(far["completep"]), far["completep"]


def markov_rows(n: int) -> torch.Tensor:
    """Sequences of a random Markov chain over VOCAB states."""
    draw = torch.Generator().manual_seed(1)
    chain = torch.softmax(2.5 * torch.randn(VOCAB, VOCAB, generator=draw), -1)
    columns = [torch.randint(VOCAB, (n,), generator=draw)]
    for _ in range(SEQ_LEN):
        columns.append(torch.multinomial(chain[columns[-1]], 1, generator=draw)[:, 0])
    return torch.stack(columns, 1)


def final_loss(spec: RunSpec, batches: torch.Tensor) -> float:
    model = model_of(spec)
    optimizer = build_optimizer(model, spec)
    losses = []
    for step in range(spec.steps):
        set_learning_rate(optimizer, learning_rate(spec, step))
        loss = loss_of(model, batches[step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return float(np.mean(losses[-10:]))


@pytest.mark.slow
def test_the_best_learning_rate_transfers_over_eight_times_the_width():
    """In factors of two: within one for muP, two or more apart for the standard parametrization."""
    batches = markov_rows(80 * 2 * ROWS).view(80, 2 * ROWS, -1)
    best = {}
    for kind in ("standard", "mup"):
        for width in (16, 128):
            loss = [
                final_loss(
                    spec_of(kind, width, 1, 2.0**k, warmup_steps=8, warmup_fraction=0.5), batches
                )
                for k in range(-9, -2)
            ]
            best[kind, width] = int(np.argmin(loss))
    assert abs(best["mup", 16] - best["mup", 128]) <= 1, best
    assert best["standard", 16] - best["standard", 128] >= 2, best


# Settings


BAD = [
    ({"parametrization": "ntk"}, "recipe.parametrization='ntk': choose one of standard, mup, completep"),
    ({"parametrization": "mup", "lr_width_exponent": 0.5}, "Give recipe.lr_width_exponent=0 instead of 0.5"),
    ({"parametrization": "completep"}, "give the number of layers"),
    ({"parametrization": "mup", "base_layers": 4}, "With completep, give the number of layers"),
    ({"base_layers": 4}, "With completep, give the number of layers"),
    ({"parametrization": "completep", "base_layers": 4, "optimizer": "adam"}, "decay of AdamW"),
    ({"parametrization": "mup", "lr_batch_rule": "deepseek", "peak_lr": 0}, "rates for the standard"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "why"), BAD, ids=[str(r) for r, _ in BAD])
def test_inconsistent_settings_are_refused(recipe, why):
    with pytest.raises(InputError, match=why):
        RecipeConfig(**recipe)


def test_a_spec_has_the_base_shape_of_its_parametrization_only():
    plain, mup = spec_of("standard", 64), spec_of("mup", 64)
    assert (plain.base_width, mup.base_width, mup.base_layers) == (0, BASE_WIDTH, 0)
    assert spec_of("completep", 64).base_layers == BASE_LAYERS
    assert mup.peak_lr == plain.peak_lr == 1e-2  # the run's; the shape's factors come on top

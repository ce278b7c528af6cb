"""Hand-written gradients equal those of autograd; extreme logits give the right loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chinchilla.model import functions
from chinchilla.model.functions import NORM_EPS, rms_norm, rotate, total_loss
from chinchilla.model.layers import rope_angles
from chinchilla.plan.memory import padded_vocab

torch.set_num_threads(1)


def drawn(*sizes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sizes, generator=generator, dtype=dtype).requires_grad_()


def agree(ours: Tensor, reference: Tensor, inputs: list[Tensor], rtol: float = 1e-9) -> None:
    """Compare values, and gradients of a weighted sum of them."""
    weights = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(ours, reference.to(ours.dtype), rtol=rtol, atol=rtol)
    got = torch.autograd.grad((ours * weights).sum(), inputs)
    expected = torch.autograd.grad((reference * weights).sum(), inputs)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


def test_rms_norm():
    x, gain = drawn(3, 5, 8), drawn(8, seed=1)
    agree(rms_norm(x, gain), F.rms_norm(x, (8,), gain, NORM_EPS), [x, gain])


def test_rms_norm_of_nothing_is_nothing():
    x = torch.zeros(2, 8, requires_grad=True)
    y = rms_norm(x, torch.ones(8))
    y.sum().backward()
    assert not y.any()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rms_norm_keeps_the_dtype_and_sums_in_fp32(dtype: torch.dtype):
    """The sum of squares of 4096 numbers near 200 exceeds the precision of bf16, not of fp32."""
    x = (200 + drawn(2, 4096, dtype=torch.float32)).to(dtype).detach()
    y = rms_norm(x, torch.ones(4096))
    assert y.dtype == dtype
    assert y.float().mean().item() == pytest.approx(1.0, abs=4e-3)


def test_rotation():
    x, angles = drawn(2, 7, 3, 8), rope_angles(11, 8).double()
    z = torch.complex(angles[0, :7], angles[1, :7])
    turned = torch.complex(x[..., :4], x[..., 4:]) * z[:, None]
    agree(rotate(x, angles), torch.cat((turned.real, turned.imag), -1), [x])


@pytest.mark.parametrize("rows", [1, 5, 12, 100])
@pytest.mark.parametrize("vocab_size", [17, 1024])
def test_the_loss_of_all_targets(monkeypatch: pytest.MonkeyPatch, rows: int, vocab_size: int):
    """With several chunk sizes, also one that does not divide the rows; 1,024 is padded."""
    monkeypatch.setattr(functions, "loss_chunk_rows", lambda columns, device: rows)
    x, W, b = drawn(12, 6), drawn(vocab_size, 6, seed=1), drawn(vocab_size, seed=2)
    targets = torch.randint(vocab_size, (12,), generator=torch.Generator().manual_seed(3))
    reference = F.cross_entropy(F.linear(x, W, b), targets, reduction="sum")
    agree(total_loss(x, W, b, targets), reference, [x, W, b])
    with torch.no_grad():
        assert total_loss(x, W, b, targets).item() == pytest.approx(reference.item(), rel=1e-12)


def test_the_loss_of_bf16_rows_has_fp32_gradients_of_fp32_weights():
    x = drawn(512, 32, dtype=torch.float32).detach().bfloat16().requires_grad_()
    W, b = drawn(300, 32, seed=1, dtype=torch.float32), drawn(300, seed=2, dtype=torch.float32)
    targets = torch.randint(300, (512,), generator=torch.Generator().manual_seed(3))
    total_loss(x, W, b, targets).backward()
    got = [x.grad, W.grad, b.grad]
    assert [g.dtype for g in got] == [torch.bfloat16, torch.float32, torch.float32]
    x64, W64, b64 = (t.detach().double().requires_grad_() for t in (x, W, b))
    F.cross_entropy(F.linear(x64, W64, b64), targets, reduction="sum").backward()
    for g, expected in zip(got, (x64.grad, W64.grad, b64.grad), strict=True):
        error = (g.double() - expected).norm() / expected.norm()
        assert error < 0.02  # bf16 keeps 8 bits


@pytest.mark.parametrize(
    ("vocab_size", "device", "padded"),
    [
        (50257, "cuda", 50304), (32000, "cuda", 32000), (65, "cuda", 128),
        (1024, "cpu", 1040), (32768, "cpu", 32784), (1000, "cpu", 1000), (50257, "cpu", 50257),
    ],
)  # fmt: skip
def test_the_vocabulary_is_padded_for_matrix_units_and_caches(
    vocab_size: int, device: str, padded: int
):
    assert padded_vocab(vocab_size, device) == padded


@pytest.mark.parametrize("grad", [False, True])
def test_padding_of_the_vocabulary_changes_nothing(monkeypatch: pytest.MonkeyPatch, grad: bool):
    x, W, b = drawn(12, 6), drawn(17, 6, seed=1), drawn(17, seed=2)
    targets = torch.randint(17, (12,), generator=torch.Generator().manual_seed(3))
    found = []
    for padded in (17, 18, 32, 128):
        monkeypatch.setattr(functions, "padded_vocab", lambda n, device, padded=padded: padded)
        with torch.set_grad_enabled(grad):
            loss = total_loss(x, W, b, targets)
        found.append([loss, *(torch.autograd.grad(loss, [x, W, b]) if grad else ())])
    for other in found[1:]:
        for got, expected in zip(other, found[0], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("grad", [False, True])
def test_huge_logits_neither_overflow_nor_vanish(grad: bool):
    """The loss is exact even if the probability underflows in fp32."""
    W = torch.tensor([[1e4], [0.0], [-1e4]], requires_grad=grad)
    for target, expected in ((0, 0.0), (1, 1e4), (2, 2e4)):
        loss = total_loss(torch.ones(1, 1), W, torch.zeros(3), torch.tensor([target]))
        assert loss.item() == expected


def test_a_nan_in_the_weights_gives_a_nan_loss():
    W = torch.tensor([[math.nan], [0.0]], requires_grad=True)
    loss = total_loss(torch.ones(1, 1), W, torch.zeros(2), torch.tensor([1]))
    assert math.isnan(loss.item())


def test_an_evaluation_makes_no_gradients(monkeypatch: pytest.MonkeyPatch):
    """Not even of trained weights: gradients would double the time and need another matrix."""
    made = []
    monkeypatch.setattr(functions, "chunk_gradients", lambda *a: made.append(a))
    W = torch.randn(17, 6, requires_grad=True)
    with torch.no_grad():
        total_loss(torch.randn(12, 6), W, torch.zeros(17), torch.zeros(12, dtype=torch.long))
    assert not made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_form_for_the_compiler_gives_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
):
    x, W, b = drawn(64, 16), drawn(40, 16, seed=1), drawn(40, seed=2)
    arguments = [a.detach().to(dtype) for a in (x, W, b)]
    targets = torch.randint(40, (64,), generator=torch.Generator().manual_seed(3))
    expected = functions.chunk_gradients(*arguments, targets)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for got, e in zip(functions.chunk_gradients(*arguments, targets), expected, strict=True):
        torch.testing.assert_close(got, e, rtol=1e-5, atol=1e-6)

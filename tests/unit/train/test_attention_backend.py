"""The attention kernel is the fastest one that supports the shape."""

import contextlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend
from train_world import make_spec

from chinchilla.train import attention_backend

CPU = torch.device("cpu")
BOTH = (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)


@pytest.fixture(autouse=True)
def _anew():
    attention_backend.fastest_backend.cache_clear()


@pytest.mark.parametrize("first", BOTH)
def test_the_fastest_kernel_is_chosen(monkeypatch: pytest.MonkeyPatch, first: SDPBackend):
    """Every candidate runs forward and backward; only the measured time is replaced."""
    real, seen = attention_backend._seconds, []

    def fake_seconds(*size):
        real(*size)
        on = (
            SDPBackend.FLASH_ATTENTION
            if torch.backends.cuda.flash_sdp_enabled()
            else SDPBackend.MATH
        )
        seen.append(on)
        return 1.0 if on == first else 2.0

    monkeypatch.setattr(attention_backend, "_seconds", fake_seconds)
    assert (
        attention_backend.fastest_backend(BOTH, (2, 2, 16, 8), False, torch.float32, CPU) == first
    )
    assert seen == list(BOTH)


def test_an_unsupported_kernel_is_skipped():
    only_gpus = (SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)
    assert (
        attention_backend.fastest_backend(only_gpus, (2, 2, 16, 8), False, torch.float32, CPU)
        in only_gpus[1:]
    )
    # The flash kernel has no gradient for a learned bias on the scores.
    assert (
        attention_backend.fastest_backend(BOTH, (2, 2, 16, 8), True, torch.float32, CPU)
        == SDPBackend.MATH
    )
    assert attention_backend.fastest_backend((), (2, 2, 16, 8), False, torch.float32, CPU) is None


def test_a_cpu_uses_torchs_default_kernel():
    """The bits of a run must not depend on a timing."""
    shape = make_spec().model
    kept = attention_backend.fastest_attention(shape, 4, torch.float32, CPU)
    assert isinstance(kept, contextlib.nullcontext)


@pytest.mark.slow
def test_a_program_compiled_for_another_kernel_is_not_loaded_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def one_layer(x: torch.Tensor) -> torch.Tensor:
        return 2 * F.scaled_dot_product_attention(x, x, x, is_causal=True)

    for kernel in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        torch._dynamo.reset()
        counters.clear()
        x = torch.randn(2, 2, 16, 8)  # without gradients compilation takes half the time
        with attention_backend.restrict_to(kernel):
            program = torch.compile(one_layer)
            program(x)
            with torch.profiler.profile() as seen:
                program(x)
        flash = any("flash_attention" in event.key for event in seen.key_averages())
        assert flash == (kernel == SDPBackend.FLASH_ATTENTION)
    assert counters["aot_autograd"]["autograd_cache_hit"] == 1, "the third time it was there"

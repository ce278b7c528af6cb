"""The attention kernel is the fastest one that supports the shape."""

import contextlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch.nn import attention
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


def test_flash_attention_3_is_measured_on_a_hopper_where_its_package_is_installed(
    monkeypatch: pytest.MonkeyPatch,
):
    gpu, found = torch.device("cuda"), []
    for major, package in ((9, object()), (9, None), (10, object()), (8, object())):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where, m=major: (m, 0))
        monkeypatch.setattr(attention_backend.importlib.util, "find_spec", lambda n, p=package: p)
        attention_backend.candidates_on.cache_clear()
        found.append(attention_backend.FA3 in attention_backend.candidates_on(gpu))
    attention_backend.candidates_on.cache_clear()
    assert found == [True, False, False, False]


def test_flash_attention_3_is_active_only_where_it_is_selected(monkeypatch: pytest.MonkeyPatch):
    """Torch's registry with a substitute for the kernels."""
    events = []

    class Handle:
        def remove(self):
            events.append("off")

    def register():
        events.append("on")
        return Handle()

    monkeypatch.setitem(attention._registry._FLASH_ATTENTION_IMPLS, "FA3", register)
    for kernel in (SDPBackend.MATH, "FA3", "FA3", SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with attention_backend.restrict_to(kernel):
            events.append(attention_backend.name_of(kernel))
            assert attention.current_flash_attention_impl() == (kernel if kernel == "FA3" else None)
    assert events == ["MATH", "on", "FA3", "FA3", "off", "FLASH_ATTENTION", "MATH"]


def test_a_flash_attention_3_that_cannot_be_loaded_is_skipped(monkeypatch: pytest.MonkeyPatch):
    def register():
        raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setitem(attention._registry._FLASH_ATTENTION_IMPLS, "FA3", register)
    size = (2, 2, 16, 8)
    chosen = attention_backend.fastest_backend(
        ("FA3", SDPBackend.MATH), size, False, torch.float32, CPU
    )
    assert chosen == SDPBackend.MATH


def test_a_shape_without_a_fast_kernel_is_reported(caplog: pytest.LogCaptureFixture):
    attention_backend.fastest_backend((), (2, 2, 16, 8), False, torch.float32, CPU)
    [message] = [r.getMessage() for r in caplog.records]
    assert message.startswith("no fast attention kernel supports (2, 2, 16, 8) torch.float32")

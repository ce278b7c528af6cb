"""precision=auto on machines with and without bf16 units."""

import pytest
import torch

from chinchilla.commands import plan
from chinchilla.config import ClusterConfig, RecipeConfig


@pytest.mark.parametrize(
    ("name", "capability", "precision"),
    [("Tesla T4", (7, 5), "fp32"), ("Tesla V100-SXM2-16GB", (7, 0), "fp32"), ("NVIDIA A100", (8, 0), "bf16")],
)  # fmt: skip
def test_a_gpu_without_bf16_units_trains_in_fp32_with_a_notice(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    name: str,
    capability: tuple[int, int],
    precision: str,
):
    monkeypatch.setattr(plan.Path, "exists", lambda path: True)
    monkeypatch.setattr(plan.metadata, "version", lambda package: "2.13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: capability)
    recipe, cluster = RecipeConfig(precision="auto"), ClusterConfig(kind="local")
    assert plan.chosen_precision(recipe, cluster, "auto") == precision
    notice = f"note: {name} has no bf16 units; the plan uses fp32.\n"
    assert capsys.readouterr().err == (notice if precision == "fp32" else "")
    assert plan.chosen_precision(RecipeConfig(precision="bf16"), cluster, "auto") == "bf16"

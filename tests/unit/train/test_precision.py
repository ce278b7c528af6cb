"""bf16 and fp32 training over a whole run of 1e11 FLOPs; tests/gpu has one of 1e15."""

from pathlib import Path

import numpy as np
import pytest
from small_world import make_speeches
from train_world import make_runtime

from chinchilla.config import RecipeConfig
from chinchilla.core.shapes import ModelShape
from chinchilla.data.dataset import TokenData
from chinchilla.plan.grid import plan_run
from chinchilla.plan.records import Curve
from chinchilla.train import train_run


@pytest.mark.slow
def test_bf16_ends_where_fp32_does_after_1e11_flops(tmp_path: Path):
    """Final loss and the mean loss of each tenth of the run agree within half a percent."""
    data_dir = make_speeches(tmp_path / "speeches", 40, 512)
    data = TokenData.open(data_dir)
    found = {}
    for precision in ("fp32", "bf16"):
        spec = plan_run(
            ModelShape(64, 256, 32, 2, 2, data.vocab_size, 64),
            RecipeConfig(peak_lr=4e-3, batch_tokens=2048, warmup_fraction=0.1),
            flop_convention="with_head",
            data_id=data.data_id,
            precision=precision,
            budget_flops=1e11,
        )
        runtime = make_runtime(validation_tokens=4096, validation_evals=2)
        result = train_run(spec, tmp_path / precision, data_dir, runtime)
        loss = Curve.load(tmp_path / precision).loss
        assert loss[0] - loss[-1] > 1.5, "it learns"
        tenths = [part.mean() for part in np.array_split(loss, 10)]
        found[precision] = [*tenths, result.final_loss, result.validation_loss["validation"]]
    assert found["bf16"] != found["fp32"]
    np.testing.assert_allclose(found["bf16"], found["fp32"], rtol=0.005)

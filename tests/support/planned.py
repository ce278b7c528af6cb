"""One planned run, for tests of plans, prices and memory."""

from typing import Any

from chinchilla.config import RecipeConfig
from chinchilla.core.shapes import ModelShape, named_shapes
from chinchilla.plan.grid import plan_run
from chinchilla.plan.records import RunSpec

SMALL = named_shapes()["44m"]


def one_run(
    shape: ModelShape = SMALL, recipe: RecipeConfig | None = None, **changes: Any
) -> RunSpec:
    """A run of the paper's smallest budget, or with other settings of `plan_run`."""
    settings: dict[str, Any] = {
        "flop_convention": "paper", "data_id": "d", "precision": "bf16", "budget_flops": 6e18,
        **changes,
    }  # fmt: skip
    return plan_run(shape, recipe or RecipeConfig(), **settings)

"""Peak learning rate and batch size from published laws.

A recipe names a law (`recipe.lr_batch_rule`), which fills in the settings that are 0. A law depends on
the model and the run's tokens D. Outside of the range it was fitted on it is an extrapolation, for
which `extrapolation_warnings` has a line. docs/recipes.md has the formulas with their sources.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chinchilla.config import RecipeConfig
from chinchilla.core.shapes import ModelShape, n_params_non_embedding
from chinchilla.plan.records import RunSpec, count_label


@dataclass(frozen=True)
class Rule:
    """A published law; every function takes (shape, D)."""

    source: str
    peak_lr: Callable[[ModelShape, float], float]
    batch_tokens: Callable[[ModelShape, float], float]  # before rounding
    # Quantity -> lowest and highest value of the runs that the law was fitted on, and a run's value.
    valid: dict[str, tuple[float, float, Callable[[ModelShape, float], float]]]
    highest_lr: float = math.inf  # extrapolated rates are limited to it
    final_lr: float = 0.0  # absolute rate at the end of a cosine; 0 = the recipe's final_lr_ratio


def deepseek_flops(shape: ModelShape, D: float) -> float:
    """DeepSeek's C = M * D with M = 72*n_layers*d_model^2 + 12*n_layers*d_model*seq_len."""
    d, n = shape.d_model, shape.n_layers
    return (72 * n * d**2 + 12 * n * d * shape.seq_len) * D


RULES = {
    "step_law": Rule(
        source="Step Law, arXiv 2503.04715",
        peak_lr=lambda shape, D: 1.79 * n_params_non_embedding(shape) ** -0.713 * D**0.307,
        batch_tokens=lambda shape, D: 0.58 * D**0.571,
        valid={
            "non-embedding N": (60e6, 1e9, lambda shape, D: n_params_non_embedding(shape)),
            "D": (2e9, 100e9, lambda shape, D: D),
        },
        # The highest best rate of its runs; 6,000 parameters and 1e6 tokens would get .25 instead of .024.
        highest_lr=2**-7,
        final_lr=1e-5,
    ),
    "deepseek": Rule(
        source="DeepSeek LLM, arXiv 2401.02954",
        peak_lr=lambda shape, D: 0.3118 * deepseek_flops(shape, D) ** -0.1250,
        batch_tokens=lambda shape, D: 0.2920 * deepseek_flops(shape, D) ** 0.3271,
        valid={"C": (1e17, 3e20, deepseek_flops)},
    ),
}


def apply_rule(recipe: RecipeConfig, shape: ModelShape, D: float) -> RecipeConfig:
    """The recipe of one run, with zeros filled in by its law.

    The batch is rounded to the nearest multiple of batch_multiple_rows rows, and is at least one
    multiple.

    Args:
        recipe: the law sets peak_lr and batch_tokens if they are 0, and final_lr_ratio if it is 0 and
            the law has a final rate.
        shape: the model.
        D: planned training tokens, before rounding to whole steps.
    """
    if recipe.lr_batch_rule == "none":
        return recipe
    rule = RULES[recipe.lr_batch_rule]
    lr = recipe.peak_lr or min(rule.peak_lr(shape, D), rule.highest_lr)
    unit = recipe.batch_multiple_rows * shape.seq_len
    batch = recipe.batch_tokens or max(1, round(rule.batch_tokens(shape, D) / unit)) * unit
    ratio = recipe.final_lr_ratio or min(1.0, rule.final_lr / lr)
    return replace(
        recipe, lr_batch_rule="none", peak_lr=lr, batch_tokens=batch, final_lr_ratio=ratio
    )  # fmt: skip


def published_lr(shape: ModelShape, D: float) -> dict[str, float]:
    """Peak rates for a model: of each law, and of the paper (`recipe=paper`)."""
    paper = 2e-4 * (512 / shape.d_model) ** 0.2041  # configs/recipe/paper.yaml
    laws = {name: min(r.peak_lr(shape, D), r.highest_lr) for name, r in RULES.items()}
    return {"paper": paper, **laws}


def extrapolation_warnings(recipe: RecipeConfig, specs: Sequence[RunSpec]) -> list[str]:
    """A line for each quantity in which runs are outside of the range the recipe's law was fitted on."""
    if recipe.lr_batch_rule == "none":
        return []
    rule = RULES[recipe.lr_batch_rule]
    lines = []
    for name, (low, high, value_of) in rule.valid.items():
        values = [value_of(s.model, s.D) for s in specs]
        outside = [x for x in values if not low <= x <= high]
        if outside:
            lines.append(
                f"recipe.lr_batch_rule={recipe.lr_batch_rule} ({rule.source}) was fitted on {name} from {_label(low)} to "
                f"{_label(high)}: {len(outside)} of {len(values)} runs lie outside, "
                f"{_label(min(outside))} to {_label(max(outside))}."
            )
    return lines


def _label(x: float) -> str:
    return count_label(x) if x < 1e15 else f"{x:.3g}"

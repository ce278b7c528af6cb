"""Peak learning rate and batch size by published laws. Floor 0.

A recipe names a law (`recipe.lr_batch_rule`) and leaves to it what it gives as 0. A law knows the model and
the run's tokens D, and says for which it was fitted; outside it is an extrapolation, and `doubts`
says so. docs/recipes.md has the formulas beside their sources.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chinchilla.config import RecipeConfig
from chinchilla.core.shapes import ModelShape, n_params_non_embedding
from chinchilla.plan.records import RunSpec, count_label


@dataclass(frozen=True)
class Rule:
    """A law for runs of one shape and length; every function takes (shape, D)."""

    source: str
    peak_lr: Callable[[ModelShape, float], float]
    batch_tokens: Callable[[ModelShape, float], float]  # before rounding
    valid: dict[str, tuple[float, float]]  # quantity -> from, to: the runs that it was fitted on
    quantities: Callable[[ModelShape, float], dict[str, float]]  # ... of a run
    final_lr: float = 0.0  # rate at the end of a cosine, whatever the peak; 0 = the recipe's ratio


def deepseek_flops(shape: ModelShape, D: float) -> float:
    """C = M * D as DeepSeek counts it: M = 72*n_layers*d_model^2 + 12*n_layers*d_model*seq_len."""
    d, n = shape.d_model, shape.n_layers
    return (72 * n * d**2 + 12 * n * d * shape.seq_len) * D


RULES = {
    "step_law": Rule(
        source="Step Law, arXiv 2503.04715",
        peak_lr=lambda shape, D: 1.79 * n_params_non_embedding(shape) ** -0.713 * D**0.307,
        batch_tokens=lambda shape, D: 0.58 * D**0.571,
        valid={"non-embedding N": (60e6, 1e9), "D": (2e9, 100e9)},
        quantities=lambda shape, D: {"non-embedding N": n_params_non_embedding(shape), "D": D},
        final_lr=1e-5,
    ),
    "deepseek": Rule(
        source="DeepSeek LLM, arXiv 2401.02954",
        peak_lr=lambda shape, D: 0.3118 * deepseek_flops(shape, D) ** -0.1250,
        batch_tokens=lambda shape, D: 0.2920 * deepseek_flops(shape, D) ** 0.3271,
        valid={"C": (1e17, 3e20)},
        quantities=lambda shape, D: {"C": deepseek_flops(shape, D)},
    ),
}


def by_rule(recipe: RecipeConfig, shape: ModelShape, D: float) -> RecipeConfig:
    """The recipe of one run, with what it leaves to its law filled in.

    A batch is rounded to the nearest multiple of batch_multiple_rows rows, and is at least one.

    Args:
        recipe: peak_lr=0, batch_tokens=0 and (of a law that states one) final_lr_ratio=0 are the law's.
        shape: the model.
        D: training tokens asked for, before they are rounded to whole steps.
    """
    if recipe.lr_batch_rule == "none":
        return recipe
    rule = RULES[recipe.lr_batch_rule]
    lr = recipe.peak_lr or rule.peak_lr(shape, D)
    unit = recipe.batch_multiple_rows * shape.seq_len
    batch = recipe.batch_tokens or max(1, round(rule.batch_tokens(shape, D) / unit)) * unit
    ratio = recipe.final_lr_ratio or min(1.0, rule.final_lr / lr)
    return replace(
        recipe, lr_batch_rule="none", peak_lr=lr, batch_tokens=batch, final_lr_ratio=ratio
    )  # fmt: skip


def doubts(recipe: RecipeConfig, specs: Sequence[RunSpec]) -> list[str]:
    """A line for each quantity by which runs lie outside of what the recipe's law was fitted on."""
    if recipe.lr_batch_rule == "none":
        return []
    rule = RULES[recipe.lr_batch_rule]
    found = []
    for name, (low, high) in rule.valid.items():
        values = [rule.quantities(s.model, s.D)[name] for s in specs]
        outside = [x for x in values if not low <= x <= high]
        if outside:
            found.append(
                f"recipe.lr_batch_rule={recipe.lr_batch_rule} ({rule.source}) was fitted on {name} from {_label(low)} to "
                f"{_label(high)}: {len(outside)} of {len(values)} runs lie outside, "
                f"{_label(min(outside))} to {_label(max(outside))}."
            )
    return found


def _label(x: float) -> str:
    return count_label(x) if x < 1e15 else f"{x:.3g}"

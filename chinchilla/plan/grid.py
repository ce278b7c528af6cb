"""Plan runs: one RunSpec from a budget, a list of RunSpecs from a grid, and checks of a plan.

Section 3 of Hoffmann et al. (2022): for each budget several sizes with D = C / FLOPs per token
and a cosine matched to D (approach 2), and some sizes at several lengths (approach 1). Derived
numbers (steps, warm-up, learning rate) are computed only here.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from chinchilla.config import GridConfig, ModelConfig, RecipeConfig
from chinchilla.core.errors import DataError, InputError, Problems, Refusal, UserError
from chinchilla.core.shapes import ModelShape, flops_per_token, n_params, shape_named
from chinchilla.core.units import number
from chinchilla.plan.lr_rules import apply_rule, published_lr
from chinchilla.plan.records import MAX_STEPS, RunSpec, count_label

MAX_USEFUL_EPOCHS = 40  # beyond them repeats have no measurable value (Muennighoff et al. 2023)


def build_shape(model: ModelConfig, vocab_size: int) -> ModelShape:
    """The shape of a ModelConfig, with defaults for zeros: ffw 4*d_model, d_model/kv_size heads.

    Args:
        model: widths and depth.
        vocab_size: the tokenizer's, used if the config does not set one.

    Raises:
        InputError: d_model is not a multiple of kv_size, or no vocabulary size is known.
    """
    if model.kv_size < 1 or (model.n_heads == 0 and model.d_model % model.kv_size):
        raise InputError(
            f"model.d_model={model.d_model} is not a multiple of model.kv_size={model.kv_size}. "
            "Change one, or give model.n_heads."
        )
    vocab_size = model.vocab_size or vocab_size
    if not vocab_size:
        raise InputError("model.vocab_size is not known: give it, or a data_dir with a tokenizer.")
    return ModelShape(
        d_model=model.d_model,
        ffw_size=model.ffw_size or 4 * model.d_model,
        kv_size=model.kv_size,
        n_heads=model.n_heads or model.d_model // model.kv_size,
        n_layers=model.n_layers,
        vocab_size=vocab_size,
        seq_len=model.seq_len,
        positions=model.positions,
    )


def plan_run(
    shape: ModelShape,
    recipe: RecipeConfig,
    *,
    flop_convention: str,
    data_id: str,
    precision: str,
    budget_flops: float | None = None,
    tokens: float | None = None,
    sweep: str = "",
    min_steps: int = 1,
) -> RunSpec:
    """Plan one run: its number of steps from the budget, and everything that follows from it.

    Args:
        shape: the model.
        recipe: learning rate, batch, schedule; zeros are filled in by its `lr_batch_rule`.
        flop_convention: key of shapes.FLOP_CONVENTIONS in which the budget is counted.
        data_id: hash of the token manifest.
        precision: one of config.groups.PRECISIONS, not auto.
        budget_flops: training FLOPs; the number of steps is rounded to the nearest integer.
        tokens: D, instead of a budget.
        sweep: name of the sweep.
        min_steps: a run with fewer steps is refused.

    Raises:
        InputError: the batch is not a multiple of seq_len, or not exactly one of budget_flops and
            tokens is given.
        Refusal: too few steps, or too few for warm-up and cool-down.
    """
    if bool(budget_flops) == bool(tokens):
        raise InputError("give one of budget_flops (training FLOPs) or tokens (training tokens).")
    D = tokens or (budget_flops or 0.0) / flops_per_token(shape, flop_convention)
    recipe = apply_rule(recipe, shape, D)
    if recipe.batch_tokens % shape.seq_len:
        raise InputError(
            f"recipe.batch_tokens={recipe.batch_tokens} is not a multiple of seq_len={shape.seq_len}. "
            f"The nearest is {max(1, round(recipe.batch_tokens / shape.seq_len)) * shape.seq_len}."
        )
    steps = round(D / recipe.batch_tokens)
    if steps < min_steps:
        planned = f"budget {budget_flops:.3g} FLOPs" if budget_flops else f"{D:.3g} tokens"
        raise Refusal(
            f"{planned} gives N={count_label(n_params(shape))} only {D:.3g} tokens = "
            f"{number(D / recipe.batch_tokens)} steps of {recipe.batch_tokens} tokens; at least {min_steps} "
            "are needed. Lower recipe.batch_tokens, raise the budget, or take a smaller model."
        )
    if steps > MAX_STEPS:
        raise Refusal(
            f"N={count_label(n_params(shape))} at {D:.3g} tokens has {steps:,} steps of {recipe.batch_tokens:,} "
            f"tokens with recipe={recipe.name}; at most {MAX_STEPS:,} are planned. Lower tokens, raise recipe.batch_tokens, or "
            "choose another recipe: recipe=step_law sets the batch of each run."
        )
    warmup = min(recipe.warmup_steps, math.ceil(recipe.warmup_fraction * steps))
    cooldown = 0
    if recipe.schedule == "cooldown":  # the stable phase must not depend on the length
        warmup, cooldown = recipe.warmup_steps, max(1, round(recipe.cooldown_fraction * steps))
        if warmup + cooldown > steps:
            raise Refusal(
                f"N={count_label(n_params(shape))} at {D:.3g} tokens has {steps} steps: {warmup} of warm-up "
                f"and {cooldown} of cool-down do not fit. Lower recipe.warmup_steps (with "
                "recipe.schedule=cooldown it is the same for every horizon) or recipe.batch_tokens."
            )
    peak_lr = recipe.peak_lr * (recipe.lr_base_width / shape.d_model) ** recipe.lr_width_exponent
    _check_lr(peak_lr, recipe, shape, D)
    return RunSpec(
        sweep=sweep,
        budget_flops=float(budget_flops) if budget_flops else None,
        flop_convention=flop_convention,
        model=shape,
        data_id=data_id,
        batch_tokens=recipe.batch_tokens,
        steps=steps,
        cosine_steps=round(recipe.cosine_cycle * steps),
        warmup_steps=warmup,
        peak_lr=peak_lr,
        final_lr_ratio=recipe.final_lr_ratio,
        weight_decay=recipe.weight_decay,
        beta1=recipe.beta1,
        beta2=recipe.beta2,
        adam_eps=recipe.adam_eps,
        grad_clip=recipe.grad_clip,
        precision=precision,
        seed=recipe.seed,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        cooldown_steps=cooldown,
        parametrization=recipe.parametrization,
        base_width=0 if recipe.parametrization == "standard" else recipe.lr_base_width,
        base_layers=recipe.base_layers,
        recipe=recipe.name,
    )


def _check_lr(peak_lr: float, recipe: RecipeConfig, shape: ModelShape, D: float) -> None:
    """Refuse a peak rate far from all published ones; that of mup and completep is for another width."""
    published = published_lr(shape, D)
    off = max(peak_lr / max(published.values()), min(published.values()) / peak_lr)
    if recipe.parametrization == "standard" and off > recipe.max_lr_ratio:
        laws = ", ".join(f"{name} {lr:.2g}" for name, lr in published.items())
        raise Refusal(
            f"N={count_label(n_params(shape))} at {D:.3g} tokens has the peak rate {peak_lr:.2g} with "
            f"recipe={recipe.name}, {off:.2g} times outside of the published ones ({laws}). Choose another recipe or "
            f"recipe.peak_lr, or allow it with recipe.max_lr_ratio={1.01 * off:.3g}."
        )


def plan_grid(
    grid: GridConfig,
    recipe: RecipeConfig,
    *,
    vocab_size: int,
    data_id: str,
    precision: str,
    problems: Problems | None = None,
) -> list[RunSpec]:
    """Expand a grid into its runs: IsoFLOP curves, then runs of several lengths, without repeats.

    Args:
        grid: budgets and sizes.
        recipe: learning rate, batch, schedule.
        vocab_size: of the tokenizer, used if the grid does not set one.
        data_id: hash of the token manifest.
        precision: one of config.groups.PRECISIONS, not auto.
        problems: if given, receives refusals instead of raising them, and the other runs are returned.

    Raises:
        InputError: unknown model names, or no vocabulary size.
        Refusal: the sizes of a budget do not bracket its expected optimum, or runs are too short; all
            reasons together.
    """
    vocab = grid.vocab_size or vocab_size
    if not vocab:
        raise InputError(
            "grid.vocab_size is not known: give it, or data_dir=FOLDER of `chinchilla data`."
        )
    found = Problems() if problems is None else problems
    shape = functools.partial(
        shape_named, vocab_size=vocab, seq_len=grid.seq_len, kv_size=grid.kv_size, positions=grid.positions
    )  # fmt: skip
    run = functools.partial(
        plan_run, recipe=recipe, flop_convention=grid.flop_convention, data_id=data_id,
        precision=precision, sweep=grid.name, min_steps=grid.min_steps,
    )  # fmt: skip
    candidates = sorted({shape(name) for name in grid.models}, key=n_params)
    wanted: list[tuple[ModelShape, dict[str, Any]]] = []  # with its budget_flops or tokens
    curves = []
    for budget in sorted(set(grid.budgets)):
        expected = grid.expected_coefficient * budget**grid.expected_exponent
        sizes = _around(candidates, expected, grid.sizes_per_budget, grid.span)
        curves.append(_Curve(budget, expected, [n_params(s) for s in sizes]))
        wanted += [(s, {"budget_flops": budget}) for s in sizes]
    _check_isoflop_sizes(curves, grid, found)
    for name in grid.horizon_models:
        s = shape(name)
        wanted += [(s, {"tokens": r * n_params(s)}) for r in grid.horizon_tokens_per_param]
    specs, refused = [], []
    for s, size in wanted:
        try:
            specs.append(run(s, **size))
        except (InputError, Refusal) as error:
            refused.append((size, error))
    found.errors += _worst(refused)
    if problems is None:
        found.raise_any()
    planned = {replace(spec, budget_flops=None).run_id for spec in specs if spec.budget_flops}
    specs = [s for s in specs if s.budget_flops or s.run_id not in planned]  # some are on a curve
    return list({spec.run_id: spec for spec in specs}.values())


def _worst(refused: Sequence[tuple[dict[str, Any], UserError]]) -> list[UserError]:
    """Of refusals with the same remedy, that of the largest model of the first budget."""
    kinds: dict[str, list[tuple[dict[str, Any], UserError]]] = {}
    for size, error in refused:  # the last sentence is the remedy
        kinds.setdefault(str(error).rpartition(". ")[2], []).append((size, error))
    worst = []
    for same in kinds.values():
        error = [error for size, error in same if size == same[0][0]][-1]
        if len({str(error) for _, error in same}) > 1:
            s = "" if len(same) == 2 else "s"
            error = type(error)(f"{error} The same holds for {len(same) - 1} other run{s}.")
        worst.append(error)
    return worst


def _around(
    candidates: Sequence[ModelShape], expected: float, n: int, span: float
) -> list[ModelShape]:
    """The n candidates nearest to sizes that are log-spaced from expected/span to expected*span."""
    if not n or n >= len(candidates):
        return list(candidates)
    free, taken = list(candidates), []
    for k in sorted(range(1 - n, n, 2), key=abs):  # the middle first: it gets the closest sizes
        target = expected * span ** (k / max(1, n - 1))
        free.sort(key=lambda s: abs(math.log(n_params(s) / target)))
        taken.append(free.pop(0))
    return sorted(taken, key=n_params)


class _Curve(NamedTuple):
    """The sizes of one budget."""

    budget: float
    expected: float  # N_opt
    N: list[int]


def _check_isoflop_sizes(curves: Sequence[_Curve], grid: GridConfig, problems: Problems) -> None:
    """Refuse budgets whose sizes would not bracket the minimum of the parabola; each reason once."""
    few: dict[int, list[_Curve]] = {}
    edges: dict[tuple[int, str], list[_Curve]] = {}
    for curve in curves:
        if len(curve.N) < grid.min_sizes:
            few.setdefault(len(curve.N), []).append(curve)
        n_smaller = sum(n < curve.expected for n in curve.N)
        side, word = min((n_smaller, "smaller"), (len(curve.N) - n_smaller, "larger"))
        if side < grid.min_side:
            edges.setdefault((side, word), []).append(curve)

    def where(same: list[_Curve]) -> str:
        budgets = ", ".join(f"{curve.budget:.3g}" for curve in same)
        return f"grid {grid.name!r}, budget{'s' if len(same) > 1 else ''} {budgets} FLOPs"

    def span(values: Sequence[float]) -> str:
        return "..".join(dict.fromkeys([count_label(min(values)), count_label(max(values))]))

    for n, same in few.items():
        problems.errors.append(
            Refusal(
                f"{where(same)}: {n} size{'' if n == 1 else 's'}, at least {grid.min_sizes} are needed to fit a parabola and "
                "estimate its error. Add sizes to grid.models."
            )
        )
    for (side, word), same in edges.items():
        some = f"only {side}" if side else "none"
        problems.errors.append(
            Refusal(
                f"{where(same)}: the optimum is expected at N={span([c.expected for c in same])} "
                f"(grid.expected_*), and {some} of the sizes {span([n for c in same for n in c.N])} are "
                f"{word}; {grid.min_side} are needed on each side. Add {word} models to grid.models, or drop "
                f"{'these budgets' if len(same) > 1 else 'this budget'}."
            )
        )


def check_comparable(specs: Sequence[RunSpec]) -> None:
    """Refuse runs whose losses cannot be compared in one fit.

    Raises:
        InputError: data, FLOP convention, precision, optimizer, schedule, parametrization,
            vocabulary or sequence length differ.
    """
    for name in ("data_id", "flop_convention", "precision", "optimizer", "schedule",
                 "parametrization", "vocab_size", "seq_len"):  # fmt: skip
        values = {(vars(s) | vars(s.model))[name] for s in specs}
        if len(values) > 1:
            raise InputError(
                f"runs with different {name} ({', '.join(sorted(map(str, values)))}) cannot share "
                "a sweep: their losses are not comparable. Give each its own sweep_dir."
            )


def check_same_recipe(planned: Sequence[RunSpec], new: Sequence[RunSpec]) -> None:
    """Refuse to add runs to a sweep that contains the same runs with another recipe.

    Raises:
        InputError: a run is planned with two recipes.
    """

    def key(s: RunSpec) -> tuple[object, ...]:
        return s.budget_flops, s.model, s.seed, s.budget_flops or s.D

    known = {key(s): s for s in planned}
    for s in new:
        old = known.get(key(s), s)
        if old.run_id != s.run_id:
            raise InputError(
                f"the sweep's folder has run {old.run_id} with another recipe ({old.differences(s)}): a fit "
                "would mix the two. Give the new recipe its own sweep_dir."
            )


def check_tokens(
    specs: Sequence[RunSpec], available: int, epochs: float, what: str = "tokens that exist"
) -> None:
    """Refuse a plan whose longest run needs more than `epochs` passes over the data.

    Args:
        specs: the plan.
        available: training tokens in one pass.
        epochs: passes allowed.
        what: description of the available tokens, for the message.

    Raises:
        DataError: the longest run needs more tokens.
    """
    longest = max(specs, key=lambda s: s.D)
    allowed = epochs * available
    if longest.D > allowed:
        needed = math.ceil(longest.D / available)
        one = len(specs) == 1
        fewer = "give fewer tokens=" if one else "drop small models from the largest budgets"
        advice = f"Add text, {fewer}, or allow repeats with epochs={needed}"
        if needed > MAX_USEFUL_EPOCHS:
            less = f"or {fewer}" if one else f"{fewer}, or lower its budget"
            advice = f"Add text, {less}: beyond {MAX_USEFUL_EPOCHS} epochs repeats have no value"
        raise DataError(
            f"run {longest.run_id} needs {longest.D:.4g} tokens = {longest.D / available:.2f} epochs of the "
            f"{available:.4g} {what}; epochs={epochs:g} allows {allowed:.4g}. {advice}."
        )

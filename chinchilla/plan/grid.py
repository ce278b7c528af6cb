"""Budget -> RunSpec; grid -> list of RunSpec; what it costs; what cannot be identified.

Section 3 of Hoffmann et al. (2022): for each budget several sizes with D = C / FLOPs per token
and a cosine matched to D (approach 2), and some sizes at several horizons (approach 1). Derived
numbers (steps, warm-up, learning rate) are computed here and nowhere else. Floor 0.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from chinchilla.config import ClusterConfig, GridConfig, ModelConfig, RecipeConfig
from chinchilla.core.errors import DataError, InputError, Refusal
from chinchilla.core.shapes import ModelShape, flops_per_token, n_params, shape_named
from chinchilla.core.units import number
from chinchilla.plan.lr_rules import by_rule
from chinchilla.plan.records import RunSpec, count_label

OPTIMIZER_BYTES = 16  # per parameter: fp32 weight, gradient, two Adam moments


def build_shape(model: ModelConfig, vocab_size: int) -> ModelShape:
    """The shape a ModelConfig means; zeros are filled in (ffw 4*d_model, d_model/kv_size heads).

    Args:
        model: from the command line.
        vocab_size: the tokenizer's, used when the config leaves it open.

    Raises:
        InputError: heads do not divide the width, or no vocabulary size is known.
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
    """Solve one run's steps from its budget, and everything that follows from them.

    Args:
        shape: the model.
        recipe: learning rate, batch, schedule; what it leaves to its rule is filled in.
        flop_convention: key of shapes.FLOP_CONVENTIONS by which the budget is spent.
        data_id: the token manifest's hash.
        precision: one of records.PRECISIONS (already resolved, never auto).
        budget_flops: training FLOPs to spend; steps round to the nearest whole number.
        tokens: D instead of a budget.
        sweep: name of the sweep.
        min_steps: fewer steps are refused.

    Raises:
        InputError: batch not a multiple of seq_len, or both/neither of budget and tokens.
        Refusal: too few steps, also for warm-up and cool-down.
    """
    if (budget_flops is None) == (tokens is None):
        raise InputError("give one of budget_flops (training FLOPs) or tokens (training tokens).")
    budget_flops = None if budget_flops is None else float(budget_flops)
    per_token = flops_per_token(shape, flop_convention)
    D = tokens if tokens is not None else (budget_flops or 0.0) / per_token
    recipe = by_rule(recipe, shape, D)
    if recipe.batch_tokens % shape.seq_len:
        raise InputError(
            f"recipe.batch_tokens={recipe.batch_tokens} is not a multiple of seq_len={shape.seq_len}. "
            f"The nearest is {max(1, round(recipe.batch_tokens / shape.seq_len)) * shape.seq_len}."
        )
    steps = round(D / recipe.batch_tokens)
    if steps < max(1, min_steps):
        asked = f"budget {budget_flops:.3g} FLOPs" if budget_flops else f"{D:.3g} tokens"
        raise Refusal(
            f"{asked} gives N={count_label(n_params(shape))} only {D:.3g} tokens = "
            f"{number(D / recipe.batch_tokens)} steps of {recipe.batch_tokens} tokens; at least "
            f"{max(1, min_steps)} are needed. Lower recipe.batch_tokens, raise the budget, or take a smaller model."
        )
    warmup = min(recipe.warmup_steps, math.ceil(recipe.warmup_fraction * steps))
    cooldown = 0
    if recipe.schedule == "cooldown":  # what comes before the cool-down must not know the horizon
        warmup, cooldown = recipe.warmup_steps, max(1, round(recipe.cooldown_fraction * steps))
        if warmup + cooldown > steps:
            raise Refusal(
                f"N={count_label(n_params(shape))} at {D:.3g} tokens has {steps} steps: {warmup} of warm-up "
                f"and {cooldown} of cool-down do not fit. Lower recipe.warmup_steps (with "
                "recipe.schedule=cooldown it is the same for every horizon) or recipe.batch_tokens."
            )
    lr_scale = (recipe.lr_base_width / shape.d_model) ** recipe.lr_width_exponent
    return RunSpec(
        sweep=sweep,
        budget_flops=budget_flops,
        flop_convention=flop_convention,
        model=shape,
        data_id=data_id,
        batch_tokens=recipe.batch_tokens,
        steps=steps,
        cosine_steps=round(recipe.cosine_cycle * steps),
        warmup_steps=warmup,
        peak_lr=recipe.peak_lr * lr_scale,
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
    )


def plan_grid(
    grid: GridConfig, recipe: RecipeConfig, *, vocab_size: int, data_id: str, precision: str
) -> list[RunSpec]:
    """Expand a grid into its runs: isoFLOP profiles, then horizon runs, no spec twice.

    Raises:
        InputError: unknown model names, or no vocabulary size.
        Refusal: naming the budget whose minimum could not be identified, and what to change.
    """
    vocab = grid.vocab_size or vocab_size
    if not vocab:
        raise InputError(
            "grid.vocab_size is not known: give it, or data_dir=FOLDER of `chinchilla data`."
        )

    def shape(name: str) -> ModelShape:
        return shape_named(name, vocab, grid.seq_len, grid.kv_size, grid.positions)

    def run(s: ModelShape, budget: float | None, tokens: float | None, min_steps: int) -> RunSpec:
        return plan_run(
            s, recipe, flop_convention=grid.flop_convention, data_id=data_id, precision=precision,
            budget_flops=budget, tokens=tokens, sweep=grid.name, min_steps=min_steps,
        )  # fmt: skip

    if grid.expected_coefficient <= 0:
        raise InputError(
            f"grid.expected_coefficient={grid.expected_coefficient} must be above 0: it scales a model size."
        )
    candidates = sorted({shape(name) for name in grid.models}, key=n_params)
    specs = []
    for budget in sorted(set(grid.budgets)):
        expected = grid.expected_coefficient * budget**grid.expected_exponent
        sizes = _around(candidates, expected, grid.sizes_per_budget, grid.span)
        _check_profile(sizes, budget, expected, grid)
        specs += [run(s, budget, None, grid.min_steps) for s in sizes]
    trained = {replace(spec, budget_flops=None).run_id for spec in specs}
    for name in grid.horizon_models:
        s = shape(name)
        horizons = [
            run(s, None, ratio * n_params(s), grid.min_steps)
            for ratio in grid.horizon_tokens_per_param
        ]
        specs += [h for h in horizons if h.run_id not in trained]  # a profile has that very run
    return list({spec.run_id: spec for spec in specs}.values())


def _around(
    candidates: Sequence[ModelShape], expected: float, n: int, span: float
) -> list[ModelShape]:
    """The candidates nearest to n sizes log-spaced from expected/span to expected*span."""
    if not n or n >= len(candidates):
        return list(candidates)
    free, taken = list(candidates), []
    steps = range(1 - n, n, 2)  # centre outwards, so that the middle gets the closest sizes
    for k in sorted(steps, key=abs):
        target = expected * span ** (k / max(1, n - 1))
        best = min(free, key=lambda s: abs(math.log(n_params(s) / target)))
        free.remove(best)
        taken.append(best)
    return sorted(taken, key=n_params)


def _check_profile(
    sizes: Sequence[ModelShape], budget: float, expected: float, grid: GridConfig
) -> None:
    """Refuse a budget whose parabola could not have its minimum inside the sizes tried."""
    where = f"grid {grid.name!r}, budget {budget:.3g} FLOPs"
    if len(sizes) < grid.min_sizes:
        raise Refusal(
            f"{where}: {len(sizes)} sizes, at least {grid.min_sizes} are needed for a parabola with "
            "anything left to judge it by. Add sizes to grid.models."
        )
    N = [n_params(s) for s in sizes]
    below, above = sum(n < expected for n in N), sum(n >= expected for n in N)
    if min(below, above) < grid.min_side:
        side, word = (below, "smaller") if below < above else (above, "larger")
        raise Refusal(
            f"{where}: the optimum is expected at N={count_label(expected)} (grid.expected_*), and only "
            f"{side} of the sizes {count_label(min(N))}..{count_label(max(N))} are {word}; "
            f"{grid.min_side} are needed on each side. Add {word} models to grid.models, or drop this budget."
        )


def check_comparable(specs: Sequence[RunSpec]) -> None:
    """Refuse runs whose losses do not belong in one fit.

    Raises:
        InputError: naming what differs: data, FLOP convention, precision, optimizer, schedule,
            parametrisation, vocabulary, row length.
    """
    told: dict[str, set[object]] = {
        "data_id": {s.data_id for s in specs},
        "flop_convention": {s.flop_convention for s in specs},
        "precision": {s.precision for s in specs},
        "optimizer": {s.optimizer for s in specs},
        "schedule": {s.schedule for s in specs},
        "parametrization": {s.parametrization for s in specs},
        "vocab_size": {s.model.vocab_size for s in specs},
        "seq_len": {s.model.seq_len for s in specs},
    }
    for name, values in told.items():
        if len(values) > 1:
            raise InputError(
                f"runs with different {name} ({', '.join(sorted(map(str, values)))}) do not belong "
                "in one sweep: their losses do not compare. Give each its own sweep_dir."
            )


def check_same_recipe(planned: Sequence[RunSpec], new: Sequence[RunSpec]) -> None:
    """Refuse to add runs to a sweep that has the same ones by another recipe.

    Raises:
        InputError: naming a run and what its two recipes say.
    """
    known = {(s.budget_flops, s.model, s.seed, s.budget_flops or s.D): s for s in planned}
    for s in new:
        old = known.get((s.budget_flops, s.model, s.seed, s.budget_flops or s.D), s)
        if old.run_id != s.run_id:
            a, b = asdict(old), asdict(s)
            differs = ", ".join(f"{k} {a[k]} -> {b[k]}" for k in a if a[k] != b[k] and k != "sweep")
            raise InputError(
                f"the sweep's folder has run {old.run_id} by another recipe ({differs}): a fit would mix "
                "the two. Give the new recipe its own sweep_dir."
            )


def check_tokens(
    specs: Sequence[RunSpec], available: int, epochs: float, what: str = "tokens that exist"
) -> None:
    """Refuse a plan whose longest run would read more tokens than `epochs` passes hold.

    Args:
        specs: the plan.
        available: training tokens that a run may read before anything repeats.
        epochs: passes allowed.
        what: names the available tokens.

    Raises:
        DataError: naming the run, its tokens, and the two ways out.
    """
    longest = max(specs, key=lambda s: s.D)
    allowed = epochs * available
    if longest.D > allowed:
        raise DataError(
            f"run {longest.run_id} needs {longest.D:.4g} tokens = {longest.D / available:.2f} epochs of the "
            f"{available:.4g} {what}; epochs={epochs:g} allows {allowed:.4g}. Add text, "
            f"drop small models from the largest budgets, or allow repeats with epochs={math.ceil(longest.D / available)}."
        )


def state_bytes(spec: RunSpec) -> float:
    """Weights, gradients and Adam's two moments, bytes: half where none of them is fp32."""
    return OPTIMIZER_BYTES * spec.N * (0.5 if spec.precision == "bf16_weights" else 1.0)


def taken_over(specs: Sequence[RunSpec]) -> dict[str, int]:
    """run_id -> steps of a run that come from its stable phase, each horizon starting where the one before left it.

    Workers train the horizons of a stable phase from the shortest to the longest (`sweep.schedule`).
    """
    newest: dict[str, int] = {}  # stable phase -> last step left there so far
    found = {}
    each = {s.run_id: s for s in specs}.values()
    for s in sorted(each, key=lambda s: (s.stable_steps, s.steps, s.run_id)):
        found[s.run_id] = newest.get(s.stable_phase_id, 0) if s.stable_phase_id else 0
        newest[s.stable_phase_id] = s.stable_steps
    return found


def n_at_once(specs: Sequence[RunSpec]) -> int:
    """How many of these runs can be trained at a time: those with one stable phase take turns."""
    return len({s.stable_phase_id or s.run_id for s in specs})


@dataclass(frozen=True)
class Cost:
    """What a plan is expected to take, at the MFU and price its cluster states."""

    flops: float  # training FLOPs, by the plan's convention; what runs share counts once
    device_hours: float
    price: float
    seconds: float  # wall time with `workers` devices busy, at least the longest run's
    workers: int
    longest_run_seconds: (
        float  # or of all runs with one stable phase, which are trained one after the other
    )
    shared_flops: float = (
        0.0  # ... of the runs' C, what others of the same stable phase have trained
    )


def plan_cost(
    specs: Sequence[RunSpec], cluster: ClusterConfig, workers: int, plan: Sequence[RunSpec] = ()
) -> Cost:
    """Expected cost of the given runs: FLOPs / (peak * MFU), one device a run.

    Args:
        specs: the runs to train.
        cluster: speed and price of a device.
        workers: devices that train at a time.
        plan: all runs of the sweep, whose stable phases are there or will be; default: `specs`.
    """
    speed = cluster.peak_flops * cluster.mfu  # FLOP/s
    over = taken_over(plan or specs)
    flops, chains = 0.0, dict[str, float]()
    for s in specs:
        new = s.C * (1 - over.get(s.run_id, 0) / s.steps)
        flops += new
        chains[s.stable_phase_id or s.run_id] = chains.get(s.stable_phase_id or s.run_id, 0.0) + new
    longest = max(chains.values(), default=0.0) / speed
    hours = flops / speed / 3600
    return Cost(
        flops=flops,
        device_hours=hours,
        price=hours * cluster.price_per_device_hour,
        seconds=max(flops / speed / max(1, workers), longest),
        workers=workers,
        longest_run_seconds=longest,
        shared_flops=sum(s.C for s in specs) - flops,
    )

"""Propose a grid that spends a total compute: budgets, sizes, row length and lengths for approach 1.

The grid has the form that the fits need (docs/fitting.md): budgets half a decade apart, seven sizes from a
quarter to four times the expected optimum of each, and three sizes at three lengths.
"""

import math
from collections.abc import Iterator

from chinchilla.config import GridConfig, RecipeConfig
from chinchilla.core.errors import Refusal
from chinchilla.core.shapes import n_params, shape_named
from chinchilla.core.units import count
from chinchilla.plan.grid import MAX_USEFUL_EPOCHS, plan_grid
from chinchilla.plan.lr_rules import RULES

STEP = math.sqrt(10)  # ratio of neighbouring budgets
BUDGETS = range(3, 7)  # how many of them
SIZES, SPAN = 7, 4.0  # sizes of each budget, from the expected optimum / SPAN to the optimum * SPAN
MIN_STEPS = 100  # optimizer steps of the shortest run
MIN_ROWS = 2  # rows of the smallest batch, which limits the length of a row
SEQ_LENS = (2048, 1024, 512, 256, 128)
ASPECT = 64  # d_model / n_layers of a proposed shape, as in the smaller rows of Table A9
MIN_LAYERS = 2
KV_SIZE = 64  # heads of narrow models are smaller, of others at least this wide
VALUES = 200  # of the largest budget, in each decade
LEAST_TOKENS, LEAST_COST = (
    0.35,
    1.05,
)  # bounds of a grid's largest D and total C, over their estimates
UNEVEN = (
    1.7  # bound of the rounding of D and C between two largest budgets, as a factor of the budget
)
HORIZONS = (0.5, 1.0, 2.0)  # lengths for approach 1, over the optimal D/N


def propose_grid(
    total_flops: float,
    recipe: RecipeConfig,
    *,
    vocab_size: int,
    available_tokens: float = math.inf,
    epochs: float = 1,
    name: str = "proposed",
) -> GridConfig:
    """A grid of three to six budgets, as many as possible, whose runs spend at most `total_flops`.

    The expected optimum is that of GridConfig's defaults: approach 2 in the paper's Table A3.

    Args:
        total_flops: training FLOPs of all runs together.
        recipe: gives the batch size, directly or by its law, and with it the steps of a run.
        vocab_size: of the tokenizer; its embedding is part of N.
        available_tokens: D of the longest run; limits the largest budget.
        epochs: passes over the text that available_tokens allows, for the message.
        name: of the grid.

    Raises:
        Refusal: fewer than three budgets can be trained.
    """

    def fits(flops: float, tokens: float, vocab: int = vocab_size) -> bool:
        return isinstance(_largest_grid(flops, recipe, vocab, tokens, name), GridConfig)

    found = _largest_grid(total_flops, recipe, vocab_size, available_tokens, name)
    if isinstance(found, GridConfig):
        return found
    advice = []
    if not fits(total_flops, math.inf):
        advice.append("give more compute")
    if math.isfinite(available_tokens) and not fits(math.inf, available_tokens):
        found += f" The longest run may read {count(available_tokens)} tokens."
        repeats = (k for k in (2, 4, 8, 16, 32) if k * epochs <= MAX_USEFUL_EPOCHS)
        enough = next((k for k in repeats if fits(math.inf, k * available_tokens)), None)
        advice.append(f"allow epochs={enough * epochs:g} or add text" if enough else "add text")
    text = " and ".join(advice) or "give more compute or add text"
    smaller = (vocab_size >> k for k in range(1, 8) if vocab_size >> k >= 260)
    for vocab in smaller:
        if fits(total_flops, available_tokens, vocab):
            text = f"prepare the data with tokenizer.vocab_size={vocab}, or {text}"
            break
    raise Refusal(
        f"a grid of {min(BUDGETS)} budgets does not fit: {found} {text[0].upper()}{text[1:]}."
    )


def _largest_grid(
    total_flops: float, recipe: RecipeConfig, vocab_size: int, available_tokens: float, name: str
) -> GridConfig | str:
    """The grid, or why there is none.

    The largest budget is one of fixed values, so that the grid of a limiting text does not depend on the
    compute. One of the limits may be infinite.
    """
    exponent = 1 - GridConfig.expected_exponent  # D at the smallest size grows with C^exponent
    tokens_of_unit_budget = SPAN / (6 * GridConfig.expected_coefficient)
    by_text = (available_tokens / tokens_of_unit_budget / LEAST_TOKENS) ** (1 / exponent)
    reason = ""
    for n_budgets in reversed(BUDGETS):
        by_compute = LEAST_COST * total_flops / _cost_of_unit_budget(n_budgets)
        k = math.floor(VALUES * math.log10(min(by_compute, by_text)))
        while True:  # the cost of rounded sizes and steps is known only after planning
            try:
                grid = _grid(10 ** (k / VALUES), n_budgets, recipe, vocab_size, name)
                specs = plan_grid(
                    grid, recipe, vocab_size=vocab_size, data_id="none", precision="fp32"
                )
            except Refusal as refusal:
                reason = str(refusal)
                break
            cost, D = sum(s.C for s in specs) / total_flops, max(s.D for s in specs)
            if cost <= 1 and available_tokens >= D:
                return grid
            excess = max(cost, (D / available_tokens) ** (1 / exponent)) / UNEVEN
            k -= max(1, math.floor(VALUES * math.log10(excess)))
    return reason


def _cost_of_unit_budget(n_budgets: int) -> float:
    """Cost of the whole grid over its largest budget."""
    isoflop = SIZES * sum(STEP**-k for k in range(n_budgets))
    return isoflop + sum(HORIZONS) * sum(STEP**-k for k in _of_horizons(n_budgets))


def _of_horizons(n_budgets: int) -> tuple[int, ...]:
    """Budgets, counted down from the largest, whose optimal sizes are trained at several lengths."""
    return tuple(sorted({1, n_budgets // 2, n_budgets - 1}))


def _grid(
    largest: float, n_budgets: int, recipe: RecipeConfig, vocab_size: int, name: str
) -> GridConfig:
    """The grid below one largest budget.

    Raises:
        Refusal: the smallest budget needs models or batches that are too small.
    """
    budgets = [float(f"{largest * STEP**-k:.2g}") for k in range(n_budgets)]

    def expected(budget: float) -> float:
        return GridConfig.expected_coefficient * budget**GridConfig.expected_exponent

    low, high = expected(budgets[-1]) / SPAN, expected(budgets[0]) * SPAN
    seq_len = _seq_len(recipe, budgets[-1] / (6 * expected(budgets[-1]) * SPAN))

    def nearest(target: float) -> str:
        return min(shapes, key=lambda shape: abs(math.log(shapes[shape] / target)))

    shapes = dict(_family(high, vocab_size))
    smallest = min(shapes.values(), default=math.inf)
    if smallest > 1.25 * low:
        raise Refusal(
            f"the smallest model has {count(smallest)} parameters with a vocabulary of {vocab_size:,}; the budget "
            f"of {budgets[-1]:.3g} FLOPs needs one of {count(low)}."
        )
    targets = {
        expected(budget) * SPAN ** (2 * k / (SIZES - 1) - 1)
        for budget in budgets
        for k in range(SIZES)
    }
    horizon_models = {nearest(expected(budgets[k])) for k in _of_horizons(n_budgets)}
    middle = budgets[n_budgets // 2]
    optimal_ratio = middle / (6 * expected(middle) ** 2)
    return GridConfig(
        name=name,
        budgets=sorted(budgets),
        models=sorted({nearest(t) for t in targets}, key=shapes.__getitem__),
        kv_size=KV_SIZE,
        seq_len=seq_len,
        sizes_per_budget=SIZES,
        span=SPAN,
        min_sizes=SIZES,
        min_steps=MIN_STEPS,
        horizon_models=sorted(horizon_models, key=shapes.__getitem__),
        horizon_tokens_per_param=[float(f"{h * optimal_ratio:.2g}") for h in HORIZONS],
    )


def _seq_len(recipe: RecipeConfig, fewest_tokens: float) -> int:
    """The longest row of which the smallest batch has at least MIN_ROWS."""
    batch: float = recipe.batch_tokens
    if recipe.lr_batch_rule != "none" and not batch:
        shape = shape_named("64x2", 1, SEQ_LENS[0], 16, "rope")
        batch = RULES[recipe.lr_batch_rule].batch_tokens(shape, fewest_tokens)
    for seq_len in SEQ_LENS:
        if batch >= MIN_ROWS * seq_len:
            return seq_len
    raise Refusal(
        f"a run of {count(fewest_tokens)} tokens has a batch of {batch:.0f} tokens, less than {MIN_ROWS} rows of "
        f"{SEQ_LENS[-1]}."
    )


def _family(largest: float, vocab_size: int) -> Iterator[tuple[str, int]]:
    """Names and N of the shapes up to one beyond `largest`: ASPECT wide per layer, or one layer more."""
    N, width = 0, 0
    while N <= largest:
        width += 8 if width < KV_SIZE else 16 if width < 8 * KV_SIZE else KV_SIZE
        n_heads = max(1, width // KV_SIZE)
        if width % (8 * n_heads):  # widths of heads are multiples of 8
            continue
        for extra in (1, 0):
            name = f"{width}x{max(MIN_LAYERS, round(width / ASPECT)) + extra}"
            N = n_params(shape_named(name, vocab_size, SEQ_LENS[0], KV_SIZE, "rope"))
            yield name, N

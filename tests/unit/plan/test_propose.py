"""A grid proposed from total compute: it fits the compute and the text, and has the form the fits need."""

import math
from collections import Counter

import numpy as np
import pytest

from chinchilla.config import GridConfig, RecipeConfig
from chinchilla.core.errors import Refusal
from chinchilla.plan.grid import plan_grid
from chinchilla.plan.propose import BUDGETS, MIN_STEPS, SIZES, SPAN, propose_grid

STEP_LAW = RecipeConfig(lr_batch_rule="step_law", peak_lr=0, batch_tokens=0, final_lr_ratio=0)


def runs(grid: GridConfig, vocab_size: int):
    return plan_grid(grid, STEP_LAW, vocab_size=vocab_size, data_id="d", precision="bf16")


@pytest.mark.parametrize(
    ("flops", "vocab_size"), [(2e13, 512), (1e18, 8192), (1e22, 32_000)]
)  # fmt: skip
def test_proposed_grids_spend_nearly_all_compute_and_bracket_every_optimum(flops, vocab_size):
    grid = propose_grid(flops, STEP_LAW, vocab_size=vocab_size)
    specs = runs(grid, vocab_size)
    assert 0.9 * flops < sum(s.C for s in specs) <= flops
    assert len(grid.budgets) in BUDGETS
    assert np.diff(np.log10(sorted(grid.budgets))) == pytest.approx(0.5, abs=0.02)
    assert min(s.steps for s in specs) >= MIN_STEPS
    per_budget = Counter(s.budget_flops for s in specs)
    for budget in grid.budgets:
        assert per_budget[budget] == SIZES
        optimum = grid.expected_coefficient * budget**grid.expected_exponent
        N = np.array(sorted(s.N for s in specs if s.budget_flops == budget)) / optimum
        assert N[0] < 0.4
        assert N[-1] > SPAN / 1.3
        assert np.sum(N < 1) >= 2
        assert np.sum(N > 1) >= 2
    assert per_budget[None] >= 4  # approach 1


def test_heads_are_even_and_as_wide_as_usual():
    grid = propose_grid(1e20, STEP_LAW, vocab_size=32_000)
    assert {s.model.kv_size % 8 for s in runs(grid, 32_000)} == {0}
    assert all(64 <= s.model.kv_size < 128 for s in runs(grid, 32_000) if s.model.d_model >= 64)


def test_text_limits_the_largest_budget():
    unlimited = propose_grid(1e18, STEP_LAW, vocab_size=8192)
    limited = propose_grid(1e18, STEP_LAW, vocab_size=8192, available_tokens=3e8)
    D = max(s.D for s in runs(limited, 8192))
    assert 0.8 * 3e8 < D <= 3e8
    assert max(limited.budgets) < 0.5 * max(unlimited.budgets)


def test_too_little_compute_for_a_vocabulary_names_one_that_fits():
    with pytest.raises(Refusal, match=r"smallest model.*tokenizer\.vocab_size=2000") as refusal:
        propose_grid(1e14, STEP_LAW, vocab_size=32_000)
    assert "3 budgets" in str(refusal.value)
    propose_grid(1e14, STEP_LAW, vocab_size=2000)


def test_hardly_any_compute_is_refused():
    with pytest.raises(Refusal, match="Give more compute"):
        propose_grid(1e11, STEP_LAW, vocab_size=512)
    with pytest.raises(Refusal, match=r"read 100k tokens\. Allow epochs=32 or add text\.$"):
        propose_grid(1e18, STEP_LAW, vocab_size=512, available_tokens=1e5)
    with pytest.raises(Refusal, match=r"tokens\. Add text\.$"):
        propose_grid(1e18, STEP_LAW, vocab_size=512, available_tokens=1e5, epochs=4)


def test_more_compute_than_the_text_allows_gives_the_same_grid():
    def proposed(flops: float) -> GridConfig:
        return propose_grid(flops, STEP_LAW, vocab_size=512, available_tokens=2.26e6)

    for flops in (1e12, 3e12):
        with pytest.raises(Refusal, match=r"Give more compute\.$"):
            proposed(flops)
    first, *others = map(proposed, (6e12, 9e12, 1e14, 1e18))
    assert others == [first] * 3


def test_batch_of_the_recipe_limits_the_length_of_rows():
    recipe = RecipeConfig(batch_tokens=1024)
    grid = propose_grid(1e15, recipe, vocab_size=2048)
    assert grid.seq_len == 512
    assert math.isfinite(grid.horizon_tokens_per_param[-1])

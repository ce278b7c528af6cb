"""Planning of runs and grids, estimated cost, and plans that are refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
from planned import SMALL, one_run

from chinchilla.config import GridConfig, ModelConfig, RecipeConfig
from chinchilla.core import paper
from chinchilla.core.errors import DataError, InputError, Refusal
from chinchilla.core.shapes import FLOP_CONVENTIONS, flops_per_token, named_shapes
from chinchilla.plan.grid import (
    build_shape,
    check_comparable,
    check_same_recipe,
    check_tokens,
    plan_grid,
)

PAPER_MODELS = list(named_shapes())[:50]


def paper_grid(**changes) -> GridConfig:
    return GridConfig(**{
        "name": "paper", "budgets": list(paper.ISOFLOP_BUDGETS), "models": PAPER_MODELS,
        "sizes_per_budget": 9, "vocab_size": 32_000, "positions": "relative",
        "flop_convention": "paper", **changes,
    })  # fmt: skip


def expand(grid: GridConfig, recipe: RecipeConfig | None = None, vocab_size: int = 0):
    return plan_grid(
        grid, recipe or RecipeConfig(), vocab_size=vocab_size, data_id="d", precision="bf16"
    )


# ------------------------------------------------------------------ one run


@pytest.mark.parametrize("convention", FLOP_CONVENTIONS)
@pytest.mark.parametrize("budget", [6e18, 1.7e19, 3e20])
def test_a_run_spends_its_budget_to_half_a_step(convention, budget):
    spec = one_run(flop_convention=convention, budget_flops=budget)
    step_flops = flops_per_token(SMALL, convention) * spec.batch_tokens
    assert abs(spec.C - budget) <= step_flops / 2
    assert spec.budget_flops == budget  # as given, not as achieved
    assert spec.C == step_flops * spec.steps


def test_conventions_that_count_more_flops_give_fewer_steps():
    steps = [one_run(flop_convention=c).steps for c in ("paper", "with_head", "appendix_f")]
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) == 3


def test_a_run_planned_by_tokens_has_no_budget():
    spec = one_run(budget_flops=None, tokens=1e9)
    assert spec.budget_flops is None
    assert abs(spec.D - 1e9) <= spec.batch_tokens / 2


@pytest.mark.parametrize("settings", [{}, {"tokens": 1e9, "budget_flops": 1e18}])
def test_a_run_needs_one_of_budget_and_tokens(settings):
    with pytest.raises(InputError, match=r"one of budget_flops .* or tokens"):
        one_run(**{"budget_flops": None, **settings})


def test_a_batch_that_is_not_a_multiple_of_seq_len_is_refused_with_the_nearest():
    with pytest.raises(
        InputError, match=r"batch_tokens=500000 is not a multiple .* nearest is 499712"
    ):
        one_run(recipe=RecipeConfig(batch_tokens=500_000))
    with pytest.raises(InputError, match="nearest is 2048"):
        one_run(recipe=RecipeConfig(batch_tokens=10))


def test_a_budget_below_one_step_is_refused_with_three_suggestions():
    with pytest.raises(Refusal) as error:
        one_run(budget_flops=1e13)
    for part in ("1e+13 FLOPs", "N=43.7m", "at least 1 are needed", "Lower recipe.batch_tokens",
                 "raise the budget", "smaller model"):  # fmt: skip
        assert part in str(error.value)


def test_fewer_than_the_minimum_steps_are_refused():
    steps = one_run().steps
    assert one_run(min_steps=steps).steps == steps
    with pytest.raises(Refusal, match=f"at least {steps + 1} are needed"):
        one_run(min_steps=steps + 1)


def test_millions_of_steps_are_refused_with_the_recipe():
    recipe = RecipeConfig(name="demo", batch_tokens=2048)
    with pytest.raises(Refusal, match=r"8,789,062 steps of 2,048 .*recipe=demo; .*step_law sets"):
        one_run(recipe=recipe, budget_flops=None, tokens=1.8e10)


@pytest.mark.parametrize(("lr", "off"), [(0.4, "77"), (4e-6, "50")])
def test_a_peak_rate_far_outside_of_the_published_ones_is_refused_unless_allowed(lr, off):
    recipe = RecipeConfig(name="paper, peak_lr=x", peak_lr=lr)
    with pytest.raises(Refusal, match=rf"{off} times outside .*paper 0\.0002, step_law .*deepseek"):
        one_run(recipe=recipe, budget_flops=None, tokens=1e9)
    assert (
        one_run(recipe=replace(recipe, max_lr_ratio=81), budget_flops=None, tokens=1e9).peak_lr
        == lr
    )


def test_the_cosine_matches_the_run_by_default():
    assert one_run().cosine_steps == one_run().steps
    longer = one_run(recipe=RecipeConfig(cosine_cycle=1.25))
    assert longer.cosine_steps == round(1.25 * longer.steps)


def test_warm_up_is_short_for_short_runs():
    long, short = one_run(), one_run(budget_flops=1e16)
    assert long.warmup_steps == 1500
    assert short.warmup_steps == math.ceil(0.05 * short.steps) < 1500
    assert one_run(recipe=RecipeConfig(warmup_steps=0)).warmup_steps == 0


def test_the_recipe_is_copied_to_the_spec():
    recipe = RecipeConfig(
        final_lr_ratio=0.2, weight_decay=0.01, beta1=0.8, beta2=0.9, adam_eps=1e-6, grad_clip=0.5,
        seed=7,
    )  # fmt: skip
    spec = one_run(recipe=recipe, sweep="s")
    for name in (
        "final_lr_ratio",
        "weight_decay",
        "beta1",
        "beta2",
        "adam_eps",
        "grad_clip",
        "seed",
    ):
        assert getattr(spec, name) == getattr(recipe, name)
    assert (spec.sweep, spec.data_id, spec.precision) == ("s", "d", "bf16")


def test_the_learning_rate_falls_with_width_over_the_papers_range():
    """Section 3 and Appendix B: 2e-4 at the smallest models, 1.25e-4 at the largest."""
    recipe = RecipeConfig(peak_lr=2e-4, lr_base_width=512, lr_width_exponent=0.2041)
    assert one_run(recipe=recipe).peak_lr == 2e-4
    largest = one_run(named_shapes()["16b"], recipe, budget_flops=3e21)
    assert largest.peak_lr == pytest.approx(1.25e-4, rel=1e-4)


def test_the_learning_rate_is_constant_by_default():
    assert one_run(named_shapes()["16b"], budget_flops=3e21).peak_lr == 2e-4


# ------------------------------------------------------------------ a shape


def test_zeros_in_a_model_config_get_defaults():
    shape = build_shape(ModelConfig(d_model=256, kv_size=32, n_layers=3), vocab_size=500)
    assert (shape.ffw_size, shape.n_heads, shape.vocab_size) == (1024, 8, 500)
    given = build_shape(ModelConfig(ffw_size=100, n_heads=3, vocab_size=99), vocab_size=500)
    assert (given.ffw_size, given.n_heads, given.vocab_size) == (100, 3, 99)


def test_a_width_that_is_not_a_multiple_of_kv_size_needs_n_heads():
    with pytest.raises(InputError, match=r"d_model=100 is not a multiple of model.kv_size=64"):
        build_shape(ModelConfig(d_model=100), vocab_size=9)
    assert build_shape(ModelConfig(d_model=100, n_heads=2), vocab_size=9).inner == 128


def test_a_model_without_vocabulary_is_refused():
    with pytest.raises(InputError, match=r"model.vocab_size is not known"):
        build_shape(ModelConfig(), vocab_size=0)


# ------------------------------------------------------------------ a grid


@pytest.fixture(scope="module")
def paper_plan():
    return expand(paper_grid())


def test_the_papers_grid_is_nine_budgets_of_nine_sizes(paper_plan):
    assert len(paper_plan) == 81
    by_budget = {b: {s.N for s in paper_plan if s.budget_flops == b} for b in paper.ISOFLOP_BUDGETS}
    assert [len(sizes) for sizes in by_budget.values()] == [9] * 9
    assert len({s.run_id for s in paper_plan}) == 81


def test_each_profile_is_centred_on_the_expected_optimum(paper_plan):
    """Log-spaced from a quarter to four times the optimum, as far as Table A9 has sizes."""
    for budget in paper.ISOFLOP_BUDGETS:
        expected = 0.14488 * budget**0.4899
        offset = np.log([s.N / expected for s in paper_plan if s.budget_flops == budget])
        assert abs(np.mean(offset)) < 0.1 * np.log(4)
        assert min(offset) == pytest.approx(-np.log(4), abs=0.27)
        assert max(offset) == pytest.approx(np.log(4), abs=0.27)
        assert sum(offset < 0) in (4, 5)


def test_sizes_of_an_isoflop_curve_increase_and_tokens_decrease(paper_plan):
    for budget in paper.ISOFLOP_BUDGETS:
        runs = [s for s in paper_plan if s.budget_flops == budget]
        assert [s.N for s in runs] == sorted(s.N for s in runs)
        assert [s.D for s in runs] == sorted((s.D for s in runs), reverse=True)


def test_every_run_of_the_papers_grid_spends_its_budget(paper_plan):
    """Even the largest model at the smallest budget has so many steps that rounding is small."""
    off = [abs(s.C / s.budget_flops - 1) for s in paper_plan]
    assert max(off) < 2e-4
    assert all(s.flop_convention == "paper" for s in paper_plan)


def test_all_sizes_are_planned_if_no_number_is_given():
    specs = expand(paper_grid(budgets=[1e20], sizes_per_budget=0))
    assert len(specs) == 50


def test_the_order_and_repetition_of_names_do_not_matter():
    specs = expand(paper_grid(budgets=[1e20, 6e18]))
    other = expand(paper_grid(budgets=[6e18, 1e20, 6e18], models=PAPER_MODELS[::-1] * 2))
    assert specs == other


def test_a_grid_needs_a_vocabulary():
    with pytest.raises(InputError, match=r"grid.vocab_size is not known"):
        expand(paper_grid(vocab_size=0))
    from_tokenizer = expand(paper_grid(budgets=[1e20], vocab_size=0), vocab_size=8000)
    assert {s.model.vocab_size for s in from_tokenizer} == {8000}


def test_too_few_sizes_at_a_budget_are_refused():
    with pytest.raises(Refusal, match=r"'paper', budget 1e\+20 FLOPs: 4 sizes, at least 5"):
        expand(paper_grid(budgets=[1e20], models=["552m", "724m", "1.1b", "1.8b"]))


@pytest.mark.parametrize(
    ("models", "side"),
    [
        (["1.0b", "1.1b", "1.4b", "1.8b", "2.6b"], "smaller"),
        (["44m", "57m", "74m", "90m", "106m"], "larger"),
    ],
)
def test_a_budget_whose_optimum_is_not_bracketed_is_refused_with_the_missing_side(models, side):
    models = [m.replace("1.4b", "1.42b") for m in models]
    with pytest.raises(
        Refusal, match=f"optimum is expected at N=910m .* none .* are {side}; 2 .*Add {side}"
    ):
        expand(paper_grid(budgets=[1e20], models=models))


def test_a_run_of_too_few_steps_refuses_the_grid():
    with pytest.raises(Refusal, match="at least 100 are needed"):
        expand(paper_grid(budgets=[1e20]), RecipeConfig(batch_tokens=2**28))


def test_an_expected_coefficient_that_is_not_positive_is_refused():
    with pytest.raises(InputError, match=r"grid.expected_coefficient=-1 must be above 0"):
        expand(paper_grid(expected_coefficient=-1))


def test_horizon_runs_train_one_size_for_several_multiples_of_its_parameters():
    grid = paper_grid(
        budgets=[1e20], horizon_models=["74m", "306m"], horizon_tokens_per_param=[5, 20, 80]
    )
    horizons = [s for s in expand(grid) if s.budget_flops is None]
    assert [s.N for s in horizons] == [73_824_640] * 3 + [305_635_584] * 3
    for spec, ratio in zip(horizons, [5, 20, 80] * 2, strict=True):
        assert spec.D == pytest.approx(ratio * spec.N, abs=spec.batch_tokens / 2)
        assert spec.cosine_steps == spec.steps


def test_a_run_that_an_isoflop_curve_contains_is_not_planned_twice():
    """Every fit would count the run twice."""
    profile = expand(paper_grid(budgets=[1e20]))
    twin = profile[4]
    name = next(name for name, shape in named_shapes().items() if shape == twin.model)
    grid = paper_grid(
        budgets=[1e20], horizon_models=[name], horizon_tokens_per_param=[twin.D / twin.N, 7]
    )
    added = [s for s in expand(grid) if s not in profile]
    assert [round(s.D / s.N) for s in added] == [7]


# ------------------------------------------------------------------ checks of a plan


def test_a_plan_whose_longest_run_needs_too_many_tokens_is_refused():
    specs = [one_run(budget_flops=None, tokens=t) for t in (1e9, 4e9, 2e9)]
    longest = max(s.D for s in specs)
    check_tokens(specs, available=longest, epochs=1)
    check_tokens(specs, available=longest // 2 + 1, epochs=2)
    with pytest.raises(DataError) as error:
        check_tokens(specs, available=1_000_000_000, epochs=1)
    assert specs[1].run_id in str(error.value)
    assert "drop small models from the largest budgets" in str(error.value)
    for available, advice in ((1e9, "or allow repeats with epochs=4."), (1e7, "beyond 40 epochs")):
        with pytest.raises(DataError, match="give fewer tokens=") as one:
            check_tokens(specs[1:2], available=int(available), epochs=1)
        assert advice in str(one.value)
    assert "= 4.00 epochs of the 1e+09 tokens" in str(error.value)
    assert "epochs=4" in str(error.value)


def test_the_epochs_suggested_by_the_refusal_suffice():
    spec = one_run(budget_flops=None, tokens=4.3e9)
    with pytest.raises(DataError, match="epochs=5"):
        check_tokens([spec], available=1_000_000_000, epochs=1)
    check_tokens([spec], available=1_000_000_000, epochs=5)
    with pytest.raises(DataError, match="beyond 40 epochs repeats have no value"):
        check_tokens([spec], available=1_000_000, epochs=1)


def test_runs_that_are_not_comparable_are_refused():
    one = one_run()
    check_comparable([one, one_run(budget_flops=1e19)])
    differing = {
        "data_id": "else",
        "precision": "fp32",
        "flop_convention": "six_nd",
        "optimizer": "adam",
        "schedule": "multistep",
    }
    for name, value in differing.items():
        with pytest.raises(InputError, match=f"different {name}"):
            check_comparable([one, replace(one, **{name: value})])


def test_a_sweep_has_one_recipe():
    one = one_run()
    check_same_recipe([one], [one, one_run(budget_flops=1e19), replace(one, seed=1)])
    with pytest.raises(InputError, match=r"another recipe \(peak_lr .* -> 0.5\)"):
        check_same_recipe([one], [replace(one, peak_lr=0.5)])

"""Published laws for learning rate and batch size, compared with their authors' numbers."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chinchilla.cli import compose, main
from chinchilla.config import RecipeConfig
from chinchilla.config.groups import OPTIMIZERS, PRECISIONS, SCHEDULES
from chinchilla.core.errors import InputError, Refusal
from chinchilla.core.parametrization import PARAMETRIZATIONS
from chinchilla.core.shapes import ModelShape, n_params_non_embedding, shape_named
from chinchilla.plan.grid import plan_run
from chinchilla.plan.lr_rules import RULES, apply_rule, deepseek_flops, extrapolation_warnings

STEP_LAW = RecipeConfig(lr_batch_rule="step_law", peak_lr=0, batch_tokens=0, final_lr_ratio=0)
DEEPSEEK = RecipeConfig(lr_batch_rule="deepseek", peak_lr=0, batch_tokens=0, schedule="multistep")


def planned(shape: ModelShape, recipe: RecipeConfig, tokens: float):
    return plan_run(
        shape, recipe, flop_convention="with_head", data_id="d", precision="bf16", tokens=tokens
    )


@pytest.mark.parametrize(
    ("layers", "d_model", "lr", "rows"), [(30, 4096, 4.2e-4, 2304), (95, 8192, 3.2e-4, 4608)]
)
def test_deepseeks_law_gives_deepseeks_published_settings(layers, d_model, lr, rows):
    """DeepSeek LLM 7B and 67B, Table 2: 2T tokens in rows of 4096; both settings were near the law."""
    shape = ModelShape(d_model, 4 * d_model, 128, d_model // 128, layers, 102_400, 4096)
    spec = planned(shape, DEEPSEEK, 2e12)
    assert spec.peak_lr == pytest.approx(lr, rel=0.03)
    assert spec.batch_tokens / 4096 == pytest.approx(rows, rel=0.1)


def test_deepseeks_laws_for_model_and_data_agree_with_its_count_of_flops():
    """M_opt = 0.1715 C^0.5243 and D_opt = 5.8316 C^0.4757 multiply to C (their equation 4)."""
    C = np.geomspace(1e17, 3e20, 5)
    np.testing.assert_allclose(0.1715 * C**0.5243 * 5.8316 * C**0.4757, C, rtol=2e-4)
    shape = shape_named("44m", 32_000, 2048, 64, "rope")
    M = deepseek_flops(shape, 1.0)  # their 6 N of the layers' matrices, and 12 n d l for attention
    assert M == 6 * 12 * 8 * 512**2 + 12 * 8 * 512 * 2048


def test_step_laws_coefficients_are_the_mean_of_its_bootstrap():
    """ln lr = 0.586 - 0.713 ln N + 0.307 ln D, ln batch = -0.544 + 0.571 ln D."""
    shape, D = shape_named("425m", 65_536, 2048, 64, "rope"), 1e10
    N, rule = n_params_non_embedding(shape), RULES["step_law"]
    lr = np.exp(0.586 - 0.713 * np.log(N) + 0.307 * np.log(D))
    assert rule.peak_lr(shape, D) == pytest.approx(lr, rel=5e-3)
    batch = np.exp(-0.544 + 0.571 * np.log(D))
    assert rule.batch_tokens(shape, D) == pytest.approx(batch, rel=5e-3)


def test_step_laws_cosine_ends_at_1e_5_for_every_peak():
    shapes = [shape_named(name, 32_000, 2048, 64, "rope") for name in ("74m", "425m")]
    specs = [planned(s, STEP_LAW, 1e10) for s in shapes]
    assert specs[0].peak_lr > 2 * specs[1].peak_lr
    assert [s.peak_lr * s.final_lr_ratio for s in specs] == pytest.approx([1e-5, 1e-5])


@pytest.mark.parametrize("multiple", [1, 8, 64])
def test_the_batch_of_a_law_is_rounded_to_a_multiple_of_rows(multiple):
    shape = shape_named("74m", 32_000, 2048, 64, "rope")
    exact = RULES["step_law"].batch_tokens(shape, 1e10) / 2048  # rows
    spec = planned(shape, replace(STEP_LAW, batch_multiple_rows=multiple), 1e10)
    rows = spec.batch_tokens / 2048
    assert rows % multiple == 0
    assert abs(rows - exact) <= multiple / 2
    few = planned(shape, replace(STEP_LAW, batch_multiple_rows=multiple), 1e6)
    assert few.batch_tokens == multiple * 2048  # at least one, however short the run


def test_values_in_the_recipe_override_the_law():
    shape = shape_named("74m", 32_000, 2048, 64, "rope")
    assert planned(shape, replace(STEP_LAW, batch_tokens=2**19), 1e10).batch_tokens == 2**19
    assert planned(shape, replace(STEP_LAW, peak_lr=1e-3), 1e10).peak_lr == 1e-3
    assert apply_rule(RecipeConfig(), shape, 1e10) == RecipeConfig()


def test_runs_outside_of_the_fitted_range_of_a_law_are_reported():
    inside = planned(shape_named("425m", 32_000, 2048, 64, "rope"), STEP_LAW, 1e10)
    small = planned(shape_named("64x2", 32_000, 2048, 64, "rope"), STEP_LAW, 1e9)
    assert (
        extrapolation_warnings(STEP_LAW, [inside])
        == extrapolation_warnings(RecipeConfig(), [small])
        == []
    )
    warnings = extrapolation_warnings(STEP_LAW, [inside, small])
    assert len(warnings) == 2
    assert "on non-embedding N from 60m to 1b: 1 of 2 runs lie outside, 131k to 131k" in warnings[0]
    assert "on D from 2b to 100b: 1 of 2 runs" in warnings[1]
    assert "C from 1e+17 to 3e+20" in extrapolation_warnings(DEEPSEEK, [small])[0]


BAD = [
    ({"lr_batch_rule": "kaplan"}, "recipe.lr_batch_rule='kaplan': choose one of none, step_law, deepseek"),
    ({"lr_batch_rule": "step_law"}, "recipe.lr_batch_rule=step_law has no effect: recipe.peak_lr=0.0002"),
    ({"lr_batch_rule": "deepseek", "peak_lr": 0, "lr_width_exponent": 0.5}, "Give recipe.lr_width_exponent=0 instead of 0.5"),
    ({"lr_batch_rule": "deepseek", "peak_lr": 0, "schedule": "cooldown"}, "Give recipe.lr_batch_rule=none or another schedule"),
    ({"lr_batch_rule": "deepseek", "peak_lr": 0, "final_lr_ratio": 0}, "final_lr_ratio=0 must be above 0 and at most 1"),
    ({"peak_lr": 0}, "recipe.peak_lr=0 must be above 0"),
    ({"batch_tokens": 0}, "recipe.batch_tokens=0 must be above 0"),
    ({"schedule": "wsd"}, "recipe.schedule='wsd': choose one of cosine, cooldown, multistep"),
    ({"schedule": "cooldown", "cooldown_fraction": 0}, "cooldown_fraction=0 must be above 0 and below 1"),
    ({"schedule": "cooldown", "cosine_cycle": 1.5}, "recipe.cosine_cycle=1.5 has no effect with recipe.schedule=cooldown"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "why"), BAD, ids=[str(r) for r, _ in BAD])
def test_incompatible_settings_are_refused(recipe, why):
    with pytest.raises(InputError, match=why):
        RecipeConfig(**recipe)


def test_the_warm_up_before_a_cool_down_does_not_depend_on_the_length():
    """Other schedules limit it to a share of the run; here a run that is too short is refused."""
    shape = shape_named("44m", 32_000, 2048, 64, "rope")
    recipe = RecipeConfig(schedule="cooldown", warmup_steps=500, batch_tokens=2**17)
    specs = [planned(shape, recipe, steps * 2**17) for steps in (1000, 4000)]
    assert [s.warmup_steps for s in specs] == [500, 500]
    assert [(s.cooldown_steps, s.stable_steps) for s in specs] == [(200, 800), (800, 3200)]
    with pytest.raises(Refusal, match="600 steps: 500 of warm-up and 120 of cool-down do not fit"):
        planned(shape, recipe, 600 * 2**17)


DOCS = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text(encoding="utf-8")
TYPED = re.findall(r"^    chinchilla (.*)$", DOCS, re.MULTILINE)


@pytest.mark.parametrize("line", TYPED)
def test_the_commands_in_the_docs_are_accepted(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *words = line.split()
    command_config = compose(command, words)
    assert command_config.recipe.peak_lr or command_config.recipe.lr_batch_rule != "none"
    assert command != "plan" or main([command, *words, "out="]) == 0


def test_the_docs_mention_every_choice_of_a_recipe():
    known = (*RULES, *SCHEDULES, *OPTIMIZERS, *PRECISIONS, *PARAMETRIZATIONS)
    assert [name for name in known if f"`{name}`" not in DOCS] == []


def test_the_choices_of_a_config_are_those_of_a_spec():
    """Those of lr_batch_rule are defined twice, because config must not import plan."""
    for key, known in (("lr_batch_rule", ("none", *RULES)), ("schedule", SCHEDULES),
                       ("optimizer", OPTIMIZERS), ("precision", ("auto", *PRECISIONS)),
                       ("parametrization", PARAMETRIZATIONS)):  # fmt: skip
        with pytest.raises(InputError) as refused:
            RecipeConfig(**{key: "?"})
        offered = str(refused.value).rstrip(".").partition("choose one of ")[2].split(", ")
        assert sorted(offered) == sorted(known)


def test_sharing_a_stable_phase_is_shown_and_counted(capsys):
    """Sizes at four lengths, and an IsoFLOP curve with some of the same sizes."""
    grid = ["grid=demo", "grid.vocab_size=400", "grid.budgets=[6e10]", "recipe=demo",
            "grid.horizon_tokens_per_param=[4,8,16,32]", "out="]  # fmt: skip
    cooldown = ["recipe.schedule=cooldown", "recipe.warmup_steps=20"]
    assert main(["plan", *grid, *cooldown]) == 0
    output = capsys.readouterr().out
    share = int(re.search(r"of the runs' [\d.e+]+ FLOPs \((\d+)%\)", output)[1])
    costs = []
    for words in (cooldown, []):
        assert main(["plan", *grid, *words, "format=json"]) == 0
        costs.append(json.loads(capsys.readouterr().out)["cost"])
    assert costs[0]["flops"] / costs[1]["flops"] == pytest.approx(share / 100, abs=0.01)
    assert share <= 70
    assert costs[0]["flops"] + costs[0]["shared_flops"] == pytest.approx(
        costs[1]["flops"], rel=5e-3
    )
    assert costs[1]["shared_flops"] == 0


def test_a_plan_with_a_law_shows_its_batches_and_warns_on_stderr(capsys):
    words = ["grid=paper", "recipe=step_law", "grid.budgets=[1e19]", "out="]
    assert main(["plan", *words, "format=json"]) == 0
    output = capsys.readouterr()
    runs = json.loads(output.out)["runs"]
    assert len({r["peak_lr"] for r in runs}) == len({r["batch_tokens"] for r in runs}) == len(runs)
    assert all(r["peak_lr"] * r["final_lr_ratio"] == pytest.approx(1e-5) for r in runs)
    assert output.err.startswith(
        "warning: recipe.lr_batch_rule=step_law (Step Law, arXiv 2503.04715) was"
    )


def test_step_laws_rate_is_limited_to_the_highest_of_its_own_best_runs():
    """Extrapolated to 6,000 parameters it would be 0.25; the best rate there is about 0.02."""
    tiny = shape_named("16x2", 512, 128, 16, "rope")
    assert RULES["step_law"].peak_lr(tiny, 1e6) > 0.2
    assert planned(tiny, STEP_LAW, 1e6).peak_lr == 2**-7

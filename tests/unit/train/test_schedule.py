import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from train_world import make_spec

from chinchilla.config.groups import SCHEDULES
from chinchilla.train.schedule import DECAYS, learning_rate

SPEC = replace(
    make_spec(), steps=100, cosine_steps=100, warmup_steps=10, peak_lr=3e-3, final_lr_ratio=0.1
)


def test_every_schedule_of_a_recipe_has_a_rate():
    assert set(DECAYS) == set(SCHEDULES)


def test_warm_up_is_linear_and_ends_at_the_peak():
    rates = [learning_rate(SPEC, step) for step in range(10)]
    assert rates == pytest.approx([3e-4 * (i + 1) for i in range(10)], rel=1e-12)


def test_without_warm_up_the_first_rate_is_almost_the_peak():
    rate = learning_rate(replace(SPEC, warmup_steps=0), 0)
    assert 0.999 * SPEC.peak_lr < rate < SPEC.peak_lr


def test_a_matched_cosine_ends_at_the_final_ratio():
    assert learning_rate(SPEC, 99) == pytest.approx(0.1 * SPEC.peak_lr, rel=1e-12)


def test_half_way_the_cosine_is_half_way_down():
    assert learning_rate(SPEC, 54) == pytest.approx(0.55 * SPEC.peak_lr, rel=1e-12)


def test_a_longer_cosine_ends_the_run_at_a_higher_rate():
    """Figure A1: with 1.5x the run ends at cos(pi * 90/140)."""
    rate = learning_rate(replace(SPEC, cosine_steps=150), 99)
    expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 90 / 140))
    assert rate == pytest.approx(expected * SPEC.peak_lr, rel=1e-12)
    assert rate > 3 * learning_rate(SPEC, 99)


schedules = st.builds(
    lambda steps, warm, cycle, ratio: replace(
        SPEC,
        steps=steps,
        warmup_steps=int(warm * steps),
        cosine_steps=round(cycle * steps),
        final_lr_ratio=ratio,
    ),
    st.integers(1, 400),
    st.floats(0, 1),
    st.floats(1, 5),
    st.floats(0.001, 1),
)


@given(schedules)
def test_rates_stay_between_zero_and_the_peak(spec):
    rates = [learning_rate(spec, step) for step in range(spec.steps)]
    assert 0 < min(rates)
    assert max(rates) <= spec.peak_lr * (1 + 1e-12)


@given(schedules)
def test_rates_do_not_jump(spec):
    """No change exceeds the steepest slope of warm-up and cosine."""
    rates = [learning_rate(spec, step) for step in range(spec.steps)]
    line = 1 / max(1, spec.warmup_steps)
    cosine = math.pi / 2 / max(1, spec.cosine_steps - spec.warmup_steps)
    steepest = max(line, cosine) * spec.peak_lr * (1 + 1e-9)
    assert all(abs(a - b) <= steepest for a, b in itertools.pairwise(rates))


@given(schedules)
def test_rates_only_fall_after_the_warm_up(spec):
    rates = [learning_rate(spec, step) for step in range(spec.warmup_steps, spec.steps)]
    assert all(a >= b for a, b in itertools.pairwise(rates))


COOLDOWN = replace(SPEC, schedule="cooldown", cooldown_steps=20, final_lr_ratio=0.0)


def test_a_cool_down_schedule_is_constant_then_one_minus_a_square_root():
    """Haegele et al. 2024: peak * (1 - sqrt((s - s0) / (S - s0))), s from 0."""
    rates = [learning_rate(COOLDOWN, step) for step in range(100)]
    assert rates[:10] == [learning_rate(SPEC, step) for step in range(10)]
    assert rates[10:81] == [3e-3] * 71
    expected = [3e-3 * (1 - math.sqrt(k / 20)) for k in range(20)]
    assert rates[80:] == pytest.approx(expected, rel=1e-12)
    assert rates[-1] > 0


def test_before_its_cool_down_a_run_has_the_rates_of_every_longer_one():
    longer = replace(COOLDOWN, steps=300, cosine_steps=300, cooldown_steps=60)
    assert [learning_rate(longer, s) for s in range(COOLDOWN.stable_steps)] == [
        learning_rate(COOLDOWN, s) for s in range(COOLDOWN.stable_steps)
    ]


def test_deepseeks_steps_are_at_80_and_90_percent():
    spec = replace(SPEC, schedule="multistep")
    rates = [learning_rate(spec, step) / 3e-3 for step in (10, 79, 80, 89, 90, 99)]
    assert rates == pytest.approx([1, 1, 0.316, 0.316, 0.1, 0.1], rel=1e-3)

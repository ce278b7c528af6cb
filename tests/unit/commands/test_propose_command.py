"""`chinchilla plan hours=...`: the grid that it writes, the limits it states, and what it refuses."""

import json

import pytest
from command_line import one_line

from chinchilla.commands.propose import _systematic, total_flops
from chinchilla.config.command_line.compose import compose

SMALL = "total_flops=3e13 grid.vocab_size=1024"


def test_a_proposal_names_its_parts_and_its_grid_plans_the_same_runs(say, tmp_path):
    done = say(f"plan {SMALL} save=mine/grid/first.yaml")
    assert (done.code, done.err) == (0, "")
    for part in (
        "Compute: 3e+13 FLOPs",
        "The proposed 27 runs",
        "recipe=step_law: rows of 256 tokens",
        "Expected precision: of 80 sweeps",
        "Next:\n  chinchilla sweep mine/grid/first.yaml recipe=step_law",
    ):
        assert part in done.out
    again = say(
        "plan --config-dir mine grid=first recipe=step_law grid.vocab_size=1024 format=json"
    )
    runs = json.loads(again.out)["runs"]
    assert len(runs) == 27
    assert 0.9 * 3e13 < sum(run["C"] for run in runs) <= 3e13


@pytest.mark.parametrize(
    ("cluster", "end"),
    [
        (
            "cluster=demo",
            "Next:\n  chinchilla sweep a/grid/b.yaml recipe=step_law cluster=demo grid.vocab_size=1024\n",
        ),
        (
            "cluster.mfu=0.3",
            "Next with the same cluster:\n  chinchilla sweep a/grid/b.yaml recipe=step_law grid.vocab_size=1024\n",
        ),
    ],
)
def test_the_next_command_names_the_chosen_cluster(say, tmp_path, cluster, end):
    done = say(f"plan {SMALL} {cluster} save=a/grid/b.yaml")
    assert done.out.endswith(end)


@pytest.mark.slow
def test_a_proposal_as_json(say):
    found = json.loads(say(f"plan {SMALL} format=json").out)
    low, _, high = found["expected_precision"]["a"]
    assert low < found["expected_precision"]["true_a"] < high
    assert len(found["runs"]) == 27
    assert found["grid"]["sizes_per_budget"] == 7
    assert found["recipe"]["lr_batch_rule"] == "step_law"


def test_hours_and_price_become_flops():
    for words in (["gpus=2", "hours=3"], ["price=15"]):  # 6 device-hours at 2.5
        assert total_flops(compose("plan", words)) == pytest.approx(6 * 3600 * 989e12 * 0.4)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("plan hours=1 price=2", ["hours= and price="]),
        ("plan hours=1 tokens=1e9", ["tokens= and hours="]),
        ("plan hours=1 grid=demo", ["grid= has no effect with hours=1"]),
        ("plan hours=1 save=first.yaml", ["save=first.yaml", "FOLDER/grid/NAME.yaml"]),
        ("plan hours=1 save=mine/grid/-a.yaml", ["save='-a'", "Use letters, digits, _ and -"]),
        ("plan hours=1 out=plan.jsonl", ["out=plan.jsonl has no effect"]),
        ("plan save=mine/grid/a.yaml", ["a.yaml has no effect without hours="]),
        ("plan gpus=2", ["gpus=2 has no effect without tokens= or hours="]),
        ("plan price=1 cluster.price_per_device_hour=0", ["cluster.price_per_device_hour"]),
    ],
)
def test_settings_without_effect_are_refused_in_one_line(say, words, parts):
    one_line(say(words), 2, *parts)


def test_too_little_compute_is_refused_with_a_vocabulary_that_fits(say):
    one_line(say("plan total_flops=1e14"), 3, "3 budgets", "tokenizer.vocab_size=2000")


def test_an_existing_grid_is_not_overwritten(say, tmp_path):
    (tmp_path / "mine" / "grid").mkdir(parents=True)
    (tmp_path / "mine" / "grid" / "first.yaml").write_text("name: first\n")
    one_line(say(f"plan {SMALL} save=mine/grid/first.yaml"), 2, "exists")
    assert (tmp_path / "mine" / "grid" / "first.yaml").read_text() == "name: first\n"


def test_an_error_that_rounds_to_zero_has_no_minus_sign():
    assert _systematic(1, (-1e-5, -1e-5)).endswith("+0.000 in a and +0% in N_opt")

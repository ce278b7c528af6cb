"""`chinchilla design` as typed: the next runs, their cost and benefit."""

import pytest
from command_line import one_line


def test_next_runs_are_shown_in_order_within_the_compute(say, fits):
    words = "design fits=fits budget_flops=1e23 n_runs=3 spend=1e21"
    said = say(words)
    assert said.code == 0
    assert "N_opt(1e+23 FLOPs)" in said.out
    assert "device-hours" in said.out
    told = say(f"{words} format=json").json
    runs = [step["run"] for step in told["steps"]]
    assert len(runs) == 3
    assert sum(run["C"] for run in runs) <= 1e21
    assert told["cost"]["flops"] == pytest.approx(sum(run["C"] for run in runs))
    widths = [told["width"], *(step["width"] for step in told["steps"])]
    assert widths == sorted(widths, reverse=True)
    assert told["interval80"][0] < told["N_opt"] < told["interval80"][1]


def test_a_design_states_its_cost_and_benefit(say, fits):
    words = "design fits=fits budget_flops=1e23 n_runs=3"
    out = say(f"{words} rates.price_per_device_hour=2.5").out
    told = say(f"{words} format=json rates.price_per_device_hour=2.5").json
    first, *_, last = told["steps"]
    assert f"a factor {told['width']:.3g}." in out
    assert f"from a factor {told['width']:.3g} to {last['width']:.3g} (" in out
    assert f" {first['narrows']:.1%} " in out
    assert "at 2.5 an hour" in out
    assert "next runs, each chosen given those above it, of" in out
    assert "narrows: the reduction that each run adds to those above it" in out


def test_a_run_proposed_twice_needs_another_seed(say, fits):
    said = say("design fits=fits budget_flops=1e23 n_runs=20 shapes=[44m]").out
    assert "listed twice with another seed" in said


def test_a_design_needs_the_runs_of_the_fit(say, fits):
    (fits / "observations.csv").unlink()
    one_line(say("design fits=fits budget_flops=1e23"), 2, "observations.csv does not exist")


def test_another_table_beside_the_fits_is_refused(say, fits):
    table = fits / "observations.csv"
    table.write_text(table.read_text().replace("r1,", "r01,", 1))
    for words in ("design fits=fits budget_flops=1e23", "diagnose fits=fits"):
        one_line(say(words), 2, "observations.csv is not the table", "another SHA-256")
    assert say("predict budget_flops=1e23 fits=fits").code == 0


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("budget_flops=1e23 min_ratio=500", ["min_ratio=500", "Give both"]),
        ("budget_flops=1e23 max_ratio=1", ["max_ratio=1", "Give both"]),
        ("budget_flops=1e9 min_ratio=9 max_ratio=3", ["min_ratio=9"]),
        ("budget_flops=1e22 n_runs=101", ["n_runs=101", "at most 100"]),
        ("budget_flops=1e50", ["budget_flops=1e+50", "exponent"]),
        ("budget_flops=0", ["budget_flops=0"]),
    ],
)
def test_mistakes_are_refused_in_one_line(say, fits, words, parts):
    one_line(say(f"design fits=fits {words}"), 2, *parts)
    one_line(say("design fits=nowhere budget_flops=1e20"), 2, "nowhere", "chinchilla fit")


def test_one_limit_alone_is_kept(say, fits):
    told = say("design fits=fits budget_flops=1e23 min_ratio=50 format=json").json
    ratios = [step["run"]["D"] / step["run"]["N"] for step in told["steps"]]
    assert min(ratios) >= 50 * (1 - 1e-9)
    assert told["limits"]["tokens_per_param"] == pytest.approx([50, 160])


def test_design_and_predict_name_one_size(say, fits):
    r = say("predict budget_flops=1e23 fits=fits format=json").json["recommended"]
    design = say("design fits=fits budget_flops=1e23 format=json").json
    assert design["N_opt"] == pytest.approx(r["N"], rel=1e-12)
    low, high = design["interval80"]
    assert [low, high] == pytest.approx(r["N_interval80"], rel=1e-9)
    assert design["width"] == pytest.approx(high / low, rel=1e-9)

"""`chinchilla predict` as typed: a budget, a target loss or limited data, answered or refused in one line."""

import json

import numpy as np
import pytest
from command_line import one_line

from chinchilla.decide.repeated import RepeatedLaw
from chinchilla.fit.loss_law import named_law
from chinchilla.observations.table import Observations

LAW = named_law("besiroglu")


def test_a_published_law_gives_the_split_its_cost_and_the_cost_of_departures(say):
    words = "predict budget_flops=5.76e23 rates.price_per_device_hour=2.5 detail=true"
    first, rest = say(words).out.strip().split("\n", 1)
    assert "N 72.2B, D 1.33T tokens, 18.4 tokens per parameter, loss 1.9744" in first
    assert "law besiroglu" in first
    assert "warning: Extrapolation: 44.3x the largest C of that law's runs." in rest
    assert "404,449 device-hours at 9.89e+14 FLOP/s x 40% MFU, 1,011,122 at 2.5 an hour" in rest
    for part in ("│ chinchilla_70b ", "other sizes, by", "at most 1% more compute"):
        assert part in rest
    assert "kWh" not in rest


def test_the_answer_as_json(say):
    told = say("predict budget_flops=5.76e23 law=hoffmann format=json").json
    assert told["law"]["name"] == "law hoffmann"
    (decision,) = told["decisions"]
    assert decision["N"] == pytest.approx(40.36e9, rel=2e-4)
    assert {row["name"] for row in decision["misallocation"]} >= {"0.25", "1.1", "4"}
    assert decision["best_shape"] in decision["shapes"]
    assert decision["bill"]["energy_kwh"] is None


def test_stated_rates_make_a_bill(say):
    rates = "rates.device_watts=1200"
    cost = say(f"predict budget_flops=1e21 format=json {rates}").json["decisions"][0]["bill"]
    hours = 1e21 / (989e12 * 0.4) / 3600
    assert cost["energy_kwh"] == pytest.approx(hours * 1.2)
    assert "kWh at 1200 W" in say(f"predict budget_flops=1e21 {rates}").out


def test_tokens_to_be_served_make_the_model_smaller(say):
    words = "predict budget_flops=5.76e23 inference_tokens=1e13"
    served = say(f"{words} format=json").json["decisions"][0]["inference"]
    assert served["best"]["N"] < served["trained_only"]["N"]
    assert served["saving"] > 0
    assert "Serving 10.0T tokens" in say(words).out


def test_shapes_of_ones_own(say):
    words = "predict budget_flops=1e19 shapes=[512x8,1024x16,2048x24] positions=rope format=json"
    told = say(words).json
    names = [row["name"] for row in told["decisions"][0]["shapes"]]
    assert names == ["512x8", "1024x16", "2048x24"]


# ------------------------------------------------------------------ a target loss


def test_a_target_loss_needs_no_budget(say):
    told = say("predict target_loss=2.2 law=besiroglu format=json").json
    target, (decision,) = told["target"], told["decisions"]
    assert (decision["L"], decision["C"]) == pytest.approx((2.2, target["C"]), rel=1e-9)
    assert 6 * decision["N"] * decision["D"] == pytest.approx(target["C"])
    assert target["C_interval80"] is None
    assert f"by law besiroglu: {target['C']:.3g} FLOPs." in say("predict target_loss=2.2").out
    one_line(say("predict target_loss=1.7 law=besiroglu"), 3, "not above E=1.817")


def test_a_fitted_target_has_an_interval(say, fits):
    told = say("predict target_loss=2.5 fits=fits format=json").json
    target, at = told["target"], told["recommended"]
    low, high = target["C_interval80"]
    assert low < target["C"] < high
    for C, end in ((low, 0), (high, 1)):  # where the interval of the loss ends at that loss
        r = say(f"predict budget_flops={C!r} fits=fits format=json").json["recommended"]
        assert r["L_interval80"][end] == pytest.approx(2.5, rel=1e-4)
    assert (at["L"], at["C"]) == pytest.approx((2.5, target["C"]), rel=1e-4)
    out = say("predict target_loss=2.5 fits=fits").out
    assert f"{target['C']:.3g} FLOPs, 80% interval {low:.3g} to {high:.3g} FLOPs." in out


def test_a_target_loss_far_beyond_the_runs_has_a_range_only(say, fits):
    told = say("predict target_loss=1.9 fits=fits format=json").json
    assert told["recommended"]["range_only"]
    low, high = told["target"]["C_interval80"]
    assert high is None  # at the upper end of its interval the loss never gets there
    out = say("predict target_loss=1.9 fits=fits").out
    assert f"80% interval {low:.3g} FLOPs or more." in out
    assert "reason: Extrapolation: " in out
    assert "Cost:" not in out


# ------------------------------------------------------------------ fits


def test_a_fit_answers_with_intervals_of_its_loss(say, fits):
    told = say("predict budget_flops=1e21 fits=fits format=json").json
    ours = told["predictions"][0]
    assert ours["by"] == "this data, parametric"
    assert ours["L_interval80"][0] < ours["L"] < ours["L_interval80"][1]
    assert told["law"]["name"] == "the recommended answer"
    (recommended,), (decision,) = told["recommendations"], told["decisions"]
    assert told["recommended"] == recommended
    for name in "NDL":
        low, high = recommended[f"{name}_interval80"]
        assert low < recommended[name] < high
        assert decision[name] == pytest.approx(recommended[name], rel=1e-9)
    (fits / "observations.csv").unlink()  # frontier.json stands alone
    assert say("predict budget_flops=1e21 fits=fits format=json").json == told


@pytest.mark.slow
def test_a_fit_by_another_objective_answers_too(say, fits):
    for objective in ("lad", "least_squares"):
        words = f"approaches=parametric n_bootstrap=40 objective={objective}"
        assert say(f"fit observations=runs.csv out_dir=other {words}").code == 0
        row = say("predict budget_flops=1e21 fits=other format=json").json["predictions"][0]
        for name in "NL":
            low, high = row[f"{name}_interval80"]
            assert low < row[name] < high


def test_the_first_line_is_the_recommended_answer(say, fits):
    out = say("predict budget_flops=1e21 fits=fits").out
    first, rest = out.strip().split("\n", 1)
    r = say("predict budget_flops=1e21 fits=fits format=json").json["recommended"]
    assert first.startswith(f"C = 1e+21 FLOPs: N {r['N'] / 1e9:.2f}B (")
    low, high = r["L_interval80"]
    assert f"loss {r['L']:.4f} ({low:.4f}-{high:.4f})" in first
    assert first.endswith("80% intervals, by approach 3 (parametric).")
    assert rest.startswith("reason: ")
    assert rest.index("each approach of these runs") < rest.index("published lines and laws")
    assert "extra loss" not in rest
    said = say("fit observations=runs.csv out_dir=fits approaches=parametric n_bootstrap=100").out
    assert say("predict fits=fits").out.strip().splitlines()[0] in said
    more = say("predict budget_flops=1e21 fits=fits detail=true").out
    assert "extra loss" in more


def test_a_named_law_is_shown_with_the_recommended_answer(say, fits):
    out = say("predict budget_flops=1e21 fits=fits law=hoffmann").out
    first, *rest = (line for line in out.splitlines() if line)
    assert first.endswith("by approach 3 (parametric).")
    (named,) = (line for line in rest if line.startswith("C = 1e+21 FLOPs"))
    assert "by law hoffmann (C = 6*N*D): N 2.22B, D 75.2B tokens" in named
    assert "By law hoffmann, sizes from 1.86B to 2.66B need at most 1% more compute" in out


def test_far_beyond_the_runs_only_a_range_is_shown(say, fits):
    words = "predict budget_flops=1e25 fits=fits"
    told = say(f"{words} format=json").json
    assert (told["recommended"]["range_only"], told["decisions"]) == (True, [])
    out = say(words).out
    assert "5,208x the compute of the largest run: N between " in out
    assert "Cost:" not in out
    assert "each approach of these runs" not in out
    for key in ("unique_tokens=1e9", "inference_tokens=1e9"):
        one_line(say(f"{words} {key}"), 3, key.partition("=")[0], "a range only", "law=NAME")
    named = say(f"{words} law=hoffmann").out
    assert "C = 1e+25 FLOPs, by law hoffmann (C = 6*N*D): N " in named
    assert "Cost:" in named
    assert "each approach of these runs" not in named


def test_a_million_times_beyond_the_runs_is_refused(say, fits):
    one_line(say("predict budget_flops=1e29 fits=fits"), 3, "beyond the largest run")


def test_warnings_are_printed_once(say, fits):
    words = "predict budget_flops=[1e20,1e24] fits=fits"
    told = say(f"{words} format=json").json
    near, far = told["recommendations"]
    assert told["recommended"] == near
    reason = "Extrapolation: 521x the compute of the largest run."
    assert reason in far["reasons"]
    assert not any("Extrapolation" in text for text in near["reasons"])
    out = say(words).out
    for one in told["warnings"]:
        assert out.count(f": {one['text']}\n") == 1
    answer = out.index("C = 1e+24 FLOPs: N ")
    assert answer < out.index(f"reason: {reason}") < out.index("Cost:", answer)


def test_the_best_shape_is_shown_with_its_cost(say, fits):
    words = "predict budget_flops=1e21 fits=fits"
    rows = say(f"{words} format=json").json["decisions"][0]["shapes"]
    best = min(rows, key=lambda row: row["excess"])
    out = say(words).out
    expected = f"{best['name']} on {best['D'] / 1e9:.1f}B tokens (+{100 * best['excess']:.3g}%"
    assert f"Best available shape: {expected}" in out
    assert "the runs do not state how they count N" in out
    assert "no available shape is within 5%" not in out
    for shapes, part in (("[1.3b,48x2]", "1.3b on"), ("[48x2]", "at any compute")):
        out = say(f"{words} shapes={shapes}").out
        assert part in out
        assert "no available shape is within 5%" in out


# ------------------------------------------------------------------ repeated data


def test_few_unique_tokens_are_repeated(say):
    told = say("predict budget_flops=5.76e23 unique_tokens=1e11 format=json").json["repeated"]
    assert told["R_D"] == 15.387756
    (row,) = told["budgets"]
    assert row["epochs"] == pytest.approx(19.9, abs=0.05)
    out = say("predict budget_flops=5.76e23 unique_tokens=1e11").out
    assert "│   19.9 │" in out
    assert "was not measured" not in out


def test_no_answer_beyond_the_epochs_that_were_measured(say):
    out = say("predict unique_tokens=1e6 budget_flops=1e24").out
    assert "│ over 40 │" in out
    assert "at most 40.0M tokens (40 epochs)" in out
    assert "e+10" not in out


def repeats() -> tuple[RepeatedLaw, np.ndarray, np.ndarray, np.ndarray]:
    """A law with R_D = 8 and R_N = 3; U, D and N of 20 runs without repeats and 24 with them."""
    law = RepeatedLaw(named_law("muennighoff"), 8.0, 3.0)
    once = [(D, D, k) for D in np.geomspace(1e8, 1e11, 5) for k in (0.02, 0.1, 0.5, 1)]
    again = [(U, e * U, k) for U in (1e8, 1e10) for e in (3, 10, 50) for k in (1, 4, 20, 80)]
    U, D, times = np.array(once + again).T
    return law, U, D, times * law.size_for(U)


def test_the_value_of_repeats_is_fitted_to_runs(say, tmp_path):
    law, U, D, N = repeats()
    rows = zip(N, D, law(N, D, U), U, strict=True)
    text = "".join(",".join(repr(float(x)) for x in row) + "\n" for row in rows)
    words = "predict budget_flops=1e22 unique_tokens=1e10 repeated_runs=repeats.csv"
    for head in ("N,D,L,unique_tokens", "params,Tokens,loss,unique_tokens"):
        (tmp_path / "repeats.csv").write_text(f"{head}\n{text}")
        told = say(f"{words} format=json").json["repeated"]
        assert (told["R_D"], told["R_N"]) == pytest.approx((8, 3), rel=1e-3)
    assert "fit these runs equally well (within 1%)" in say(words).out
    (tmp_path / "repeats.csv").write_text(f"{head}\n{text}1 zillion,1e9,3,1e9\n")
    one_line(say(words), 2, "repeats.csv line 46", "'1 zillion'")
    (tmp_path / "repeats.csv").write_text("N,D,L\n1e8,1e9,3\n2e8,1e9,2.9\n")
    one_line(say(words), 2, "repeats.csv", "unique_tokens")


def test_the_value_of_repeats_is_fitted_to_the_table_of_a_fit(say, tmp_path):
    """The file beside frontier.json goes in as it is; the law is fitted to the runs that repeat nothing."""
    law, U, D, N = repeats()
    obs = Observations.of(
        N=N, D=D, L=law(N, D, U), C=7.5 * N * D, unique_tokens=U, n_convention="total",
        flop_convention="with_head",
    )  # fmt: skip
    obs.save(tmp_path / "runs.csv")
    told = say("fit observations=runs.csv out_dir=own approaches=[parametric] n_bootstrap=0").out
    assert "24 of 44 runs repeat data, up to 50 epochs" in told
    words = (
        "predict fits=own budget_flops=1e22 unique_tokens=1e10 repeated_runs=own/observations.csv"
    )
    answer = say(f"{words} format=json").json
    assert (answer["repeated"]["R_D"], answer["repeated"]["R_N"]) == pytest.approx((8, 3), rel=0.02)
    assert "the law itself to the 20 without repeated data" in answer["repeated"]["source"]
    rows = (tmp_path / "own" / "observations.csv").read_text()
    without = rows.replace(f",{float(D[0])!r},,with", ",,,with", 1)
    (tmp_path / "own" / "observations.csv").write_text(without)
    one_line(say(words), 2, "unique_tokens is missing or empty for 1 runs")
    (tmp_path / "own" / "observations.csv").write_text(rows.replace("total", "non_embedding"))
    one_line(say(words), 2, "n_convention=non_embedding", "total")


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("", ["budget_flops is missing", "target_loss=VALUE"]),
        ("budget_flops=1e20 law=kaplan", ["law='kaplan'", "hoffmann"]),
        ("budget_flops=1", ["budget_flops=1.0", "at least 1000"]),
        ("budget_flops=[1e20,1e41]", ["budget_flops=1e+41"]),
        ("budget_flops=1e20 kv_size=0", ["kv_size=0"]),
        ("budget_flops=1e20 inference_tokens=1e300", ["inference_tokens=1e+300"]),
        ("budget_flops=1e20 rates.mfu=40", ["rates.mfu=40", "0.4 for 40%"]),
        ("target_loss=-1", ["target_loss=-1"]),
        ("budget_flops=1e20 shapes=[huge]", ["'huge'", "Table A9"]),
        ("budget_flops=1e20 repeated_runs=x.csv", ["no effect without unique_tokens="]),
        ("budget_flops=1e20 unique_tokens=1e9 repeated_runs=x.csv", ["repeated_runs=x.csv"]),
        ("budget_flops=1e20 preregister=true", ["preregister_file=FILE.json"]),
        ("budget_flops=1e20 preregister_file=a.json", ["preregister=true"]),
    ],
)
def test_mistakes_are_refused_in_one_line(say, words, parts):
    one_line(say(f"predict {words}"), 2, *parts)


def test_without_approach_3_a_law_must_be_named(say, fits):
    path = fits / "frontier.json"
    record = json.loads(path.read_text())
    line = record["approaches"]["parametric"] | {"approach": "envelope", "law": None}
    refused = {"status": "refused", "reason": "no.", "kind": "x"}
    line |= {"certificate": None, "law_samples": []}
    record["approaches"] = {"envelope": line, "parametric": refused}
    log_k, a = np.log(line["N_opt"]["coefficient"]), line["N_opt"]["exponent"]
    N = record["recommended"]["N"]
    N |= {"kind": "line", "names": ["the envelope"], "scores": [0.0], "members": [[log_k, a]]}
    record["recommended"] |= {"approach": "envelope", "L": None}
    path.write_text(json.dumps(record))
    words = "predict budget_flops=1e20 fits=fits"
    out = say(words).out
    assert out.strip().splitlines()[0].endswith("80% intervals, by approach 1 (envelope).")
    assert "warning: approach 3 (parametric) was refused (x): no." in out
    assert "No loss could be forecast. Give law=NAME" in out
    one_line(say(f"{words} unique_tokens=1e9"), 3, "give law=NAME")
    assert say(f"{words} law=hoffmann unique_tokens=1e9").code == 0
    one_line(say("design fits=fits budget_flops=1e22"), 3, "design needs approach 3", "(no)")


def test_a_fit_that_was_refused_has_no_answer(say, fits):
    path = fits / "frontier.json"
    record = json.loads(path.read_text())
    record["approaches"]["parametric"] = {"status": "refused", "reason": "no.", "kind": "x"}
    record["recommended"] = None
    path.write_text(json.dumps(record))
    for words in ("", " format=json", " target_loss=2.5"):
        said = say(f"predict budget_flops=1e20 fits=fits{words}")
        one_line(said, 3, "no approach has an answer", "approach 3 (parametric), x: no)")
        assert said.out == ""
    said = say("predict budget_flops=1e20 fits=fits law=hoffmann")
    assert said.code == 0
    assert "by law hoffmann (C = 6*N*D): N " in said.out.strip().splitlines()[0]

"""predict, design and score as typed: questions about a budget, answered or refused in one line."""

import csv
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from chinchilla import cli
from chinchilla.config import RecipeConfig
from chinchilla.core.shapes import shape_named
from chinchilla.decide.repeated import RepeatedLaw
from chinchilla.fit.loss_law import named_law
from chinchilla.observations.table import Observations
from chinchilla.plan.grid import plan_run
from chinchilla.plan.records import RunResult

LAW = named_law("besiroglu")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


@pytest.fixture
def say(capsys, monkeypatch, tmp_path):
    """say("predict budget_flops=1e20") -> exit code, stdout, stderr; in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> Said:
        capsys.readouterr()
        code = cli.main(words.split())
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def fits(say, tmp_path):
    """Approach 3 on 35 runs with .3% noise, in fits/."""
    rng = np.random.default_rng(2)
    lines = ["run_id,budget_flops,C,N,D,L"]
    for i, N in enumerate(np.repeat(np.geomspace(5e7, 2e9, 7), 5).tolist()):
        D = N * (5, 10, 20, 40, 80)[i % 5]
        L = float(LAW(N, D) * np.exp(0.003 * rng.normal()))
        lines.append(f"r{i},,{6 * N * D!r},{N!r},{D!r},{L!r}")
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    words = "approaches=parametric n_bootstrap=100 loss=train flop_convention=six_nd"
    assert say(f"fit observations=runs.csv out_dir=fits {words}").code == 0
    return tmp_path / "fits"


def one_line(said: Said, code: int, *parts: str) -> None:
    assert (said.code, said.err.count("\n")) == (code, 1), said.err
    assert "Traceback" not in said.err + said.out
    for part in parts:
        assert part in said.err


# ------------------------------------------------------------------ predict


def test_the_text_shows_the_split_its_cost_and_the_cost_of_departures(say):
    out = say("predict budget_flops=5.76e23 rates.price_per_device_hour=2.5 detail=true").out
    first, rest = out.strip().split("\n", 1)
    assert "N 72.2B, D 1.33T tokens, 18.4 tokens per parameter, loss 1.9744" in first
    assert "warning: Extrapolation, law besiroglu: 44.3x the largest C of its runs." in rest
    assert "404,449 device-hours at 9.89e+14 FLOP/s x 40% MFU, 1,011,122 at 2.5 an hour" in rest
    for part in ("chinchilla_70b (best)", "other sizes, by", "at most 1% more compute"):
        assert part in rest
    assert "kWh" not in rest
    assert max(len(line) for line in out.splitlines() if not line.startswith("note: ")) <= 150


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


def test_a_target_loss_needs_no_budget(say):
    told = say("predict target_loss=2.2 law=besiroglu format=json").json
    target, (decision,) = told["target"], told["decisions"]
    assert (decision["L"], decision["C"]) == pytest.approx((2.2, target["C"]), rel=1e-9)
    assert 6 * decision["N"] * decision["D"] == pytest.approx(target["C"])
    assert target["C_interval80"] is None
    out = say("predict target_loss=2.2").out
    assert f"Loss 2.2 nats/token by law besiroglu: {target['C']:.3g} FLOPs.\n" in out


def test_a_target_below_E_is_refused(say):
    one_line(say("predict target_loss=1.7 law=besiroglu"), 3, "not above E=1.817")


def test_a_fitted_target_has_an_interval(say, fits):
    told = say("predict target_loss=2.5 frontier=fits format=json").json
    target, at = told["target"], told["recommended"]
    low, high = target["C_interval80"]
    assert low < target["C"] < high
    for C, end in ((low, 0), (high, 1)):  # where the interval of the loss ends at that loss
        r = say(f"predict budget_flops={C!r} frontier=fits format=json").json["recommended"]
        assert r["L_interval80"][end] == pytest.approx(2.5, rel=1e-4)
    assert (at["L"], at["C"]) == pytest.approx((2.5, target["C"]), rel=1e-4)
    out = say("predict target_loss=2.5 frontier=fits").out
    assert f"{target['C']:.3g} FLOPs, 80% interval {low:.3g} to {high:.3g} FLOPs.\n" in out


def test_a_fit_answers_with_intervals_of_its_loss(say, fits):
    told = say("predict budget_flops=1e21 frontier=fits format=json").json
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
    assert say("predict budget_flops=1e21 frontier=fits format=json").json == told


@pytest.mark.parametrize("objective", ["lad", "least_squares"])
@pytest.mark.slow
def test_a_fit_by_another_objective_answers_too(say, fits, objective):
    words = f"approaches=parametric n_bootstrap=40 objective={objective}"
    assert say(f"fit observations=runs.csv out_dir=other {words}").code == 0
    row = say("predict budget_flops=1e21 frontier=other format=json").json["predictions"][0]
    for name in "NL":
        low, high = row[f"{name}_interval80"]
        assert low < row[name] < high


def test_the_first_line_is_the_recommended_answer(say, fits):
    out = say("predict budget_flops=1e21 frontier=fits").out
    first, rest = out.strip().split("\n", 1)
    r = say("predict budget_flops=1e21 frontier=fits format=json").json["recommended"]
    assert first.startswith(f"C = 1e+21 FLOPs: N {r['N'] / 1e9:.2f}B (")
    low, high = r["L_interval80"]
    assert f"loss {r['L']:.4f} ({low:.4f}-{high:.4f})" in first
    assert f"{r['D'] / r['N']:.1f} tokens per parameter" in first
    assert first.endswith("80% intervals, by approach 3 (parametric).")
    assert rest.startswith("reason: Approach 3 (parametric) is recommended: it uses all runs")
    assert rest.index("each approach of these runs") < rest.index("published lines and laws")
    assert "resampled laws (approach 3)" in rest
    assert "more compute, %" not in rest
    said = say("fit observations=runs.csv out_dir=fits approaches=parametric n_bootstrap=100").out
    assert say("predict frontier=fits").out.strip().splitlines()[0] in said
    more = say("predict budget_flops=1e21 frontier=fits detail=true").out
    assert "other sizes, by the recommended answer" in more
    assert "more compute, %" in more


def test_a_named_law_is_shown_with_the_recommended_answer(say, fits):
    out = say("predict budget_flops=1e21 frontier=fits law=hoffmann").out
    first, *rest = (line for line in out.splitlines() if line)
    assert first.startswith("C = 1e+21 FLOPs: N 2.")
    assert first.endswith("by approach 3 (parametric).")
    (named,) = (line for line in rest if line.startswith("C = 1e+21 FLOPs"))
    assert "by law hoffmann (C = 6*N*D): N 2.22B, D 75.2B tokens" in named
    assert rest[0].startswith("reason: ")
    assert "By law hoffmann, sizes from 1.86B to 2.66B need at most 1% more compute" in out


def test_far_beyond_the_runs_only_a_range_is_shown(say, fits):
    told = say("predict budget_flops=1e25 frontier=fits format=json").json
    r = told["recommended"]
    assert (r["range_only"], told["decisions"]) == (True, [])
    out = say("predict budget_flops=1e25 frontier=fits").out
    assert out.strip().startswith(
        "C = 1e+25 FLOPs, 5,208x the compute of the largest run: N between "
    )
    assert "The runs do not support more than this range." in out
    assert "Cost:" not in out
    assert "each approach of these runs" not in out
    words = "predict budget_flops=1e25 frontier=fits"
    for key in ("unique_tokens=1e9", "inference_tokens=1e9"):
        one_line(say(f"{words} {key}"), 3, "support a range only", "law=NAME")
    named = say(f"{words} law=hoffmann").out
    assert "C = 1e+25 FLOPs, by law hoffmann (C = 6*N*D): N " in named
    assert "Cost:" in named
    assert "each approach of these runs" not in named


def test_a_million_times_beyond_the_runs_is_refused(say, fits):
    one_line(say("predict budget_flops=1e29 frontier=fits"), 3, "beyond the largest run")


def test_help_lists_rates_and_nothing_of_slurm(say):
    for command in ("predict", "design"):
        out = say(f"{command} --help").out
        assert "rates.mfu" in out
        assert "partition" not in out


def test_tokens_to_be_served_make_the_model_smaller(say):
    words = "predict budget_flops=5.76e23 inference_tokens=1e13"
    served = say(f"{words} format=json").json["decisions"][0]["inference"]
    assert served["best"]["N"] < served["trained_only"]["N"]
    assert served["saving"] > 0
    assert "Serving 10.0T tokens" in say(words).out


def test_few_unique_tokens_are_repeated(say):
    told = say("predict budget_flops=5.76e23 unique_tokens=1e11 format=json").json["repeated"]
    assert told["R_D"] == 15.387756
    (row,) = told["budgets"]
    assert row["epochs"] == pytest.approx(19.9, abs=0.05)
    assert say("predict budget_flops=5.76e23 unique_tokens=1e11").out.count("unique tokens") == 1


def test_the_value_of_repeats_is_fitted_to_runs(say, tmp_path):
    law = RepeatedLaw(named_law("muennighoff"), 8.0, 3.0)
    with open(tmp_path / "repeats.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("N", "D", "L", "unique_tokens"))
        for U in (1e8, 1e9, 1e10):
            for times in (1, 4, 20, 80):
                for epochs in (1, 3, 10, 40, 200):
                    N, D = times * float(law.size_for(U)), epochs * U
                    writer.writerow((N, D, float(law(N, D, U)), U))
    words = "predict budget_flops=1e22 unique_tokens=1e10 repeated_runs=repeats.csv"
    told = say(f"{words} format=json").json["repeated"]
    assert (told["R_D"], told["R_N"]) == pytest.approx((8, 3), rel=1e-3)
    assert "fit these runs equally well (within 1%)" in say(words).out
    named = (tmp_path / "repeats.csv").read_text().replace("N,D,L,", "params,Tokens,loss,", 1)
    (tmp_path / "repeats.csv").write_text(named)
    assert say(f"{words} format=json").json["repeated"]["R_D"] == told["R_D"]
    (tmp_path / "repeats.csv").write_text(named + "1 zillion,1e9,3,1e9\n")
    one_line(say(words), 2, "repeats.csv line 62", "'1 zillion' is not a number.")
    (tmp_path / "repeats.csv").write_text("N,D,L\n1,1,1\n")
    one_line(say(words), 2, "no column unique_tokens (found N, D, L)")


def test_the_value_of_repeats_is_fitted_to_the_table_of_a_fit(say, tmp_path):
    """The file beside frontier.json goes in as it is; the law is fitted to the runs that repeat nothing."""
    law = RepeatedLaw(named_law("muennighoff"), 8.0, 3.0)
    once = [(D, D, k) for D in np.geomspace(1e8, 1e11, 5) for k in (0.02, 0.1, 0.5, 1)]
    again = [(U, e * U, k) for U in (1e8, 1e10) for e in (3, 10, 50) for k in (1, 4, 20, 80)]
    U, D, times = np.array(once + again).T
    N = times * law.size_for(U)
    obs = Observations.of(N=N, D=D, L=law(N, D, U), unique_tokens=U, n_convention="total")
    obs.save(tmp_path / "runs.csv")
    told = say("fit observations=runs.csv out_dir=own approaches=[parametric] n_bootstrap=0").out
    assert told.count("24 of 44 runs repeat data, up to 50 epochs") == 1
    record = json.loads((tmp_path / "own" / "frontier.json").read_text())
    assert record["data"]["max_epochs"] == 50
    words = "predict frontier=own budget_flops=1e22 unique_tokens=1e10 repeated_runs=own/observations.csv"
    answer = say(f"{words} format=json").json
    assert (answer["repeated"]["R_D"], answer["repeated"]["R_N"]) == pytest.approx((8, 3), rel=0.02)
    assert "the law itself to the 20 without repeated data" in answer["repeated"]["source"]
    assert any("repeat data" in said["text"] for said in answer["warnings"])
    rows = (tmp_path / "own" / "observations.csv").read_text()
    (tmp_path / "own" / "observations.csv").write_text(
        rows.replace(f",{float(D[0])!r},,six", ",,,six", 1)
    )
    one_line(say(words), 2, "unique_tokens is empty")
    (tmp_path / "own" / "observations.csv").write_text(rows.replace("total", "non_embedding"))
    one_line(say(words), 2, "n_convention=non_embedding, and the fitted law's runs have total")


def test_more_epochs_than_were_ever_measured_are_noted(say):
    words = "predict unique_tokens=1e10 law=muennighoff budget_flops="
    assert "was not measured" in say(f"{words}1e24").out
    assert "was not measured" not in say(f"{words}1e21").out


def test_shapes_of_ones_own(say):
    words = "predict budget_flops=1e19 shapes=[512x8,1024x16,2048x24] positions=rope format=json"
    told = say(words).json
    assert [row["name"] for row in told["decisions"][0]["shapes"]] == [
        "512x8", "1024x16", "2048x24",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("predict", ["budget_flops is missing", "target_loss=VALUE"]),
        ("predict budget_flops=1e20 law=kaplan", ["law='kaplan': choose one of hoffmann"]),
        ("predict budget_flops=1", ["budget_flops=1.0 must be at least 1000 and at most 1e+40"]),
        ("predict budget_flops=[1e20,1e41]", ["budget_flops=1e+41 must be at least 1000"]),
        ("predict budget_flops=1e20 kv_size=0", ["kv_size=0 must be above 0"]),
        ("predict budget_flops=1e20 inference_tokens=1e300", ["inference_tokens=1e+300"]),
        ("predict budget_flops=1e20 rates.mfu=40", ["rates.mfu=40", "0.4 for 40%"]),
        (
            "design frontier=f budget_flops=1e22 n_runs=101",
            ["n_runs=101 must be at least 1 and at most 100"],
        ),
        (
            "design frontier=f budget_flops=1e50",
            ["budget_flops=1e+50 must be at least 1000", "exponent"],
        ),
        ("predict target_loss=-1", ["target_loss=-1"]),
        ("predict budget_flops=1e20 shapes=[huge]", ["'huge' is neither a row of Table A9"]),
        ("predict budget_flops=1e20 repeated_runs=x.csv", ["needs unique_tokens"]),
        (
            "predict budget_flops=1e20 unique_tokens=1e9 repeated_runs=x.csv",
            ["repeated_runs=x.csv cannot be read"],
        ),
        ("predict budget_flops=1e20 preregister=true", ["preregister_file=FILE.json"]),
        ("predict budget_flops=1e20 preregister_file=a.json", ["preregister=true"]),
        ("design frontier=fits budget_flops=1e20", ["fits", "chinchilla fit"]),
        ("design frontier=fits budget_flops=0", ["budget_flops=0"]),
        ("design frontier=f budget_flops=1e9 min_ratio=9 max_ratio=3", ["min_ratio=9"]),
        ("score prediction=p.json", ["result=FILE.json", "observations=FILE.csv"]),
        ("score prediction=p.json result=r", ["p.json does not exist"]),
    ],
)
def test_mistakes_are_refused_in_one_line(say, words, parts):
    one_line(say(words), 2, *parts)


def test_without_approach_3_a_law_must_be_named(say, fits):
    path = fits / "frontier.json"
    record = json.loads(path.read_text())
    line = record["approaches"]["parametric"] | {
        "approach": "envelope",
        "law": None,
        "law_samples": [],
    }
    refused = {"status": "refused", "reason": "no.", "kind": "x"}
    record["approaches"] = {"envelope": line | {"certificate": None}, "parametric": refused}
    log_k, a = np.log(line["N_opt"]["coefficient"]), line["N_opt"]["exponent"]
    N = record["recommended"]["N"]
    N |= {"kind": "line", "names": ["the envelope"], "scores": [0.0], "members": [[log_k, a]]}
    record["recommended"] |= {"approach": "envelope", "L": None}
    path.write_text(json.dumps(record))
    out = say("predict budget_flops=1e20 frontier=fits").out
    assert out.strip().splitlines()[0].endswith("80% intervals, by approach 1 (envelope).")
    assert "warning: approach 3 (parametric) was refused (x): no." in out
    assert "No loss could be forecast. Give law=NAME for the costs of departures." in out
    one_line(say("predict budget_flops=1e20 frontier=fits unique_tokens=1e9"), 3, "give law=NAME")
    assert say("predict budget_flops=1e20 frontier=fits law=hoffmann unique_tokens=1e9").code == 0
    one_line(say("design frontier=fits budget_flops=1e22"), 3, "design needs approach 3", "(no)")


def test_a_fit_that_was_refused_has_no_answer(say, fits):
    path = fits / "frontier.json"
    record = json.loads(path.read_text())
    record["approaches"]["parametric"] = {"status": "refused", "reason": "no.", "kind": "x"}
    record["recommended"] = None
    path.write_text(json.dumps(record))
    for words in ("", " format=json", " target_loss=2.5"):
        said = say(f"predict budget_flops=1e20 frontier=fits{words}")
        one_line(said, 3, "no approach has an answer", "approach 3 (parametric), x: no)")
        assert said.out == ""
    said = say("predict budget_flops=1e20 frontier=fits law=hoffmann")
    assert said.code == 0
    assert "by law hoffmann (C = 6*N*D): N " in said.out.strip().splitlines()[0]
    assert "warning: approach 3 (parametric) was refused (x): no." in said.out


def test_warnings_are_printed_below_the_answer(say, fits):
    words = "predict budget_flops=[1e20,1e24] frontier=fits"
    told = say(f"{words} format=json").json
    near, far = told["recommendations"]
    assert told["recommended"] == near
    assert [(r["C"], r["approach"]) for r in (near, far)] == [
        (1e20, "parametric"),
        (1e24, "parametric"),
    ]
    reason = "Extrapolation: 521x the compute of the largest run."
    assert reason in far["reasons"]
    assert not any("Extrapolation" in text for text in near["reasons"])
    out = say(words).out
    for one in told["warnings"]:
        assert out.count(f": {one['text']}\n") == 1
    answer = out.index("C = 1e+24 FLOPs: N ")
    assert answer < out.index(f"reason: {reason}") < out.index("Cost:", answer)


def test_the_best_shape_is_shown_with_its_cost(say, fits):
    words = "predict budget_flops=1e21 frontier=fits"
    rows = say(f"{words} format=json").json["decisions"][0]["shapes"]
    best = min(rows, key=lambda row: row["excess"])
    out = say(words).out
    assert f"The best available shape is {best['name']} on {best['D'] / 1e9:.1f}B tokens: " in out
    assert "more compute for the loss of the best size (with all its parameters" in out
    assert (
        "No available shape is within 5% of the compute. The best shape, 1.3b"
        in say(f"{words} shapes=[1.3b,48x2]").out
    )
    assert (
        "No available shape reaches the loss of the best size. The best shape, 48x2"
        in say(f"{words} shapes=[48x2]").out
    )


def test_a_target_loss_far_beyond_the_runs_has_a_range_only(say, fits):
    told = say("predict target_loss=1.9 frontier=fits format=json").json
    assert told["recommended"]["range_only"]
    low, high = told["target"]["C_interval80"]
    assert high is None  # at the upper end of its interval the loss never gets there
    out = say("predict target_loss=1.9 frontier=fits").out
    assert f"by the recommended answer: 80% interval {low:.3g} FLOPs or more.\n" in out
    assert "reason: Extrapolation: " in out
    assert "Cost:" not in out


# ------------------------------------------------------------------ design


def test_next_runs_are_shown_and_written(say, fits):
    said = say("design frontier=fits budget_flops=1e23 n_runs=3 spend=1e21")
    assert said.code == 0
    assert "N_opt(1e+23 FLOPs)" in said.out
    assert "device-hours" in said.out
    with open(fits / "design.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 3
    assert sum(float(row["C"]) for row in rows) <= 1e21
    widths = [float(row["width_after"]) for row in rows]
    assert widths == sorted(widths, reverse=True)
    told = say("design frontier=fits budget_flops=1e23 n_runs=3 spend=1e21 format=json").json
    assert [step["run"]["N"] for step in told["steps"]] == [float(row["N"]) for row in rows]
    assert told["width"] > widths[0]
    assert told["cost"]["flops"] == pytest.approx(sum(float(row["C"]) for row in rows))
    assert [step["narrows"] for step in told["steps"]] == [float(row["narrows"]) for row in rows]
    assert told["interval80"][0] < told["N_opt"] < told["interval80"][1]


def test_a_design_states_its_cost_and_benefit(say, fits):
    words = "design frontier=fits budget_flops=1e23 n_runs=3"
    out = say(f"{words} rates.price_per_device_hour=2.5").out
    told = say(f"{words} format=json rates.price_per_device_hour=2.5").json
    first, *_, last = told["steps"]
    assert f"a factor {told['width']:.3g}." in out
    assert f"from a factor {told['width']:.3g} to {last['width']:.3g} (" in out
    assert f" {first['narrows']:.1%} " in out
    assert "at 2.5 an hour" in out
    assert " price " in out
    assert " price " not in say(words).out


def test_a_run_proposed_twice_needs_another_seed(say, fits):
    said = say("design frontier=fits budget_flops=1e23 n_runs=20 shapes=[44m]").out
    assert "Train a run that is listed twice with another seed." in said


def test_a_design_needs_the_runs_of_the_fit(say, fits):
    (fits / "observations.csv").unlink()
    one_line(say("design frontier=fits budget_flops=1e23"), 2, "observations.csv does not exist")


def test_another_table_beside_the_fits_is_refused(say, fits):
    table = fits / "observations.csv"
    table.write_text(table.read_text().replace("r1,", "r01,", 1))
    for words in ("design frontier=fits budget_flops=1e23", "diagnose fits=fits"):
        one_line(say(words), 2, "observations.csv is not the table", "another SHA-256")
    assert say("predict budget_flops=1e23 frontier=fits").code == 0


@pytest.mark.parametrize("limit", ["min_ratio=500", "max_ratio=1"])
def test_contradicting_limits_are_refused(say, fits, limit):
    one_line(say(f"design frontier=fits budget_flops=1e23 {limit}"), 2, limit, "Give both")


def test_one_limit_alone_is_kept(say, fits):
    told = say("design frontier=fits budget_flops=1e23 min_ratio=50 format=json").json
    ratios = [step["run"]["D"] / step["run"]["N"] for step in told["steps"]]
    assert min(ratios) >= 50 * (1 - 1e-9)
    assert told["limits"]["tokens_per_param"] == pytest.approx([50, 160])


def test_design_and_predict_name_one_size(say, fits):
    told = say("predict budget_flops=1e23 frontier=fits format=json").json
    r = told["recommended"]
    design = say("design frontier=fits budget_flops=1e23 format=json").json
    assert design["N_opt"] == pytest.approx(r["N"], rel=1e-12)
    low, high = design["interval80"]
    assert [low, high] == pytest.approx(r["N_interval80"], rel=1e-9)
    assert design["width"] == pytest.approx(high / low, rel=1e-9)


# ------------------------------------------------------------------ preregister, score


@pytest.fixture
def prediction(say, fits):
    said = say("predict budget_flops=1e21 frontier=fits preregister=true format=json")
    return said.json["preregistered"]


def measured(path, L_factor: float, C: float = 1e21) -> None:
    N, D = 2.5e9, C / 6 / 2.5e9
    L = float(LAW(N, D)) * L_factor
    path.write_text(f"run_id,budget_flops,C,N,D,L\nbig,,{6 * N * D},{N},{D},{L}\n")


def test_a_prediction_is_scored(say, prediction, tmp_path):
    measured(tmp_path / "came.csv", 1.0)
    said = say(f"score prediction={prediction} observations=came.csv")
    assert said.code == 0
    assert "unchanged" in said.out
    assert "measured and predicted loss, by the recommended answer at 1e+21 FLOPs" in said.out
    assert "│ inside" in said.out
    assert "1 of 1 runs lie inside their 80% interval." in said.out
    assert "note: flop_convention, n_convention, loss_kind not compared" in said.out
    assert said.out.count("note: no time is recorded for these results") == 1
    (run,) = say(f"score prediction={prediction} observations=came.csv format=json").json["runs"]
    assert run["inside"] is True
    assert run["measured"] == pytest.approx(run["predicted"], rel=0.02)
    assert run["level"] == 80
    (r,) = json.loads((tmp_path / prediction).read_text())["recommended"]
    low, high = (x / run["predicted"] for x in run["interval"])
    assert (low, high) == pytest.approx([x / r["L"] for x in r["L_interval80"]])
    assert run["N_over_best"] == pytest.approx(2.5e9 / r["N"])


def test_a_run_of_another_budget_is_scored_by_the_law(say, prediction, tmp_path):
    measured(tmp_path / "came.csv", 1.0, C=1.2e21)
    said = say(f"score prediction={prediction} observations=came.csv")
    assert "measured and predicted loss, by approach 3 (parametric)" in said.out
    assert "1 of 1 runs lie inside their 95% interval." in said.out
    (run,) = say(f"score prediction={prediction} observations=came.csv format=json").json["runs"]
    assert run["level"] == 95
    assert run["interval"][0] < run["measured"] < run["interval"][1]


def test_a_runs_own_result_is_scored(say, prediction, tmp_path):
    """result.json as training writes it; its N, D and C are those it really had."""
    shape = shape_named("512x8", 32_000, 2_048, 64, "rope")
    spec = plan_run(shape, RecipeConfig(), flop_convention="six_nd", data_id="d", precision="fp32",
                    tokens=2e9)  # fmt: skip
    L = float(LAW(spec.N, spec.D))
    result = RunResult(
        spec=spec, status="finished", reason="", final_loss=L, final_loss_se=0.001,
        final_loss_steps=50, validation_loss={"a": L + 1}, validation_tokens={"a": 1},
        bits_per_byte={"a": 1.0}, n_params=spec.N, n_params_non_embedding=1, steps_done=spec.steps,
        flops_spent=spec.C, train_seconds=1.0, tokens_per_second=1.0, mfu=None, peak_memory_bytes=1,
        device="cpu", versions={}, git="", started_utc="2099-01-01T00:00:00Z",
        finished_utc="2099-01-01T00:00:09Z",
    )  # fmt: skip
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    result.save(run_dir)
    for given in ("run", "run/result.json"):
        (run,) = say(f"score prediction={prediction} result={given} format=json").json["runs"]
        assert (run["N"], run["D"], run["C"]) == (spec.N, spec.D, spec.C)
        assert run["measured"] == L
        assert run["inside"] is True
    (held,) = say(f"score prediction={prediction} result=run loss=validation format=json").json[
        "runs"
    ]
    assert held["inside"] is False
    replace(result, finished_utc="2020-01-01T00:00:09Z").save(run_dir)
    said = say(f"score prediction={prediction} result=run")
    one_line(said, 2, "finished at 2020-01-01T00:00:09Z, before this prediction was made")
    replace(result, status="diverged", reason="NaN", final_loss=None).save(run_dir)
    one_line(say(f"score prediction={prediction} result=run"), 2, "this run diverged (NaN)")
    one_line(say(f"score prediction={prediction} result=run/spec.json"), 2, "result.json")


def test_a_result_far_off_is_a_verdict_not_an_error(say, prediction, tmp_path):
    measured(tmp_path / "came.csv", 1.1)
    said = say(f"score prediction={prediction} observations=came.csv")
    assert said.code == 0
    assert "OUTSIDE" in said.out
    assert "0 of 1 runs lie inside their 80% interval." in said.out


def test_a_table_that_holds_fitted_runs_is_not_scored(say, prediction):
    for table in ("runs.csv", "fits/observations.csv"):
        said = say(f"score prediction={prediction} observations={table}")
        one_line(said, 2, "35 of 35 runs (r0, ...) were part of the fit")


def test_a_prediction_needs_the_runs_that_were_fitted(say, fits):
    (fits / "observations.csv").unlink()
    said = say("predict budget_flops=1e21 frontier=fits preregister=true")
    one_line(said, 2, "observations.csv does not exist")


def test_a_changed_prediction_is_not_scored(say, prediction, tmp_path):
    measured(tmp_path / "came.csv", 1.0)
    path = tmp_path / prediction
    path.write_text(path.read_text().replace('"law_name": "approach 3', '"law_name": "approach 2'))
    said = say(f"score prediction={prediction} observations=came.csv")
    one_line(said, 2, "was changed after it was written")


def test_a_prediction_gets_its_own_file_and_keeps_it(say, fits):
    words = "predict budget_flops=1e21 frontier=fits preregister=true preregister_file=mine.json"
    assert say(words).code == 0
    one_line(say(words), 2, "mine.json exists", "never overwritten")

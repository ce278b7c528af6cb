"""Comparison of corpora: known differences are recovered, and incomparable runs are refused."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from chinchilla import cli
from chinchilla.config import FitCommand
from chinchilla.core.errors import InputError
from chinchilla.core.provenance import Code
from chinchilla.core.shapes import ModelShape
from chinchilla.decide.compare import Side, compare, summary
from chinchilla.fit import FitResults, LossLaw, fit_all
from chinchilla.observations.table import Observations
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.recommend import fit_and_recommend
from chinchilla.report.comparison import save_figure_of, tables_of
from chinchilla.report.figures import isoflop_curves_side_by_side

EVEN = LossLaw(1.7, 400.0, 400.0, 0.34, 0.34)  # a = b = .5
CODE = LossLaw(0.9, 300.0, 900.0, 0.30, 0.36)  # a = .36/.66 = .545
BUDGETS = (1e18, 1e19, 1e20, 1e21)
SETTINGS = FitCommand(
    observations="runs.csv", out_dir="x", approaches=["isoflop", "parametric"], n_bootstrap=200,
)  # fmt: skip


def runs(law: LossLaw, seed: int = 0, noise: float = 1e-3, budgets=BUDGETS) -> Observations:
    C = np.repeat(budgets, 7)
    G = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    N = G * (C / 6) ** (law.beta / (law.alpha + law.beta))
    N = N * np.tile(np.geomspace(1 / 4, 4, 7), len(budgets))
    D = C / (6 * N)
    L = law(N, D) * np.exp(noise * np.random.default_rng(seed).normal(size=len(N)))
    return Observations.of(
        N=N, D=D, L=L, C=C, budget_flops=C, flop_convention="six_nd", loss_kind="validation"
    )


def side(name: str, obs: Observations, settings: FitCommand = SETTINGS, **known) -> Side:
    return Side(name, name, fit_all(obs, None, settings), obs, **known)


@pytest.fixture(scope="module")
def sides() -> list[Side]:
    return [
        side("prose", runs(EVEN), bits_per_nat=0.5),
        side("code", runs(CODE, 1), bits_per_nat=0.9),
    ]


def by(found, approach: str):
    return [d for d in found.differences if d.approach == approach]


def test_a_difference_of_two_laws_is_recovered_with_its_interval(sides):
    found = compare(sides)
    for approach in ("isoflop", "parametric"):
        (d,) = by(found, approach)
        assert d.value == pytest.approx(0.36 / 0.66 - 0.5, abs=0.02)
        assert d.ci95[0] < d.interval[0] < d.value < d.interval[1] < d.ci95[1]
        assert d.verdict == "differ"
    assert "N_opt grows as C^0.50 [" in summary(found)
    assert "a(code) - a(prose) = +0.0" in summary(found)
    assert "they differ (the 95% interval excludes 0)" in summary(found)


def test_two_sweeps_of_one_law_are_not_distinguishable():
    found = compare([side("one", runs(EVEN, 2, 3e-3)), side("other", runs(EVEN, 3, 3e-3))])
    assert {d.verdict for d in found.differences} == {"not distinguishable"}


def test_the_interval_of_a_difference_is_wider_than_either():
    found = compare([side("one", runs(EVEN, 2)), side("other", runs(EVEN, 3))])
    one, other = (e.a_interval for e in found.exponents if e.approach == "isoflop")
    (d,) = by(found, "isoflop")
    widths = [high - low for low, high in (one, other, d.interval)]
    assert max(widths[:2]) < widths[2] < sum(widths[:2]) * 1.05


def test_recommended_answers_are_given_at_one_budget():
    """Ten times the smaller of the largest C."""
    sides = []
    for name, law, budgets in (("one", EVEN, BUDGETS), ("other", CODE, BUDGETS[:3])):
        obs = runs(law, budgets=budgets)
        sides.append(
            Side(name, name, fit_and_recommend(obs, None, replace(SETTINGS, n_bootstrap=0)), obs)
        )
    found = compare(sides)
    assert [(r["corpus"], r["C"]) for r in found.recommended] == [("one", 1e21), ("other", 1e21)]
    assert summary(found).startswith(
        f"one: {found.recommended[0]['answer']} other: C = 1e+21 FLOPs"
    )


def test_bits_per_byte_are_the_nats_of_the_best_run_times_its_corpus_factor(sides):
    first, second = compare(sides).lowest[:2]
    assert (first.corpus, second.corpus) == ("prose", "code")
    assert first.L == sides[0].finals.L[sides[0].finals.budget_flops == 1e18].min()
    assert first.bits_per_byte == first.L * 0.5
    assert second.bits_per_byte == second.L * 0.9


def test_fits_without_resamples_say_that_there_is_no_interval():
    settings = replace(SETTINGS, n_bootstrap=0)
    found = compare([side("one", runs(EVEN), settings), side("other", runs(CODE), settings)])
    assert {d.verdict for d in found.differences} == {"no interval"}
    assert "too few resamples" in summary(found)


@pytest.mark.parametrize(
    ("convention", "value", "advice"),
    [("flop_convention", "paper", "Count both alike"), ("loss_kind", "train", "same loss=")],
)
def test_runs_counted_in_two_ways_do_not_compare(sides, convention, value, advice):
    other = replace(sides[1], finals=replace(sides[1].finals, **{convention: value}))
    with pytest.raises(
        InputError, match=f"{convention} differs .* in prose, {value} in code.*{advice}"
    ):
        compare([sides[0], other])


def test_an_assumed_convention_is_noted(sides):
    """The page shows one convention for both corpora, although one does not state it."""
    quiet = replace(sides[1].finals, loss_kind="unknown", flop_convention="unknown")
    notes = compare([sides[0], replace(sides[1], finals=quiet)]).notes
    assert [note for note in notes if "not stated" in note] == [
        "flop_convention of code is not stated: assumed to be six_nd.",
        "loss_kind of code is not stated: assumed to be validation.",
    ]
    assert not any("not stated" in note for note in compare(sides).notes)


def test_different_vocabularies_are_noted(sides):
    a, b = (replace(s, vocab_sizes=(v,)) for s, v in zip(sides, (512, 8192), strict=True))
    said = " ".join(compare([a, b]).notes)
    assert "vocabularies differ (prose 512, code 8,192)" in said


# ------------------------------------------------------------------ tables, figure, page


def test_the_papers_table_a2_is_shown_with_approach_2(sides):
    table = tables_of(compare(sides))["exponents"]
    rows = [[run_dir.text for run_dir in row] for row in table.rows]
    at = [row[0] for row in rows].index("2 isoflop")
    assert [row[1] for row in rows[at : at + 4]] == ["prose", "code", "paper, C4", "paper, GitHub"]
    assert rows[at + 3][2:4] == ["0.53", "0.47"]
    assert rows[0][2] == "not fitted"  # approach 1 was not asked for


def test_panels_share_sizes_and_colours_and_in_bits_per_byte_the_scale(sides):
    panels = [(s.name, s.fits.fitted["isoflop"], s.finals) for s in sides]
    left, right = isoflop_curves_side_by_side(panels, [0.5, 0.9]).axes
    assert left.get_xlim() == right.get_xlim()
    assert np.ptp(left.get_ylim()) == pytest.approx(np.ptp(right.get_ylim()))
    assert (left.get_ylabel(), right.get_ylabel()) == ("final validation loss, bits/byte", "")
    dots = [[line for line in ax.lines if len(line.get_xdata()) == 7] for ax in (left, right)]
    assert [x.get_color() for x in dots[0]] == [x.get_color() for x in dots[1]]
    assert dots[1][0].get_ydata().min() == pytest.approx(0.9 * sides[1].finals.L[:7].min())
    left, right = isoflop_curves_side_by_side(panels, None).axes
    assert left.get_ylabel() == right.get_ylabel() == "final validation loss, nats/token"
    assert np.ptp(left.get_ylim()) != pytest.approx(np.ptp(right.get_ylim()))


def test_the_exponents_are_above_the_panels_where_they_cover_no_curve(sides):
    panels = [(s.name, s.fits.fitted["isoflop"], s.finals) for s in sides]
    figure = isoflop_curves_side_by_side(panels, None)
    figure.draw_without_rendering()
    for ax in figure.axes:
        [note] = [text for text in ax.texts if "80% interval" in text.get_text()]
        above = ax.get_title(loc="left") and ax._left_title.get_window_extent().y0
        assert ax.bbox.y1 <= note.get_window_extent().y0
        assert note.get_window_extent().y1 <= above


def test_the_figure_is_saved_in_both_formats(sides, tmp_path):
    png = save_figure_of(sides, tmp_path)
    assert png == tmp_path / "compare_isoflop_curves.png"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.with_suffix(".svg").exists()


# ------------------------------------------------------------------ the command


@pytest.fixture
def say(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(words.split())
        return code, *capsys.readouterr()

    return run


def keep(place: Path, fitted: Side) -> None:
    """What `chinchilla fit` leaves."""
    replace(fitted.fits, runs=fitted.finals).save(place)


def keep_sweep(folder: Path, fitted: Side, bytes_per_token: float) -> None:
    """A sweep's folder whose results stand behind the fits: bits per byte come from them."""
    specs, names = [], []
    for i, L in enumerate(fitted.finals.L.tolist()):
        spec = RunSpec(
            sweep="s", budget_flops=1e12, flop_convention="six_nd",
            model=ModelShape(32, 128, 16, 2, 3, 512, 64), data_id=folder.name, batch_tokens=1024,
            steps=10, cosine_steps=10, warmup_steps=1, peak_lr=1e-3, final_lr_ratio=0.1,
            weight_decay=0.1, beta1=0.9, beta2=0.95, adam_eps=1e-8, grad_clip=1.0, precision="fp32",
            seed=i,
        )  # fmt: skip
        (folder / "runs" / spec.run_id).mkdir(parents=True)
        RunResult(
            spec=spec, status="finished", reason="", final_loss=L, final_loss_se=0.01,
            final_loss_steps=3, validation_loss={"validation": L}, validation_tokens={"validation": 9},
            bits_per_byte={"validation": L / np.log(2) / bytes_per_token}, n_params=spec.N,
            n_params_non_embedding=1, steps_done=10, flops_spent=spec.C, train_seconds=1,
            tokens_per_second=1, mfu=None, peak_memory_bytes=1, device="cpu", versions={}, code=Code("0.1.0"),
            started_utc="", finished_utc="",
        ).save(folder / "runs" / spec.run_id)  # fmt: skip
        specs.append(spec)
        names.append(spec.run_id)
    save_plan(specs, folder / "plan.jsonl")
    keep(folder / "fits", replace(fitted, finals=replace(fitted.finals, run_id=np.array(names))))


def test_two_sweeps_are_compared_in_bits_per_byte(say, sides, tmp_path):
    keep_sweep(tmp_path / "runs" / "prose", sides[0], 2.0)
    keep_sweep(tmp_path / "runs" / "code", sides[1], 1.5)
    code, out, _ = say("compare fits=[runs/prose,runs/code] out_dir=both")
    assert code == 0
    assert "paper, GitHub" in out
    assert "wrote both/compare.json and both/figures/compare_isoflop_curves.png" in out
    found = json.loads((tmp_path / "both" / "compare.json").read_text())
    assert [c["name"] for c in found["corpora"]] == ["prose", "code"]
    assert [c["bytes_per_token"] for c in found["corpora"]] == pytest.approx([2.0, 1.5])
    assert [c["data_ids"] for c in found["corpora"]] == [["prose"], ["code"]]
    best = found["lowest"][0]
    assert best["bits_per_byte"] == pytest.approx(best["L"] / np.log(2) / 2.0)
    assert (tmp_path / "both" / "figures" / "compare_isoflop_curves.png").exists()


@pytest.mark.slow
def test_fits_of_tables_are_compared_in_nats(say, sides, tmp_path):
    for folder, one in zip(("a", "b"), sides, strict=True):
        keep(tmp_path / folder, one)
    code, out, _ = say(
        "compare fits=[a,b/frontier.json] names=[C4,GitHub] out_dir=both format=json"
    )
    found = json.loads(out)
    assert code == 0
    assert [c["name"] for c in found["corpora"]] == ["C4", "GitHub"]
    assert found["lowest"][0]["bits_per_byte"] is None


@pytest.mark.slow
def test_names_are_shown_as_they_are_and_one_table_twice_is_noted(say, sides, tmp_path):
    for folder in ("a", "b"):
        keep(tmp_path / folder, sides[0])
    code, out, _ = say(
        'compare fits=[a,b] \'names=["[/red]x","$y_"]\' out_dir=both'.replace("'", "")
    )
    assert code == 0
    assert "[/red]x" in out
    assert "two corpora are fits of the same runs" in " ".join(out.split())


@pytest.mark.slow
def test_corpora_that_nothing_could_be_fitted_to_are_drawn_and_say_so(say, sides, tmp_path):
    for folder, one in zip(("a", "b"), sides, strict=True):
        refused = FitResults({}, one.fits.refused, one.fits.data) if folder == "b" else one.fits
        keep(tmp_path / folder, replace(one, fits=refused))
    record = json.loads((tmp_path / "b" / "frontier.json").read_text())
    record["approaches"] = {"isoflop": {"status": "refused", "reason": "no.", "kind": "x"}}
    (tmp_path / "b" / "frontier.json").write_text(json.dumps(record))
    code, out, _ = say("compare fits=[a,b] out_dir=both")
    assert code == 3
    assert "No approach could be fitted to every corpus" in out
    assert "note, b: isoflop refused: no." in out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("fits=[a]", "2 to 4 corpora and is given 1"),
        ("fits=[a,b,c,d,e]", "is given 5"),
        ("fits=[a,b] names=[x]", "names=[x] has 1 names for 2 corpora"),
        ("fits=[a,b] names=[x,x]", "has a name twice"),
        ("fits=[a,b]", "fits=a does not exist"),
        ("fits=[a,b] format=xml", "format"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(say, words, part):
    code, _, err = say(f"compare {words} out_dir=both")
    assert (code, err.count("\n")) == (2, 1), err
    assert part in err


def test_the_same_fits_twice_are_refused_by_any_name(say, sides, tmp_path):
    keep(tmp_path / "a", sides[0])
    code, _, err = say("compare a a/frontier.json")
    assert (code, err.count("\n")) == (2, 1)
    assert "a, a/frontier.json: two are the same" in err


def test_two_kinds_of_loss_are_refused_before_anything_is_written(say, sides, tmp_path):
    keep(tmp_path / "a", sides[0])
    keep(tmp_path / "b", replace(sides[1], finals=replace(sides[1].finals, loss_kind="train")))
    code, _, err = say("compare fits=[a,b] out_dir=both")
    assert (code, err.count("\n")) == (2, 1)
    assert "loss_kind differs (validation in a, train in b)" in err
    assert not (tmp_path / "both").exists()


def test_the_record_is_plain_values(sides):
    assert json.loads(json.dumps(asdict(compare(sides))))["schema"] == 4

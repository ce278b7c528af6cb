"""The page a person opens: whole, escaped, fetching nothing, the same bytes each time."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from recommended import with_recommendation

from chinchilla.cli import main
from chinchilla.core.errors import clean
from chinchilla.fit import FailedFit, FitResult, FitResults
from chinchilla.plan.plan_file import save_plan
from chinchilla.recommend import recommendation
from chinchilla.recommend.evaluate import default_budget, headline
from chinchilla.report.page import maths, write_report

SECTIONS = ("exponents", "figures", "predictions", "warnings", "runs", "settings", "environment")
FIGURES = ("training_curves", "isoflop_curves", "optimal_sizes", "loss_surface")


def found(fitted: dict[str, FitResult], reasons: dict[str, str]) -> FitResults:
    data = {name: [1e8, 1e14] for name in ("C", "N", "D", "tokens_per_param")}
    refused = {a: FailedFit(reason) for a, reason in reasons.items()}
    return FitResults(fitted, refused, {"n_runs": 21, "notes": [], **data})


class Reader(HTMLParser):
    """What a browser would see: text, ids, resources, and whether tags are balanced."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.ids, self.resources, self.tags, self.open = "", [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id"]
        self.resources += [v for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


@pytest.fixture(scope="module")
def report(world, tmp_path_factory) -> Path:
    return write_report(tmp_path_factory.mktemp("report"), **world.report_inputs())


def test_page_holds_every_section_and_fetches_nothing(report: Path):
    page = Reader(report.read_text(encoding="utf-8"))
    assert set(SECTIONS) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert all(r.startswith(("data:", "#")) for r in page.resources), page.resources
    assert {r[1:] for r in page.resources if r.startswith("#")} <= set(page.ids)
    assert page.tags.count("img") == len(FIGURES)


def test_the_answer_with_its_interval_comes_first(world, report: Path):
    """The answer that `chinchilla predict` gives first for the same budget, then why."""
    r = recommendation(world.fits, default_budget(world.fits))
    text = Reader(report.read_text(encoding="utf-8")).text.replace("\u00a0", " ")
    answer = headline(r).replace("N_opt", "Nopt")
    places = [text.index(part) for part in (answer, r.reasons[-1], "Exponents beside Table 2")]
    assert places == sorted(places)
    law = world.fitted[r.approach].N_opt
    assert f"Nopt grows as C{law.exponent:.2f} [{law.p10:.2f}, {law.p90:.2f}]" in text


def test_page_shows_states_reasons_and_refused_budgets(world, report: Path):
    text = Reader(report.read_text(encoding="utf-8")).text
    assert "21 finished, 1 diverged" in text
    assert "diverged: loss is NaN at step 133" in text
    assert world.fitted["isoflop"].refusals
    for frontier in world.fitted.values():
        for said in (*frontier.refusals, *frontier.warnings):
            assert said[1:] in text


def test_captions_name_the_loss_that_was_fitted(world, report: Path, tmp_path: Path):
    bars = "bars are standard errors of the final training loss"
    text = Reader(report.read_text(encoding="utf-8")).text
    assert "Final training losses" in text
    assert bars in text
    inputs = world.report_inputs() | {"curves": {}, "fits": found({}, {})}
    inputs |= {"finals": replace(world.finals, loss_kind="validation")}
    text = Reader(write_report(tmp_path, **inputs).read_text(encoding="utf-8")).text
    assert "Final validation losses" in text
    assert bars not in text


def test_predictions_mark_what_lies_beyond_the_runs(report: Path):
    html = report.read_text(encoding="utf-8").partition('<section id="predictions">')[2]
    rows = re.findall(r"<tr>(.*?)</tr>", html.partition("</section>")[0], re.DOTALL)
    beyond = [r for r in rows if ">3e15<" in r]
    assert len(beyond) == 3
    assert all("extrapolated" in r for r in beyond)
    assert any(">1e13<" in r and "covered" in r for r in rows)


@pytest.mark.slow
def test_figures_are_png_and_svg_and_the_same_bytes_again(world, report: Path, tmp_path: Path):
    again = write_report(tmp_path, **world.report_inputs())
    for name in FIGURES:
        for suffix, magic in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            first = (report.parent / "figures" / f"{name}.{suffix}").read_bytes()
            assert first.startswith(magic)
            assert first == (again.parent / "figures" / f"{name}.{suffix}").read_bytes()
    assert again.read_bytes() == report.read_bytes()
    svg = (again.parent / "figures" / "isoflop_curves.svg").read_bytes()
    assert base64.b64encode(svg) in again.read_bytes()


@pytest.mark.slow
def test_fits_of_a_csv_make_a_page_without_runs_or_curves(world, tmp_path: Path):
    inputs = world.report_inputs() | {"results": [], "curves": {}}
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "training_curves.png").write_bytes(b"of an earlier report")
    page = Reader(write_report(tmp_path, **inputs).read_text(encoding="utf-8"))
    assert set(SECTIONS) <= set(page.ids)
    assert str(world.finals.run_id[0]) in page.text
    left = {p.name for p in (tmp_path / "figures").iterdir()}
    assert left == {f"{name}.{s}" for name in FIGURES[1:] for s in ("png", "svg")}


@pytest.mark.slow
def test_a_refused_approach_is_named_with_its_reason(world, tmp_path: Path):
    kept = {"parametric": world.fitted["parametric"]}
    reason = "approach 2 needs two budgets with a minimum and has 1 of 4."
    inputs = world.report_inputs() | {"fits": found(kept, {"isoflop": reason})}
    inputs |= {"curves": {}}
    text = Reader(write_report(tmp_path, **inputs).read_text(encoding="utf-8")).text
    assert reason in text
    assert "Refused · 2 isoflop" in text


def test_a_csv_of_curves_draws_them(world, tmp_path: Path):
    inputs = world.report_inputs() | {"results": [], "curves": {}}
    inputs |= {"finals": world.curve_obs, "fits": found({}, {})}
    page = Reader(write_report(tmp_path, **inputs).read_text(encoding="utf-8"))
    assert "training_curves" in page.ids
    assert page.text.count(str(world.finals.run_id[0])) == 1


def test_the_page_of_refused_approaches_gives_the_reasons(world, tmp_path: Path):
    refusals = dict.fromkeys(("envelope", "isoflop", "parametric"), "too few runs.")
    inputs = world.report_inputs() | {"fits": found({}, refusals)}
    inputs |= {"curves": {}, "results": [], "finals": None}
    text = Reader(write_report(tmp_path, **inputs).read_text(encoding="utf-8")).text
    assert "do not identify how a budget should be split. 3 of 3 approaches refused." in text
    assert text.count("too few runs.") == 3


def test_names_with_markup_are_escaped(world, tmp_path: Path):
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    inputs = world.report_inputs() | {
        "title": evil,
        "fits": replace(found({}, {"isoflop": evil}), command={evil: evil}),
        "results": [replace(world.results[-1], reason=evil, device=evil)],
        "curves": {},
        "finals": None,
    }
    page = Reader(write_report(tmp_path, **inputs).read_text(encoding="utf-8"))
    assert evil in page.text
    assert page.tags.count("script") == 1  # our own
    assert "img" not in page.tags  # there is nothing to draw
    assert maths("C^<b>") == "C^&lt;b&gt;"


def test_names_with_control_characters_are_cleaned(world, tmp_path: Path):
    """The direction of text, above all, which would change what the rest of a line says."""
    evil = "a\x1b[31m\u202eb\u2066"
    inputs = world.report_inputs() | {
        "title": evil,
        "fits": replace(found({}, {"isoflop": evil}), command={evil: evil}),
        "results": [replace(world.results[-1], reason=evil, device=evil)],
        "curves": {},
        "finals": None,
    }
    page = write_report(tmp_path, **inputs).read_text(encoding="utf-8")
    assert clean(page, lines=True) == page
    assert clean(maths(evil)) == "a b "


def test_warnings_are_below_the_headline(world, tmp_path: Path):
    """Before the figures, and as the terminal says them."""
    law = world.fitted["parametric"]
    inputs = world.report_inputs() | {
        "fits": with_recommendation(
            found({"parametric": replace(law, warnings=["so few runs."])}, {}), world.finals
        )
    }
    text = write_report(tmp_path, **inputs).read_text(encoding="utf-8")
    assert text.index('class="answer"') < text.index("so few runs.") < text.index('id="exponents"')


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "cooldown"])
def test_the_envelope_reads_curves_of_cosines_and_only_final_losses_of_cooldowns(
    make_world, tmp_path: Path, schedule: str, capsys
):
    world = make_world(n_bootstrap=0)
    specs = []
    for result in world.results:
        more = {"schedule": "cooldown", "cooldown_steps": 80} if schedule == "cooldown" else {}
        spec = replace(result.spec, **more)
        (run_dir := tmp_path / "runs" / spec.run_id).mkdir(parents=True)
        curve = world.curves[result.spec.run_id]
        final = float(curve.loss[-result.final_loss_steps :].mean())
        result = replace(result, spec=spec, final_loss=final, validation_loss={})
        replace(result, **curve.save(run_dir)).save(run_dir)
        specs.append(spec)
    save_plan(specs, tmp_path / "plan.jsonl")
    assert main(["fit", f"sweep_dir={tmp_path}", "n_bootstrap=0", "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)["approaches"]
    assert found["envelope"]["settings"]["endpoints_only"] is (schedule == "cooldown")
    assert main(["report", f"sweep_dir={tmp_path}"]) == 0

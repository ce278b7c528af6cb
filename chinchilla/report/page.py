"""One self-contained HTML page that answers: how should a budget be split between N and D?

`write_report` takes the records of a sweep (or of a CSV: no results, no curves), draws the figures,
and fills page.html.j2. The page opens from disk and fetches nothing.
"""

import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from chinchilla import __version__
from chinchilla.config import APPROACHES
from chinchilla.core.errors import clean
from chinchilla.core.files.writing import clean_leftovers, make_dirs, write_text
from chinchilla.core.provenance import several_versions
from chinchilla.core.units import count, duration
from chinchilla.decide.warnings import fit_warnings
from chinchilla.diagnose.verdicts import Diagnostics
from chinchilla.fit.result import FitResult, approach_label
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.plan.records import Curve, RunResult
from chinchilla.recommend.evaluate import default_budget, recommendation
from chinchilla.recommend.evaluate import headline as recommended_line
from chinchilla.report import diagnostics as checks
from chinchilla.report import tables
from chinchilla.report.figures import report_figures, saved
from chinchilla.report.tables import exponent, flops, name_of

EXPLANATIONS = {  # of the conventions for C, N and L
    "with_head": "layers and output logits, forward plus backward, Appendix F; the embedding look-up is "
    "not counted",
    "paper": "Appendix F without embedding and logit terms, as Table A4 and the paper's budgets",
    "appendix_f": "Appendix F's text taken literally, embedding and logits included",
    "six_nd": "C = 6 N D",
    "total": "every trained parameter, the tied embedding counted once",
    "non_embedding": "parameters without the embedding",
    "train": "training loss, mean over the last steps of a run",
    "validation": "validation loss after the last step, mean over the validation sets",
    "unknown": "not stated with the data",
}


def write_report(
    out_dir: Path,
    *,
    title: str,
    results: Sequence[RunResult],
    curves: Mapping[str, Curve],
    finals: Observations | None,
    fits: FitResults,
    diagnostics: Diagnostics | None = None,
    left_out: Sequence[str] = (),
) -> Path:
    """Write report.html and figures/*.png, *.svg into `out_dir`.

    Args:
        out_dir: created if needed; figures of an earlier report are replaced or removed.
        title: name of the sweep or file, shown as given (escaped).
        results: every run of the sweep in any state; empty for the fits of a CSV.
        curves: run_id -> training curve.
        finals: one row per run, as approaches 2 and 3 read them, or the points along the runs of a CSV.
        fits: the results of `chinchilla fit`.
        diagnostics: the results of `chinchilla diagnose` for these fits.
        left_out: a sentence about each run that is not in `results`, because its records do not agree.

    Returns:
        The path of report.html.
    """
    make_dirs(out_dir)
    clean_leftovers(out_dir)
    points = None
    if finals is not None and finals.has_curves:
        points, finals = finals, finals.finals()
    if done := [r for r in results if r.status == "finished" and r.spec.run_id in curves]:
        kind = "validation" if finals is not None and finals.loss_kind == "validation" else "train"
        points = Observations.from_curves(done, [curves[r.spec.run_id] for r in done], kind)
    fitted = {a: fits.fitted[a] for a in APPROACHES if a in fits.fitted}
    drawings = report_figures(results, curves, points, finals, fitted)
    drawings.append(checks.figure(diagnostics, fitted.get("parametric")))
    page = _render(
        title=title,
        **answer(fits, diagnostics),
        facts=facts(results, finals),
        table2=tables.table2(fits),
        figures=saved(out_dir / "figures", drawings),
        diagnostics=checks.section(diagnostics),
        predictions=tables.predictions(fits, tables.tried_budgets(finals, fitted)),
        refusals=[(name_of(a), r.reason) for a, r in fits.refused.items()],
        notes=notes(results, fits, left_out),
        runs=tables.runs(results, finals),
        conventions=conventions(results, finals, fitted),
        settings=settings(fits),
        environment=environment(results),
    )
    write_text(out_dir / "report.html", page)
    return out_dir / "report.html"


def _render(**values: Any) -> str:
    """The page from its template."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value, lines=True) if type(value) is str else value,
    )
    templates.filters["maths"] = maths
    return templates.get_template("page.html.j2").render(**values)


def maths(text: str) -> Markup:
    """Escaped text with C^0.49 and N_opt as super- and subscripts, and intervals on one line."""
    html = re.sub(r"\b([ND])_opt\b", r"<i>\1</i><sub>opt</sub>", str(escape(clean(text))))
    html = re.sub(r"(?:(?<=\d) )?\[([\d.]+), ([\d.]+)\]", "\u00a0[\\1,\u00a0\\2]", html)
    return Markup(re.sub(r"\b([A-Z])\^(-?[0-9.]*[0-9]|[a-z]+\b)", r"<i>\1</i><sup>\2</sup>", html))


def answer(fits: FitResults, diagnostics: Diagnostics | None) -> dict[str, Any]:
    """The recommended answer at ten times the largest budget: headline, growth, reasons, warnings.

    The warnings are those of `chinchilla predict` and of the diagnostics.
    """
    headline, growth = "These runs do not identify how a budget should be split.", ""
    reasons: list[str] = []
    warnings: list[str] = []
    if fits.recommended is None:
        if fits.refused:
            headline += f" {len(fits.refused)} of {len(APPROACHES)} approaches refused."
    else:
        r = recommendation(fits, default_budget(fits))
        headline = recommended_line(r)
        reasons = [text for text in r.reasons if text != r.disagreement]
        warnings = [one.text for one in fit_warnings(fits) if one.kind != "note"]
        growth = _growth(fits.fitted[r.approach])
    if diagnostics is not None and diagnostics.count("warning"):
        warnings.append(f"Diagnostics: {diagnostics.summary} {diagnostics.first}")
    return {"headline": headline, "growth": growth, "reasons": reasons, "warnings": warnings}


def _growth(f: FitResult) -> str:
    """The exponents of the recommended approach in words."""
    return (
        f"N_opt grows as C^{exponent(f.N_opt, 2)} and D_opt as C^{exponent(f.D_opt, 2)} by "
        f"{approach_label(f.approach)}: 10x the compute is best spent on {10**f.N_opt.exponent:.1f}x the "
        f"parameters and {10**f.D_opt.exponent:.1f}x the tokens. Brackets: 80% intervals."
    )


def facts(results: Sequence[RunResult], finals: Observations | None) -> list[tuple[str, str]]:
    """The runs in numbers: (label, value)."""
    facts = []
    if results:
        states = Counter(r.status for r in results)
        facts.append(("runs", ", ".join(f"{n} {state}" for state, n in states.most_common())))
    elif finals is not None:
        facts.append(("runs", str(len(finals))))
    if finals is not None and len(finals):
        budgets = np.unique(finals.budget_flops[~np.isnan(finals.budget_flops)])
        facts.append(("budgets", str(len(budgets)) if len(budgets) else "none named"))
        for label, x, show in (
            ("N, parameters", finals.N, count),
            ("D, tokens", finals.D, count),
            ("C, FLOPs", finals.C, flops),
        ):
            facts.append((label, f"{show(float(x.min()))} to {show(float(x.max()))}"))
        if len(repeating := finals.repeating()):
            facts.append(("epochs", f"up to {repeating.most_epochs()}, in {len(repeating)} runs"))
    if results:
        facts.append(("total FLOPs", flops(sum(r.flops_spent for r in results))))
        facts.append(("training time", duration(sum(r.train_seconds for r in results))))
    return facts


def notes(
    results: Sequence[RunResult], fits: FitResults, left_out: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Notes on the data, warnings and unused parts of the fits, unfinished runs: (about, text)."""
    notes = [("Data", str(text)) for text in fits.data.get("notes", [])]
    approaches: dict[str, list[str]] = {}  # by text: several approaches may share a warning
    for approach, f in fits.fitted.items():
        for text in [*f.warnings, *(f"not used: {text}" for text in f.refusals)]:
            approaches.setdefault(text[:1].upper() + text[1:], []).append(name_of(approach, f))
    notes += [("; ".join(names), text) for text, names in approaches.items()]
    n_unfinished = sum(r.status != "finished" for r in results)
    if n_unfinished:
        text = f"{n_unfinished} of {len(results)} did not finish and are in no fit: see the table of runs."
        notes.append(("Runs", text))
    said = {text for _, text in notes}
    notes += [("Runs", text) for text in left_out if text not in said]
    if text := several_versions(r.code.label for r in results if r.status != "failed"):
        notes.append(("Runs", text))
    return notes


def conventions(
    results: Sequence[RunResult], finals: Observations | None, fitted: Mapping[str, FitResult]
) -> list[tuple[str, str]]:
    """How N, D, C and L were counted: (quantity, explanation)."""
    recorded: Mapping[str, str] = next((f.conventions for f in fitted.values()), {})
    names = ("n_convention", "flop_convention", "loss_kind")
    if finals is not None:
        recorded = {name: getattr(finals, name) for name in names}
    N, C, L = (recorded.get(name, "unknown") for name in names)
    loss = f"{L}: {EXPLANATIONS[L]}"
    window = sorted({r.final_loss_steps for r in results if r.status == "finished"})
    if L == "train" and window:
        steps = " to ".join(map(str, dict.fromkeys((window[0], window[-1]))))
        loss += f"; window of {steps} steps"
    D = "optimizer steps times tokens per batch, repeats included" if results else "as given"
    return [
        ("N, parameters", f"{N}: {EXPLANATIONS[N]}"),
        ("D, tokens", D),
        ("C, training FLOPs", f"{C}: {EXPLANATIONS[C]}"),
        ("L, nats per token", loss),
    ]


def settings(fits: FitResults) -> list[tuple[str, str]]:
    """The settings of the command and of each fit: (name, value)."""
    rows = [(f"command: {key}", value) for key, value in _flat(fits.command) if value]
    for approach, f in fits.fitted.items():
        rows += [(f"{name_of(approach, f)}: {key}", value) for key, value in _flat(f.settings)]
    return rows


def environment(results: Sequence[RunResult]) -> list[tuple[str, str]]:
    """Versions of this report; devices, versions, commits and recipes of the runs."""
    versions = (
        f"chinchilla {__version__}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"matplotlib {metadata.version('matplotlib')}"
    )
    rows = [("report: versions", versions)]
    seen: dict[str, set[str]] = {}
    for r in results:
        for key, value in {"device": r.device, "code": r.code.label, **r.versions}.items():
            seen.setdefault(f"runs: {key}", set()).add(value or "unknown")
        seen.setdefault("runs: recipe", set()).add(r.spec.recipe or "unknown")
    return rows + [(key, ", ".join(sorted(values))) for key, values in seen.items()]


def _flat(value: Mapping[str, Any], head: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, x in value.items():
        if isinstance(x, Mapping):
            rows += _flat(x, f"{head}{key}.")
        else:
            rows.append((head + key, ", ".join(map(str, x)) if isinstance(x, list) else str(x)))
    return rows

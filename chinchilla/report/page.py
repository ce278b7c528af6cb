"""One self-contained HTML page that answers: how should a budget be split between N and D?

`write_report` takes the records of a sweep (or of a CSV: no results, no curves), draws the figures,
and fills page.html.j2. The page opens from disk and fetches nothing.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from chinchilla.config import APPROACHES
from chinchilla.core.files import write_text
from chinchilla.diagnose.verdicts import Diagnostics
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.plan.records import Curve, RunResult
from chinchilla.report import diagnostics as checks
from chinchilla.report import sections, tables
from chinchilla.report.figures import report_figures, saved


def write_report(
    out_dir: Path,
    *,
    title: str,
    results: Sequence[RunResult],
    curves: Mapping[str, Curve],
    curve_obs: Observations | None,
    finals: Observations | None,
    fits: FitResults,
    meta: Mapping[str, Any],
    diagnostics: Diagnostics | None = None,
) -> Path:
    """Write report.html and figures/*.png, *.svg into `out_dir`.

    Args:
        out_dir: created if needed; figures of an earlier report are replaced or removed.
        title: name of the sweep or file, shown as given (escaped).
        results: every run of the sweep in any state; empty for the fits of a CSV.
        curves: run_id -> training curve; used for the runs that did not finish.
        curve_obs: all points along the runs, as approach 1 read them; None without curves.
        finals: one row per run, as approaches 2 and 3 read them; points along runs (a CSV of
            curves) take the place of `curve_obs`.
        fits: the results of `chinchilla fit`.
        meta: environment and provenance, shown as a table; nested mappings are flattened.
        diagnostics: the results of `chinchilla diagnose` for these fits.

    Returns:
        The path of report.html.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    if finals is not None and finals.has_curves:
        curve_obs, finals = curve_obs or finals, finals.finals()
    fitted = {a: fits.fitted[a] for a in APPROACHES if a in fits.fitted}
    drawings = report_figures(results, curves, curve_obs, finals, fitted)
    drawings += checks.figures(diagnostics, fitted.get("parametric"))
    page = render(
        "page.html.j2",
        title=title,
        **sections.answer(fits, diagnostics),
        agreement=sections.agreement(fits),
        facts=sections.facts(results, finals),
        table2=tables.table2(fits),
        intervals=tables.intervals(fitted),
        figures=saved(out_dir / "figures", drawings),
        diagnostics=checks.section(diagnostics),
        predictions=tables.predictions(fits, tables.tried_budgets(finals, fitted)),
        points=tables.frontier_points(fitted),
        refusals=[(tables.name_of(a), r.reason) for a, r in fits.refused.items()],
        notes=sections.notes(results, fits),
        runs=tables.runs(results, finals),
        conventions=sections.conventions(results, finals, fitted),
        settings=sections.settings(fitted),
        environment=sections.environment(results, meta),
    )
    write_text(out_dir / "report.html", page)
    return out_dir / "report.html"


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["maths"] = maths
    return environment.get_template(template).render(**values)


def maths(text: str) -> Markup:
    """Escaped text with C^0.49 and N_opt as super- and subscripts, and intervals on one line."""
    html = re.sub(r"\b([ND])_opt\b", r"<i>\1</i><sub>opt</sub>", str(escape(text)))
    html = re.sub(r"(?:(?<=\d) )?\[([\d.]+), ([\d.]+)\]", "\u00a0[\\1,\u00a0\\2]", html)
    return Markup(re.sub(r"\b([A-Z])\^(-?[0-9.]*[0-9]|[a-z]+\b)", r"<i>\1</i><sup>\2</sup>", html))

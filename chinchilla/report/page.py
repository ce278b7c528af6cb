"""One self-contained HTML page that answers: how should a budget be split between N and D?

`write_report` takes the records of a sweep (or of a CSV: no results, no curves), draws the
figures, and fills page.html.j2. The page opens from disk and fetches nothing.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from chinchilla.config import APPROACHES
from chinchilla.config.fit import LOSSES
from chinchilla.core.files import write_text
from chinchilla.diagnose.verdicts import Diagnostics
from chinchilla.fit.result import FitResult
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.plan.records import Curve, RunResult
from chinchilla.plots.style import save_figure
from chinchilla.report import diagnostics as checks
from chinchilla.report import figures, sections, tables
from chinchilla.report.tables import LABELS


@dataclass(frozen=True)
class Drawn:
    """A figure as the page shows it."""

    name: str  # file stem under figures/
    title: str
    caption: str
    alt: str
    src: str  # data: URI


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
        finals: one row per run, as approaches 2 and 3 read them; if it holds points along runs
            (a CSV of curves), they stand in for `curve_obs`.
        fits: what `chinchilla fit` found.
        meta: environment and provenance, shown as a table; nested mappings are flattened.
        diagnostics: what `chinchilla diagnose` found about these very fits.

    Returns:
        The path of report.html.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    if finals is not None and finals.has_curves:
        curve_obs, finals = curve_obs or finals, finals.finals()
    frontiers = {a: fits.fitted[a] for a in APPROACHES if a in fits.fitted}
    refusals = {a: r.reason for a, r in fits.refused.items()}
    budgets = tables.tried_budgets(finals, frontiers)
    page = render(
        "page.html.j2",
        title=title,
        headline=sections.headline(fits),
        reasons=sections.reasons(fits),
        agreement=sections.agreement(fits),
        doubts=sections.doubts(fits, diagnostics),
        facts=sections.facts(results, finals),
        table2=tables.table2(frontiers, refusals),
        intervals=tables.intervals(frontiers),
        figures=_draw(
            out_dir / "figures", results, curves, curve_obs, finals, frontiers, diagnostics
        ),
        diagnostics=checks.section(diagnostics),
        predictions=tables.predictions(fits, budgets),
        points=tables.frontier_points(frontiers),
        refusals={LABELS.get(a, a): reason for a, reason in refusals.items()},
        notes=sections.notes(results, fits),
        runs=tables.runs(results, finals),
        conventions=sections.conventions(results, finals, frontiers),
        settings=sections.settings(frontiers),
        environment=sections.environment(results, meta),
    )
    write_text(out_dir / "report.html", page)
    return out_dir / "report.html"


def render(template: str, **values: Any) -> str:
    """A page of the template beside this module."""
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
    """Escaped text with C^0.49 raised, N_opt and D_opt lowered, intervals kept on one line."""
    html = re.sub(r"\b([ND])_opt\b", r"<i>\1</i><sub>opt</sub>", str(escape(text)))
    html = re.sub(r"(?:(?<=\d) )?\[([\d.]+), ([\d.]+)\]", "\u00a0[\\1,\u00a0\\2]", html)
    return Markup(re.sub(r"\b([A-Z])\^(-?[0-9.]*[0-9]|[a-z]+\b)", r"<i>\1</i><sup>\2</sup>", html))


def _draw(
    folder: Path,
    results: Sequence[RunResult],
    curves: Mapping[str, Curve],
    curve_obs: Observations | None,
    finals: Observations | None,
    frontiers: Mapping[str, FitResult],
    diagnostics: Diagnostics | None,
) -> list[Drawn]:
    if curve_obs is None and curves:
        kind = finals.loss_kind if finals is not None and finals.loss_kind in LOSSES else "train"
        known = [r for r in results if r.spec.run_id in curves and r.status == "finished"]
        if known:
            known_curves = [curves[r.spec.run_id] for r in known]
            curve_obs = Observations.from_curves(known, known_curves, kind)
    envelope, isoflop = frontiers.get("envelope"), frontiers.get("isoflop")
    errors = {}
    loss = figures.loss_drawn(isoflop, finals)
    if loss == "train":
        errors = {r.spec.run_id: r.final_loss_se for r in results if r.final_loss_se is not None}
    candidates: list[tuple[str, str, Figure | None, str, str]] = [
        (
            "training_curves",
            "Training curves and the envelope",
            figures.training_curves(curve_obs, envelope, results, curves),
            "One line per run, coloured by model size; long runs are shown as means in bins. Black "
            "dots: the lowest loss at C FLOPs among the runs that lasted so long. Look for larger models taking "
            "over from smaller ones as C grows, and for black dots near the ends of runs: earlier, the "
            "learning rate is still high and the loss pessimistic."
            + _tail_text(envelope)
            + " After figure 2 of the paper, left.",
            "Loss against training FLOPs for every run, with the lower envelope.",
        ),
        (
            "isoflop_curves",
            "IsoFLOP curves",
            figures.isoflop_curves(isoflop, finals, errors),
            f"Final {figures.L_NAMES.get(loss, '')}losses: each colour is one budget spent on models of "
            "different size"
            + ("; bars are standard errors of the final training loss" if errors else "")
            + ". A budget answers only if its points turn up on both sides of the star, the minimum of the "
            "shape fitted. Hollow points and a dashed line: the budget was refused; it has no star, and the "
            "dotted line through the stars passes it by. After figure 3 of the paper, left.",
            "Final loss against parameters, one fitted IsoFLOP curve for each compute budget.",
        ),
        (
            "optimal_sizes",
            "Optimal size and tokens against compute",
            figures.optimal_sizes(frontiers),
            "Line and 80% band of each approach: thick over the C of its own points, thin beyond them. "
            "Triangles: sizes on approach 1's envelope. Discs: minima of approach 2's IsoFLOP curves. Approach 3 "
            "has no points of its own and is thick over the C of all runs. "
            "Dashed: the paper's own lines, left out at budgets over 10 times outside of the C of its runs "
            "(1.4e18 to 1.3e22). Compare slopes: heights also depend on data, "
            "vocabulary and on how N and C are counted. After figure A3 of the paper.",
            "Optimal parameters and optimal tokens against training FLOPs, ours and the paper's.",
        ),
        (
            "loss_surface",
            "The fitted loss surface",
            figures.loss_surface(frontiers.get("parametric"), finals),
            "Left: the law's contours under the runs it was fitted to; the frontier is where they are "
            "cheapest. Right: measured minus predicted loss. Residuals that bend with C or sort by "
            "colour mean that the law's form does not fit, and its extrapolation should not be "
            "trusted. After figure 4 of the paper, left.",
            "Contours of the fitted loss over tokens and parameters, and its residuals.",
        ),
    ]
    candidates += checks.figures(diagnostics, frontiers.get("parametric"))
    return drawn(folder, candidates)


def drawn(
    folder: Path, candidates: Sequence[tuple[str, str, Figure | None, str, str]]
) -> list[Drawn]:
    """Figures saved in `folder`, as (name, title, figure, caption, alt); one that is None is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, title, figure, caption, alt in candidates:
        if figure is None:
            for suffix in ("png", "svg"):
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
            continue
        svg = base64.b64encode(save_figure(figure, folder, name)).decode("ascii")
        found.append(Drawn(name, title, caption, alt, f"data:image/svg+xml;base64,{svg}"))
    return found


def _tail_text(envelope: FitResult | None) -> str:
    share = envelope.details.get("tail_share") if envelope else None
    if not isinstance(share, int | float):
        return ""
    return (
        f" Here {share:.0%} of them lie in the last 15% of their run; in the paper all do "
        "(footnote 4)."
    )

"""The figures of the report, after figures 2, 3, A3 and 4 of Hoffmann et al. (2022), with captions.

Records in, a matplotlib Figure out, or None where there is nothing to draw. The panels are drawn by
`chinchilla.plots`, as for the notebook API; layout, legends and the paper's lines are added here.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from matplotlib.figure import Figure

from chinchilla.config import APPROACHES
from chinchilla.core.files.writing import clean_leftovers, make_dirs, remove
from chinchilla.core.shapes import flops_per_token
from chinchilla.fit.result import FitResult
from chinchilla.observations.table import Observations
from chinchilla.plan.records import Curve, RunResult
from chinchilla.plots import isoflop, optimum, runs
from chinchilla.plots.style import (
    COLORS,
    GREY,
    exponent_note,
    house_style,
    legend_below,
    new_figure,
    note,
    save_figure,
)
from chinchilla.report.tables import LABELS, name_of, published_near


@dataclass
class Drawing:
    """A figure of a page with its texts; `src` is the data: URI of its SVG once it is saved."""

    name: str  # file stem under figures/
    title: str
    figure: Figure | None
    caption: str
    src: str = ""


def saved(folder: Path, drawings: Sequence[Drawing]) -> list[Drawing]:
    """The drawings that have a figure, written to `folder`; files of the others are removed."""
    make_dirs(folder)
    clean_leftovers(folder)
    for d in drawings:
        if d.figure is None:
            for suffix in ("png", "svg"):
                remove(folder / f"{d.name}.{suffix}", missing_ok=True)
        else:
            svg = base64.b64encode(save_figure(d.figure, folder, d.name)).decode("ascii")
            d.src = f"data:image/svg+xml;base64,{svg}"
    return [d for d in drawings if d.src]


def report_figures(
    results: Sequence[RunResult],
    curves: Mapping[str, Curve],
    points: Observations | None,
    finals: Observations | None,
    fitted: Mapping[str, FitResult],
) -> list[Drawing]:
    """The four figures of a report; `points` are points along runs, else as for `write_report`."""
    envelope, iso, law = (fitted.get(a) for a in ("envelope", "isoflop", "parametric"))
    loss = isoflop.loss_name(iso, finals)
    errors = {}
    if loss == isoflop.L_NAMES["train"]:
        errors = {r.spec.run_id: r.final_loss_se for r in results if r.final_loss_se is not None}
    bars = "; bars are standard errors of the final training loss" if errors else ""
    dots = late = refused = paper = ""
    if envelope is not None:
        dots = (
            " Black dots: the lowest loss at C FLOPs among the runs that reached C. As C grows, the lowest loss "
            "should come from larger models, and the black dots should lie near the ends of runs: earlier, the "
            "learning rate is still high, which raises the loss."
        )
    if envelope is not None and envelope.details.get("tail_share") is not None:
        late = (
            f" Here {envelope.details['tail_share']:.0%} of them lie in the last 15% of their run; in the "
            "paper all do (footnote 4)."
        )
    if iso is not None and any(b["refused"] for b in iso.details.get("budgets") or ()):
        refused = (
            " Hollow points and a dashed line: the budget was refused; it has no star, and the dotted line "
            "through the stars skips it."
        )
    if fitted and published_near(optimum.budgets_shown(fitted)[0]):
        paper = (
            " Dashed: the paper's own lines, at budgets within a factor of 10 of the C of its runs (1.4e18 "
            "to 1.3e22)."
        )
    marks = {
        "envelope": " Triangles: sizes on approach 1's envelope.",
        "isoflop": " Discs: minima of approach 2's IsoFLOP curves.",
        "parametric": " Approach 3 has no points; its line is thick over the C of all runs.",
    }
    return [
        Drawing(
            "training_curves",
            "Training curves and the envelope",
            training_curves(points, envelope, results, curves),
            "One line per run, coloured by model size; long runs are shown as means in bins."
            f"{dots}{late} After figure 2 of the paper, left.",
        ),
        Drawing(
            "isoflop_curves",
            "IsoFLOP curves",
            isoflop_curves(iso, finals, errors),
            f"Final {loss}losses: each colour is one budget spent on models of different size{bars}. A "
            "budget determines an optimum only if its losses rise on both sides of the star, the minimum "
            f"of the fitted shape.{refused} After figure 3 of the paper, left.",
        ),
        Drawing(
            "optimal_sizes",
            "Optimal size and tokens against compute",
            optimal_sizes(fitted),
            "Line and 80% band of each approach: thick over the C of its own points, thin beyond them."
            f"{''.join(marks[approach] for approach in fitted)}{paper} Compare slopes: heights also depend "
            "on data, vocabulary and on how N and C are counted. After figure A3 of the paper.",
        ),
        Drawing(
            "loss_surface",
            "The fitted loss surface",
            loss_surface(law, finals),
            "Left: contours of the law with the runs it was fitted to; the efficient frontier has the "
            "lowest loss at each C. Right: measured minus predicted loss. Residuals that are curved in C or "
            "depend on the colour show that the form of the law does not fit; then do not rely on its "
            "extrapolation. After figure 4 of the paper, left.",
        ),
    ]


@house_style()
def training_curves(
    points: Observations | None,
    envelope: FitResult | None,
    results: Sequence[RunResult] = (),
    curves: Mapping[str, Curve] = MappingProxyType({}),
) -> Figure | None:
    """Loss against FLOPs of every run, coloured by N, with approach 1's envelope.

    Args:
        points: every measured point of the finished runs, as approach 1 read them.
        envelope: approach 1's result, if it could be fitted.
        results: all runs; those that did not finish are drawn grey and dashed.
        curves: run_id -> training curve, for the unfinished runs.
    """
    if points is None or not points.has_curves:
        return None
    figure, (ax,) = new_figure(5.4)
    runs.draw_curves(ax, points)
    if envelope is not None:
        runs.draw_envelope(ax, envelope)
        note(ax, exponent_note(envelope.N_opt))
    label = "did not finish"
    unfinished = [r for r in results if r.status != "finished" and r.spec.run_id in curves]
    for r in unfinished:
        curve = curves[r.spec.run_id]
        step, L = curve.step + 1, curve.loss
        if points.loss_kind == "validation":
            step, L = curve.validation_step, curve.validation_loss
        per_step = flops_per_token(r.spec.model, r.spec.flop_convention) * r.spec.batch_tokens
        C, L = runs.binned(per_step * step, L)
        if len(C):
            ax.plot(C, L, color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), label=label)
            label = "_" + label
    legend_below(figure, [ax], 3, markerscale=2)
    return figure


@house_style()
def isoflop_curves(
    result: FitResult | None,
    finals: Observations | None,
    standard_errors: Mapping[str, float] | None = None,
) -> Figure | None:
    """Final loss against N at each budget, the shape fitted to it, and the minimum (approach 2).

    Args:
        result: approach 2's result; None draws the points alone.
        finals: final losses, for budgets that the result does not describe and runs left out.
        standard_errors: run_id -> standard error of its final loss, drawn as a bar.
    """
    figure, (ax,) = new_figure(5.6)
    if not isoflop.draw_on(ax, result, finals, standard_errors=standard_errors):
        return None
    if result is not None:
        note(ax, exponent_note(result.N_opt))
    legend_below(figure, [ax], 4)
    return figure


@house_style()
def isoflop_curves_side_by_side(
    corpora: Sequence[tuple[str, FitResult | None, Observations]],
    bits_per_nat: Sequence[float] | None,
) -> Figure | None:
    """The IsoFLOP curves of several corpora, a panel each, with one N axis and one colour per budget.

    Args:
        corpora: name, approach 2's result (None draws the points alone) and final losses.
        bits_per_nat: bits per byte in a nat per token of each corpus; all panels are then in bits
            per byte, to one scale. None: each panel in its own nats per token.
    """
    panels = [isoflop.budgets_of(result, finals) for _, result, finals in corpora]
    if not all(panels):
        return None
    figure, axes = new_figure(5.2, len(panels))
    every = [b for budgets in panels for b in budgets]
    colors = isoflop.shades(sorted({b["budget_flops"] for b in every}))
    scales = bits_per_nat or [1.0] * len(panels)
    limits = np.array([isoflop.loss_limits(p, k) for p, k in zip(panels, scales, strict=True)])
    half = np.ptp(limits, axis=1) / 2
    if bits_per_nat:
        half[:] = half.max()  # one scale if the unit is the same
    for ax, (name, result, finals), scale, y, half_height in zip(
        axes, corpora, scales, limits.mean(axis=1), half, strict=True
    ):
        isoflop.draw_on(
            ax, result, finals, scale=scale, colors=colors,
            xlim=isoflop.size_limits(np.concatenate([b["N"] for b in every])),
            ylim=(y - half_height, y + half_height),
        )  # fmt: skip
        ax.set_title(name, parse_math=False)
        if bits_per_nat:
            kinds = {isoflop.loss_name(f, o) for _, f, o in corpora}
            kind = kinds.pop() if len(kinds) == 1 else ""
            ax.set_ylabel(f"final {kind}loss, bits/byte" if ax is axes[0] else "")
        if result is not None:
            note(ax, exponent_note(result.N_opt))
    legend_below(figure, axes, 4)
    return figure


@house_style()
def optimal_sizes(fitted: Mapping[str, FitResult]) -> Figure | None:
    """N_opt and D_opt against C: points, line and 80% band of each approach; the paper's lines."""
    if not fitted:
        return None
    near = published_near(optimum.budgets_shown(fitted)[0])
    figure, panels = new_figure(5.2, 2)
    labels = {a: f"{name_of(a, fitted.get(a))}, ours" for a in APPROACHES}
    for ax, quantity in zip(panels, ("N", "D"), strict=True):
        optimum.draw_optima(ax, fitted, quantity, labels)
        for approach, (C, N) in near.items():
            ax.plot(
                C, N if quantity == "N" else C / (6 * N), color=COLORS[approach], linewidth=1.1, linestyle=(0, (5, 3)),
                label=f"{LABELS[approach]}, paper",
            )  # fmt: skip
        optimum.finish(ax, fitted, quantity)
        if any(f.N_opt.samples for f in fitted.values()):
            ax.fill_between([], [], color=GREY, alpha=0.3, linewidth=0, label="80% interval")
        else:
            ax.plot([], [], " ", label="no 80% interval")
        optimum.exponents_inside(ax, fitted, quantity)
    legend_below(figure, panels[:1], 3)
    return figure


@house_style()
def loss_surface(result: FitResult | None, finals: Observations | None) -> Figure | None:
    """Approach 3: contours of L(N, D) with the runs, and the residuals of the law."""
    if result is None or result.law is None or finals is None or len(finals) == 0:
        return None
    figure, (left, right) = new_figure(4.8, 2)
    runs.draw_surface(left, result, finals)
    note(left, exponent_note(result.N_opt))
    runs.draw_law_residuals(right, result, finals)
    legend_below(figure, [left, right], 3)
    return figure

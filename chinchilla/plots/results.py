"""`plot` and `plot_residuals` of results in a notebook, on a given axis or a new figure.

No global state changes: a given axis keeps the style of its figure, a new figure has ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib.axes import Axes

from chinchilla.config.checks import require_choice
from chinchilla.core.errors import InputError
from chinchilla.fit.result import FitResult, approach_label
from chinchilla.fit.results import FitResults
from chinchilla.plots import isoflop, optimum, runs
from chinchilla.plots.style import exponent_note, house_style, legend_inside, log_scale, new_axes


@contextmanager
def _panel(ax: Axes | None) -> Iterator[Axes]:
    """The given axes, or those of a new figure in our style."""
    if ax is None:
        with house_style():
            yield new_axes()
    elif isinstance(ax, Axes):
        yield ax
    else:
        raise InputError(f"ax must be matplotlib Axes, not {type(ax).__name__}.")


def plot_fits(fits: FitResults, ax: Axes | None, quantity: str) -> Axes:
    """N_opt or D_opt against C: the recommended answer and every approach."""
    require_choice("quantity", quantity, ("N", "D"))
    if not fits.fitted:
        raise InputError("there is nothing to plot: every approach was refused, see print(fits).")
    name = "a" if quantity == "N" else "b"
    labels = {n: f"{approach_label(n)}: refused" for n in fits.refused}
    for n, f in fits.fitted.items():
        law = f.N_opt if quantity == "N" else f.D_opt
        labels[n] = f"{approach_label(n)}: ${name}$ = {law.exponent_text}"
    with _panel(ax) as panel:
        optimum.draw_optima(panel, fits.fitted, quantity, labels)
        optimum.draw_recommended(panel, fits, quantity)
        optimum.finish(panel, fits.fitted, quantity)
        legend_inside(panel)
    return panel


def plot_result(f: FitResult, ax: Axes | None) -> Axes:
    """The runs and the fit of one approach to them."""
    known = None if f.runs is None else f.observations()
    place = "best"
    with _panel(ax) as panel:
        if f.approach == "isoflop":
            isoflop.draw_on(panel, f, known)
            left, right = panel.get_xlim()
            panel.set_xlim(left, right * (right / left) ** 0.3)  # room for the legend
            log_scale(panel, "x")
            place = "upper right"
        elif f.approach == "parametric":
            runs.draw_surface(panel, f, f.observations().finals())
        elif known is not None and known.has_curves:
            runs.draw_curves(panel, known)
            runs.draw_envelope(panel, f)
        else:  # approach 1 without curves: N_opt against C
            only = {f.approach: f}
            optimum.draw_optima(panel, only, "N", {f.approach: approach_label(f.approach)})
            optimum.finish(panel, only, "N")
        legend_inside(panel, exponent_note(f.N_opt), loc=place)
    return panel


def plot_result_residuals(f: FitResult, ax: Axes | None) -> Axes:
    """The residuals of one approach."""
    finals = f.observations().finals() if f.approach == "parametric" else None
    with _panel(ax) as panel:
        if finals is not None:
            runs.draw_law_residuals(panel, f, finals)
        elif f.approach == "isoflop":
            runs.draw_profile_residuals(panel, f)
        else:
            runs.draw_envelope_residuals(panel, f)
        legend_inside(panel, exponent_note(f.N_opt))
        panel.set_title(f"Residuals of {approach_label(f.approach)}")
    return panel


def plot_fits_residuals(fits: FitResults, ax: Axes | None) -> Axes:
    """The residuals of the recommended approach."""
    if not fits.fitted:
        raise InputError("there is nothing to plot: every approach was refused, see print(fits).")
    model = fits.recommended_model
    approach = next(iter(fits.fitted)) if model is None else model.approach
    return plot_result_residuals(fits.fitted[approach], ax)

"""`plot` and `plot_residuals` of results in a notebook, on a given axis or a new figure.

No global state changes: a given axis keeps the style of its figure, a new figure has ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib.axes import Axes

from chinchilla.config.checks import require_choice
from chinchilla.core.errors import InputError
from chinchilla.fit.display import exponent_text
from chinchilla.fit.result import FitResult, called
from chinchilla.fit.results import FitResults
from chinchilla.plots import isoflop, optimum, runs
from chinchilla.plots.style import exponent_note, house_style, legend_inside, new_axes
from chinchilla.recommend.evaluate import model_of

ORDER = ("isoflop", "parametric", "envelope")  # of residuals if nothing is recommended


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
    at = optimum.budgets_shown(fits.fitted)
    name = "a" if quantity == "N" else "b"
    labels = {n: f"{called(n)}: refused" for n in fits.refused}
    for n, f in fits.fitted.items():
        law = f.N_opt if quantity == "N" else f.D_opt
        labels[n] = f"{called(n)}: ${name}$ = {exponent_text(law)}"
    with _panel(ax) as panel:
        shown = optimum.draw_optima(panel, fits.fitted, quantity, labels)
        shown += optimum.draw_recommended(panel, fits, quantity, at[0])
        optimum.finish(panel, quantity, *at, shown)
        legend_inside(panel)
    return panel


def plot_frontier(f: FitResult, ax: Axes | None) -> Axes:
    """The runs and the fit of one approach to them."""
    known = None if f.runs is None else f.observations()
    title = exponent_note(f.N_opt)
    with _panel(ax) as panel:
        if f.approach == "isoflop":
            isoflop.draw_on(panel, f, known)
        elif f.approach == "parametric":
            runs.draw_surface(panel, f, f.observations().finals())
        elif known is not None and known.has_curves:
            runs.draw_curves(panel, known)
            runs.draw_envelope(panel, f)
        else:  # approach 1 without curves: N_opt against C
            at = optimum.budgets_shown({f.approach: f})
            shown = optimum.draw_optima(
                panel, {f.approach: f}, "N", {f.approach: called(f.approach)}
            )
            optimum.finish(panel, "N", *at, shown)
        legend_inside(panel, title)
    return panel


def plot_frontier_residuals(f: FitResult, ax: Axes | None) -> Axes:
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
        panel.set_title(f"Residuals of {called(f.approach)}")
    return panel


def plot_fits_residuals(fits: FitResults, ax: Axes | None) -> Axes:
    """The residuals of the recommended approach."""
    model = model_of(fits)
    order = ORDER if model is None else (model.approach, *ORDER)
    for approach in order:
        if approach in fits.fitted:
            return plot_frontier_residuals(fits.fitted[approach], ax)
    raise InputError("there is nothing to plot: every approach was refused, see print(fits).")

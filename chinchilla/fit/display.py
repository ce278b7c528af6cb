"""Text, HTML and data frames of results, for notebooks.

`FitResults` and `FitResult` use these functions. pandas is imported when a data frame is made.
"""

import textwrap
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from chinchilla.core.errors import InputError, Refusal
from chinchilla.fit.result import FitResult, PowerLaw, called
from chinchilla.fit.results import FitResults
from chinchilla.recommend.evaluate import default_budget, headline, model_of, recommendation

if TYPE_CHECKING:
    from pandas import DataFrame

WIDTH = 100  # columns of text


def exponent_text(law: PowerLaw) -> str:
    """An exponent with its 80% interval: 0.487 [0.462, 0.534]."""
    if law.p10 is None or law.p90 is None:
        return f"{law.exponent:.3f} (no interval)"
    return f"{law.exponent:.3f} [{law.p10:.3f}, {law.p90:.3f}]"


def exponents(fits: FitResults) -> tuple[float, float]:
    """Exponents of the recommended N_opt and D_opt, at ten times the largest C; Refusal without N_opt."""
    model = model_of(fits)
    if model is None or model.N is None:
        raise Refusal(
            "these fits have no recommended N_opt. See print(fits) for the reasons, or use one approach: "
            "fits.fitted['isoflop'].a."
        )
    C = default_budget(fits)
    a, x = model.N.slope(C, fits.cost), model.N.log_at(C, fits.cost)
    per_token = 1.0 if fits.cost is None else float(fits.cost.trend_and_slope(np.array(x))[1])
    return a, 1 - a * per_token


def sizes(fits: FitResults, C: Any) -> Any:
    """Recommended N at C, of the shape of C."""
    N = [recommendation(fits, c).N for c in budgets(C)]
    values = np.array([np.nan if n is None else n for n in N])
    return values.reshape(np.shape(C)) if np.ndim(C) else float(values[0])


def budgets(C: Any) -> list[float]:
    """FLOPs as a list of floats; refuses values that are not positive and finite."""
    try:
        values = np.atleast_1d(np.asarray(C, float)).ravel()
    except (TypeError, ValueError):
        values = np.zeros(1)
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"C={C}: give training FLOPs above 0, a number or a list of numbers.")
    return [float(c) for c in values]


def _answer(fits: FitResults) -> str:
    """Recommended answer in one line, or the reason why there is none."""
    if fits.recommended is None and fits.fitted:
        return "These fits have no recommendation. Use chinchilla.fit to get one."
    try:
        return headline(recommendation(fits, default_budget(fits)))
    except Refusal as refusal:
        return f"No recommendation: {refusal}"


def fits_text(fits: FitResults) -> str:
    """Recommended answer, then one line for each approach."""
    lines = textwrap.wrap(_answer(fits), WIDTH, subsequent_indent="  ")
    for name, f in fits.fitted.items():
        lines.append(
            f"  {called(name)}: a = {exponent_text(f.N_opt)}, b = {exponent_text(f.D_opt)}, "
            f"{f.n_runs} runs"
        )
    for name, refused in fits.refused.items():
        reason = f"{called(name)} refused: {refused.reason}"
        lines.append("  " + textwrap.shorten(reason, WIDTH - 2, placeholder=" ..."))
    n = sum(len(f.warnings) + len(f.refusals) for f in fits.fitted.values())
    n += len(fits.data.get("notes", ()))
    lines.append(
        f"  [80% intervals]; print() shows methods and {n} warnings and notes; "
        "chinchilla.diagnose() checks them"
    )
    return "\n".join(lines)


def fits_html(fits: FitResults) -> str:
    """Recommended answer and a table of the approaches."""
    rows = [
        [called(name), str(f.n_runs), exponent_text(f.N_opt), exponent_text(f.D_opt), ""]
        for name, f in fits.fitted.items()
    ]
    rows += [[called(name), "", "", "", f"refused: {r.reason}"] for name, r in fits.refused.items()]
    table = "".join(_html_row("td", row) for row in rows)
    header = _html_row("th", ["", "runs", "a [80%]", "b [80%]", ""])
    return f"<p><b>{escape(_answer(fits))}</b></p><table>{header}{table}</table>"


def _html_row(tag: str, row: Sequence[str]) -> str:
    cells = "".join(f'<{tag} style="text-align: left">{escape(x)}</{tag}>' for x in row)
    return f"<tr>{cells}</tr>"


def _frame(rows: Any) -> "DataFrame":
    """Data frame of rows or columns."""
    try:
        import pandas as pd
    except ImportError:
        raise InputError(
            "predict() needs pandas, which is not installed. Run `pip install pandas`."
        ) from None
    return pd.DataFrame(rows)


def fits_predictions(fits: FitResults, C: Any, force: bool = False) -> "DataFrame":
    """Recommended answer, one row per C."""
    rows = []
    for c in budgets(C):
        r = recommendation(fits, c, force)
        row = {"C": c, "N": r.N, "D": r.D, "D/N": r.ratio, "L": r.L}
        for key, bounds in (("N", r.N_interval80), ("D", r.D_interval80), ("L", r.L_interval80)):
            row[f"{key}_low"], row[f"{key}_high"] = bounds or (None, None)
        rows.append({**row, "approach": r.approach, "beyond": r.beyond, "range_only": r.range_only})
    return _frame(rows)


def result_predictions(f: FitResult, C: Any) -> "DataFrame":
    """Prediction of one approach, one row per C."""
    c = np.array(budgets(C))
    N, D = f.N_opt(c), f.D_opt(c)
    largest = max((p.C for p in f.points), default=np.nan)
    columns = {"C": c, "N": N, "D": D, "D/N": D / N}
    for key, law in (("N", f.N_opt), ("D", f.D_opt)):
        columns |= dict(zip((f"{key}_low", f"{key}_high"), law.band(c), strict=True))
    if f.law is not None:
        columns["L"] = f.law(N, D)
        if f.law_samples:
            E, A, B, alpha, beta = np.asarray(f.law_samples, float)[:, :, None]  # each (k, 1)
            losses = E + A / N**alpha + B / D**beta
            columns["L_low"], columns["L_high"] = np.percentile(losses, (10, 90), axis=0)
    return _frame({**columns, "approach": f.approach, "beyond": c / largest})

"""Results as people read them in a notebook: text, HTML and data frames.

`FitResults` and `FitResult` show themselves by these functions. pandas is imported when a frame is asked for.
NumPy and SciPy only: this module must import without torch.
"""

import textwrap
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from chinchilla.core.errors import InputError, Refusal
from chinchilla.core.units import count
from chinchilla.fit.result import FitResult, PowerLaw, called
from chinchilla.fit.results import FitResults
from chinchilla.recommend.evaluate import default_budget, headline, model_of, recommendation
from chinchilla.recommend.isoflop_minima import MIN_LOSS, Minima, loss_at, saturating

if TYPE_CHECKING:
    from pandas import DataFrame

WIDTH = 100  # columns of text
BEYOND = 10.0  # times the largest C: where a frontier's own answer is shown


def exponent_text(law: PowerLaw) -> str:
    """An exponent with its 80% interval: 0.487 [0.462, 0.534]."""
    if law.p10 is None or law.p90 is None:
        return f"{law.exponent:.3f} (no interval)"
    return f"{law.exponent:.3f} [{law.p10:.3f}, {law.p90:.3f}]"


def exponents(fits: FitResults) -> tuple[float, float]:
    """Exponents of the recommended N_opt and D_opt, at ten times the largest C.

    Raises:
        Refusal: nothing is recommended, or no sizes are known.
    """
    model = model_of(fits)
    if model is None or model.N is None:
        raise Refusal(
            "these fits recommend no N_opt. See print(fits) for the reason of each approach, or ask one: "
            "fits.fitted['isoflop'].a."
        )
    C = default_budget(fits)
    a, x = model.N.slope(C, fits.cost), model.N.log_at(C, fits.cost)
    per_token = 1.0 if fits.cost is None else float(fits.cost.trend_and_slope(np.array(x))[1])
    return a, 1 - a * per_token


def sizes(fits: FitResults, C: Any) -> Any:
    """The recommended N at C, of the shape of C."""
    found = [recommendation(fits, c).N for c in budgets(C)]
    values = np.array([np.nan if n is None else n for n in found])
    return values.reshape(np.shape(C)) if np.ndim(C) else float(values[0])


def budgets(C: Any) -> list[float]:
    """FLOPs as a list.

    Raises:
        InputError: one is no positive finite number.
    """
    try:
        values = np.atleast_1d(np.asarray(C, float)).ravel()
    except (TypeError, ValueError):
        values = np.zeros(1)
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"C={C}: give training FLOPs above 0, a number or a list of numbers.")
    return [float(c) for c in values]


def _answer(fits: FitResults) -> str:
    """The recommended answer in a line, or why there is none."""
    if fits.recommended is None and fits.fitted:
        return "No recommendation was made for these fits: chinchilla.fit makes one."
    try:
        return headline(recommendation(fits, default_budget(fits)))
    except Refusal as refusal:
        return f"No recommendation: {refusal}"


def fits_text(fits: FitResults) -> str:
    """The recommended answer, then a line an approach."""
    lines = textwrap.wrap(_answer(fits), WIDTH, subsequent_indent="  ")
    for name, f in fits.fitted.items():
        lines.append(
            f"  {called(name)}: a = {exponent_text(f.N_opt)}, b = {exponent_text(f.D_opt)}, "
            f"{f.n_runs} runs"
        )
    for name, refused in fits.refused.items():
        said = f"{called(name)} refused: {refused.reason}"
        lines.append("  " + textwrap.shorten(said, WIDTH - 2, placeholder=" ..."))
    return "\n".join([*lines, _more(fits)])


def _more(fits: FitResults) -> str:
    n = sum(len(f.warnings) + len(f.refusals) for f in fits.fitted.values())
    n += len(fits.data.get("notes", ()))
    return (
        f"  [80% intervals]; print() shows methods and {n} warnings and notes; "
        "chinchilla.diagnose() checks them"
    )


def frontier_text(f: FitResult) -> str:
    """An approach's own answer beyond its points, its exponents, the law."""
    lines = [_own_answer(f)]
    lines.append(f"  a = {exponent_text(f.N_opt)}, b = {exponent_text(f.D_opt)}, 80% intervals")
    if f.law:
        terms = f"{f.law.A:.4g} / N^{f.law.alpha:.4f} + {f.law.B:.4g} / D^{f.law.beta:.4f}"
        lines.append(f"  L(N, D) = {f.law.E:.4f} + {terms}")
    if more := len(f.warnings) + len(f.refusals):
        lines.append(f"  print() shows {more} warnings and parts that were not used")
    return "\n".join(lines)


def _own_answer(f: FitResult) -> str:
    said = f"{called(f.approach)}, {f.n_runs} runs"
    if not f.points:
        return said
    C = float(f"{BEYOND * max(p.C for p in f.points):.2g}")
    (low,), (high,) = (np.atleast_1d(x) for x in f.N_opt.band(C))
    between = "" if np.isnan(low) else f" ({count(low)}-{count(high)})"
    return f"{said}. C = {C:.3g} FLOPs: N {count(float(f.N_opt(C)))}{between}, D {count(float(f.D_opt(C)))} tokens"


def fits_html(fits: FitResults) -> str:
    """The recommended answer, a table of the approaches, and the reasons."""
    rows = [
        [called(name), str(f.n_runs), exponent_text(f.N_opt), exponent_text(f.D_opt), ""]
        for name, f in fits.fitted.items()
    ]
    rows += [[called(name), "", "", "", f"refused: {r.reason}"] for name, r in fits.refused.items()]
    try:
        reasons = recommendation(fits, default_budget(fits)).reasons
    except Refusal:
        reasons = []
    notes = [w for f in fits.fitted.values() for w in f.warnings]
    notes += [str(note) for note in fits.data.get("notes", ())]
    return (
        f"<p><b>{escape(_answer(fits))}</b></p>"
        + _html_table(["", "runs", "a [80%]", "b [80%]", ""], rows)
        + _html_list("Reasons", reasons)
        + _html_list("Warnings and notes", list(dict.fromkeys(notes)))
    )


def frontier_html(f: FitResult) -> str:
    """The lines of the text, and warnings."""
    head, *rest = frontier_text(f).splitlines()
    body = "<br>".join(escape(line.strip()) for line in rest if "print()" not in line)
    return f"<p><b>{escape(head)}</b><br>{body}</p>" + _html_list(
        "Warnings and parts that were not used", [*f.warnings, *f.refusals]
    )


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cells(kind: str, row: Sequence[str]) -> str:
        inner = "".join(f'<{kind} style="text-align: left">{escape(x)}</{kind}>' for x in row)
        return f"<tr>{inner}</tr>"

    return f"<table>{cells('th', header)}{''.join(cells('td', row) for row in rows)}</table>"


def _html_list(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    inner = "".join(f"<li>{escape(text)}</li>" for text in items)
    return f"<details><summary>{title} ({len(items)})</summary><ul>{inner}</ul></details>"


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> "DataFrame":
    try:
        import pandas as pd
    except ImportError:
        raise InputError(
            "pandas is not installed, and tables of results are pandas data frames. Run `pip install "
            "pandas`."
        ) from None
    return pd.DataFrame(rows, columns=columns)


def fits_frame(fits: FitResults) -> "DataFrame":
    """One row per approach."""
    model = model_of(fits)
    lead = None if model is None else model.approach
    rows: list[dict[str, Any]] = []
    for name, f in fits.fitted.items():
        row: dict[str, Any] = {"approach": name, "recommended": name == lead, "n_runs": f.n_runs}
        for key, line in (("a", f.N_opt), ("b", f.D_opt)):
            row |= {key: line.exponent, f"{key}_low": line.p10, f"{key}_high": line.p90}
        row |= {
            k: None if f.law is None else getattr(f.law, k)
            for k in ("E", "A", "B", "alpha", "beta")
        }
        rows.append({**row, "refused": ""})
    for name, refused in fits.refused.items():
        rows.append({"approach": name, "recommended": name == lead, "refused": refused.reason})
    columns = "approach recommended n_runs a a_low a_high b b_low b_high E A B alpha beta refused"
    return _frame(rows, columns.split())


def frontier_frame(f: FitResult) -> "DataFrame":
    """The points of a frontier."""
    columns = ("C", "N", "D", "L", "budget_flops")
    return _frame([{k: getattr(p, k) for k in columns} for p in f.points], columns)


COLUMNS = [
    "C",
    "N",
    "D",
    "D/N",
    "L",
    "N_low",
    "N_high",
    "D_low",
    "D_high",
    "L_low",
    "L_high",
    "approach",
    "beyond",
]


def fits_predictions(fits: FitResults, C: Any, force: bool = False) -> "DataFrame":
    """The recommended answer, one row per C."""
    rows = []
    for c in budgets(C):
        r = recommendation(fits, c, force)
        row = {"C": c, "N": r.N, "D": r.D, "D/N": r.ratio, "L": r.L}
        for key, bounds in (("N", r.N_interval80), ("D", r.D_interval80), ("L", r.L_interval80)):
            row[f"{key}_low"], row[f"{key}_high"] = bounds or (None, None)
        rows.append({**row, "approach": r.approach, "beyond": r.beyond, "range_only": r.range_only})
    return _frame(rows, (*COLUMNS, "range_only"))


def frontier_predictions(f: FitResult, C: Any) -> "DataFrame":
    """What one approach says, one row per C."""
    c = np.array(budgets(C))
    N, D = f.N_opt(c), f.D_opt(c)
    L, bounds = _losses(f, c, N, D)
    largest = max((p.C for p in f.points), default=np.nan)
    values = {"C": c, "N": N, "D": D, "D/N": D / N, "L": L, "L_low": bounds[0], "L_high": bounds[1]}
    values["N_low"], values["N_high"] = f.N_opt.band(c)
    values["D_low"], values["D_high"] = f.D_opt.band(c)
    values["beyond"] = c / largest
    columns = {name: x.tolist() for name, x in values.items()}
    rows = [
        {**dict(zip(columns, row, strict=True)), "approach": f.approach}
        for row in zip(*columns.values(), strict=True)
    ]
    return _frame(rows, COLUMNS)


def _losses(
    f: FitResult, C: np.ndarray, N: np.ndarray, D: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """(n,) losses at the optimum and their 10th and 90th percentiles; NaN where unknown."""
    none = np.full(len(C), np.nan)
    if f.law is not None:
        L = f.law(N, D)
        if not f.law_samples:
            return L, (none, none)
        E, A, B, alpha, beta = np.asarray(f.law_samples, float)[:, :, None]  # each (k, 1)
        low, high = np.percentile(E + A / N**alpha + B / D**beta, (10, 90), axis=0)
        return L, (low, high)
    if len(f.points) < MIN_LOSS:
        return none, (none, none)
    at = sorted((p.C, p.N, p.L) for p in f.points)
    curve = saturating(Minima(*(np.array(x, float) for x in zip(*at, strict=True))), np.inf)
    row = np.array([curve.parameters])
    return np.exp([float(loss_at(row, x)[0][0]) for x in np.log(C)]), (none, none)

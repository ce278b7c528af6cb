"""Losses at the minima of IsoFLOP profiles alone, as a table: C, L and, where known, N.

Many reports publish a loss per budget and no runs. No approach can be fitted to them, but the loss
follows E + K*C^-g and N_opt a line, so the recommendation can be made. NumPy only.
"""

import dataclasses
from typing import Any

import numpy as np

from chinchilla.config.checks import require_choice
from chinchilla.config.fit import DUPLICATES
from chinchilla.core.errors import InputError
from chinchilla.fit.results import MINIMA, FitResults
from chinchilla.observations.columns import accepted_names, shortened
from chinchilla.observations.read_table import Table, conventions_of, numbers
from chinchilla.observations.rows import BUDGET_TOLERANCE
from chinchilla.observations.units import TOKENS_PER_PARAM, perplexities
from chinchilla.recommend.candidates import pairs_of_minima
from chinchilla.recommend.choose import of_minima, scored
from chinchilla.recommend.forecast import MIN_LOSS, Minima
from chinchilla.recommend.held_out import weights_of
from chinchilla.recommend.model import Forecast, RecommendedModel


def minima_of_table(table: Table, duplicates: str = "drop") -> tuple[Minima, list[str]]:
    """The minima that a table holds, C rising, and notes of how it was read.

    C is read from budget_flops where the table has no C; exact copies of a row are dropped.

    Args:
        table: columns C, L and optional N, as `read_table` finds them.
        duplicates: drop or refuse, of exact copies.

    Raises:
        InputError: columns missing, values that are not numbers, fewer than three minima, two at one
            C, or losses that do not fall with C.
    """
    require_choice("duplicates", duplicates, DUPLICATES)
    notes = list(table.notes)
    C_name = "C" if "C" in table.columns else "budget_flops"
    if missing := [name for name in (C_name, "L") if name not in table.columns]:
        missing = ["C" if name == "budget_flops" else name for name in missing]
        raise InputError(
            f"{table.name}: no column {', '.join(missing)} (found "
            f"{shortened(', '.join(table.header)) or 'none'}). A table of minima has the columns C,L and "
            f"optional N. Accepted names: {accepted_names(missing)}.{table.hint}"
        )
    C, L = numbers(table, C_name), numbers(table, "L")
    if np.isnan(C).any():
        raise InputError(f"{table.at(int(np.argmax(np.isnan(C))))}: {C_name} is empty. Give it.")
    N = numbers(table, "N") if "N" in table.columns else np.full(len(C), np.nan)
    bad, text = perplexities(L)
    if len(bad):
        raise InputError(f"{table.name} {table.rows(bad.tolist())}: {text}")
    order = np.argsort(C, kind="stable")
    rows, copies = _without_copies(np.stack([C, np.nan_to_num(N), L], axis=1), order)
    if len(copies):
        if duplicates == "refuse":
            raise InputError(
                f"{table.name}: exact copies of an earlier minimum in {table.rows(copies.tolist())}. Remove them, "
                "or give duplicates=drop."
            )
        notes.append(
            f"{len(copies)} exact copies of a minimum were dropped ({table.rows(copies.tolist())})."
        )
    if len(rows) < MIN_LOSS:
        raise InputError(
            f"{table.name}: {len(rows)} minima, and E + K*C^-g has three parameters. Give at least "
            f"{MIN_LOSS} minima, or the runs themselves as observations=FILE.csv."
        )
    found = Minima(C[rows], N[rows], L[rows])
    ratio = found.C / (6 * found.N**2)  # tokens per parameter, NaN without sizes
    low, high = TOKENS_PER_PARAM
    if np.any((ratio < low) | (ratio > high)):
        raise InputError(
            f"{table.name}: {np.nanmin(ratio):.2g} to {np.nanmax(ratio):.2g} tokens per parameter, D being "
            "C/(6*N): check the units of C and N. Give FLOPs and parameters as whole counts, such as 70e9."
        )
    close = np.flatnonzero(found.C[1:] <= (1 + BUDGET_TOLERANCE) * found.C[:-1])
    if len(close):
        i, j = rows[close[0]], rows[close[0] + 1]
        raise InputError(
            f"{table.name}: {table.rows([min(i, j), max(i, j)])} are two minima at C = {C[i]:.4g} FLOPs. "
            "Keep the one measured with the recipe that the forecast is for."
        )
    if found.L[-1] >= found.L[0]:
        raise InputError(
            f"{table.name}: the loss does not fall with C ({found.L[0]:.4g} nats at {found.C[0]:.3g} FLOPs, "
            f"{found.L[-1]:.4g} at {found.C[-1]:.3g}). Are C and L in the right rows and columns?"
        )
    rises = np.flatnonzero(np.diff(found.L) >= 0)
    if len(rises):
        at = ", ".join(f"{found.C[i]:.3g} to {found.C[i + 1]:.3g}" for i in rises)
        notes.append(f"The loss does not fall from C = {at}: check these minima.")
    return found, notes


def _without_copies(values: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the given order without exact copies of an earlier row; the copies."""
    _, first = np.unique(values, axis=0, return_index=True)
    is_first = np.isin(order, first)
    return order[is_first], np.sort(order[~is_first])


def fit_minima(
    table: Table, command: dict[str, Any] | None = None, duplicates: str = "drop"
) -> FitResults:
    """The recommendation that follows from losses at minima alone.

    Args:
        table: see `minima_of_table`.
        command: what `chinchilla fit` was told, for the record.
        duplicates: drop or refuse, of exact copies.

    Returns:
        Fits without approaches; `recommended` holds the forecasts.

    Raises:
        InputError: see `minima_of_table`; N_opt that does not rise with C, or faster than C.
    """
    conventions_of(table, {})
    minima, notes = minima_of_table(table, duplicates)
    pairs = pairs_of_minima(minima)
    parts = of_minima(minima, pairs)
    if "N" in parts:
        a = float(_weighted(parts["N"])[1])
        if not 0 < a < 1:
            raise InputError(
                f"{table.name}: N_opt grows as C^{a:.3g}, and only exponents between 0 and 1 can be "
                "optimal sizes. Check columns C and N, or leave N out (columns C and L alone)."
            )
    held_out = scored(parts, pairs)
    model = RecommendedModel(
        approach=MINIMA,
        C_range=[float(minima.C[0]), float(minima.C[-1])],
        N=parts.get("N"),
        L=parts["L"],
        reasons=_reasons(len(minima), parts["L"], held_out),
        held_out={MINIMA: held_out},
    )
    data: dict[str, Any] = {"n_runs": len(minima), "C": model.C_range}
    data |= dict.fromkeys(("N", "D", "tokens_per_param", "max_epochs"))
    data["notes"] = notes
    return dataclasses.replace(
        FitResults({}, {}, data, command=dict(command or {})), recommended=model.to_dict()
    )


def _weighted(f: Forecast) -> np.ndarray:
    """Parameters of the members' weighted mean."""
    return np.asarray(weights_of(f.scores, f.quantity) @ np.array(f.members))


def _reasons(n: int, loss: Forecast, held_out: dict[str, Any]) -> list[str]:
    """What the forecast was made from, how well it predicted, and how far E is known."""
    E = [row[0] for row in loss.members]
    said = [
        f"{n} minima and no runs: the loss is E + K*C^-g through them, with E = {min(E):.3g} to "
        f"{max(E):.3g} nats per token by how much the larger budgets count."
    ]
    errors = [(held_out[q], of) for q, of in (("N", "N_opt"), ("L", "the loss"))]
    known = [f"{100 * float(np.expm1(e)):.2g}% in {of}" for e, of in errors if e is not None]
    if known:
        said.append(
            f"The larger minima were forecast from the smaller ones, {held_out['n']} pairs, with an error of "
            f"{' and '.join(known)}."
        )
    return said

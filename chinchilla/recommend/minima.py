"""A table of losses at the minima of IsoFLOP profiles, without runs: C, L and optionally N.

Many reports publish one loss per budget and no runs. No approach can be fitted to them, but the loss
follows E + K*C^-g and N_opt a line, so a recommendation can be made.
"""

from typing import Any

import numpy as np

from chinchilla.core.errors import InputError, shortened
from chinchilla.fit.results import MINIMA, FitResults
from chinchilla.observations.columns import accepted_names
from chinchilla.observations.read_table import Table, conventions_of, numbers
from chinchilla.observations.runs import BUDGET_TOLERANCE
from chinchilla.observations.units import TOKENS_PER_PARAM, perplexities
from chinchilla.recommend.forecast import RecommendedModel, forecasts_of_minima, summary_of_errors
from chinchilla.recommend.held_out import errors_of_minima
from chinchilla.recommend.isoflop_minima import MIN_LOSS, Minima
from chinchilla.recommend.reasons import error_text


def fit_minima(table: Table, command: dict[str, Any] | None = None) -> FitResults:
    """The recommendation that follows from losses at minima.

    Args:
        table: columns C (or budget_flops), L and optionally N.
        command: the settings of `chinchilla fit`, for the record.

    Returns:
        Fits without approaches; `recommended` holds the forecasts.

    Raises:
        InputError: columns are missing, values are not numbers, there are fewer than three minima or two
            at one C, the loss does not fall with C, or N_opt does not rise with C or rises faster than C.
    """
    conventions_of(table, {})
    minima = _minima_of(table)
    errors = errors_of_minima(minima)
    forecasts = forecasts_of_minima(minima, errors)
    if "N" in forecasts and (a := forecasts["N"].implausible_exponent()) is not None:
        raise InputError(
            f"{table.name}: N_opt grows as C^{a:.3g}, but an optimal exponent lies between 0 and 1. "
            "Check the columns C and N, or leave N out (columns C and L alone)."
        )
    summary = summary_of_errors(forecasts, errors)
    E = [row[0] for row in forecasts["L"].members]
    reasons = [
        f"{len(minima)} minima without runs: L = E + K*C^-g was fitted through them. E is {min(E):.3g} to "
        f"{max(E):.3g} nats per token, depending on the weight of the larger budgets."
    ]
    if text := error_text(summary):
        reasons.append(
            f"Forecasts of the larger minima from the smaller ones ({summary['n']} pairs) have an error of "
            f"{text}."
        )
    model = RecommendedModel(
        approach=MINIMA,
        C_range=[float(minima.C[0]), float(minima.C[-1])],
        N=forecasts.get("N"),
        L=forecasts["L"],
        reasons=reasons,
        held_out={MINIMA: summary},
    )
    notes = list(table.notes)
    if len(rises := np.flatnonzero(np.diff(minima.L) >= 0)):
        at = ", ".join(f"{minima.C[i]:.3g} to {minima.C[i + 1]:.3g}" for i in rises)
        notes.append(f"The loss does not fall from C = {at}: check these minima.")
    data = {"n_runs": len(minima), "C": model.C_range, "notes": notes}
    data |= dict.fromkeys(("N", "D", "tokens_per_param", "max_epochs"))
    return FitResults({}, {}, data, command=dict(command or {}), recommended=model.to_dict())


def _minima_of(table: Table) -> Minima:
    """The minima of a table in order of C, or InputError."""
    C_name = "C" if "C" in table.columns else "budget_flops"
    if missing := [name for name in (C_name, "L") if name not in table.columns]:
        missing = ["C" if name == "budget_flops" else name for name in missing]
        raise InputError(
            f"{table.name}: no column {', '.join(missing)} (found "
            f"{shortened(', '.join(table.header), 300) or 'none'}). A table of minima has the columns C,L and "
            f"optionally N. Accepted names: {accepted_names(missing)}."
        )
    C, L = numbers(table, C_name), numbers(table, "L")
    if np.isnan(C).any():
        raise InputError(
            f"{table.at(int(np.argmax(np.isnan(C))))}: {C_name} is empty. Fill it in, or remove the row."
        )
    N = numbers(table, "N") if "N" in table.columns else np.full(len(C), np.nan)
    bad, text = perplexities(L)
    if len(bad):
        raise InputError(f"{table.name} {table.rows(bad.tolist())}: {text}")
    if len(C) < MIN_LOSS:
        raise InputError(
            f"{table.name}: {len(C)} minima, but E + K*C^-g has three parameters. Give at least "
            f"{MIN_LOSS} minima, or the runs as observations=FILE.csv."
        )
    order = np.argsort(C, kind="stable")
    minima = Minima(C[order], N[order], L[order])
    ratio = minima.C / (6 * minima.N**2)  # tokens per parameter, NaN without sizes
    low, high = TOKENS_PER_PARAM
    if np.any((ratio < low) | (ratio > high)):
        raise InputError(
            f"{table.name}: {np.nanmin(ratio):.2g} to {np.nanmax(ratio):.2g} tokens per parameter, with "
            "D = C/(6*N): check the units of C and N. Give FLOPs and parameters as plain numbers, such as 70e9."
        )
    close = np.flatnonzero(minima.C[1:] <= (1 + BUDGET_TOLERANCE) * minima.C[:-1])
    if len(close):
        pair = sorted(order[close[0] : close[0] + 2].tolist())
        raise InputError(
            f"{table.name}: {table.rows(pair)} are two minima at C = {C[pair[0]]:.4g} FLOPs. "
            "Keep the one with the recipe that the forecast is for."
        )
    if minima.L[-1] >= minima.L[0]:
        raise InputError(
            f"{table.name}: the loss does not fall with C ({minima.L[0]:.4g} nats at {minima.C[0]:.3g} FLOPs, "
            f"{minima.L[-1]:.4g} at {minima.C[-1]:.3g}). Check that C and L are in the right rows and columns."
        )
    return minima

"""Fits of the paper's three approaches: Observations in, a FitResult out. Must import without torch."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from chinchilla.config import FitCommand
from chinchilla.core.callable_module import make_callable
from chinchilla.core.errors import FitError
from chinchilla.fit.envelope.approach1 import fit_envelope
from chinchilla.fit.isoflop.approach2 import fit_isoflop
from chinchilla.fit.parametric.approach3 import fit_parametric
from chinchilla.fit.result import FitResult, LossLaw, OptimalPoint, PowerLaw, approach_label
from chinchilla.fit.results import FailedFit, FitResults, invalid
from chinchilla.observations.table import Observations

make_callable(__name__)  # chinchilla.fit(obs), see chinchilla.api.fit

FITS: dict[str, Callable[..., FitResult]] = {
    "envelope": fit_envelope,
    "isoflop": fit_isoflop,
    "parametric": fit_parametric,
}

__all__ = [
    "FITS",
    "FailedFit",
    "FitResult",
    "FitResults",
    "LossLaw",
    "OptimalPoint",
    "PowerLaw",
    "fit_all",
    "fit_envelope",
    "fit_isoflop",
    "fit_parametric",
]


def fit_all(
    finals: Observations,
    curves: Observations | None,
    command: FitCommand,
    stage: Callable[[str], None] = lambda name: None,
) -> FitResults:
    """Fit every approach that `command` names.

    Args:
        finals: final losses; may contain curves, of which approaches 2 and 3 use the last points.
        curves: points along the runs for approach 1; None to use the curves in `finals`.
        command: approaches and their settings.
        stage: called with the name of each stage as it begins.

    Returns:
        The results, and the reasons of the approaches that cannot be fitted.
    """
    law = {"huber_delta": command.huber_delta, "objective": command.objective}
    profile = {"profile": command.isoflop_profile, "window": command.isoflop_window}
    settings: dict[str, dict[str, Any]] = {
        "envelope": {"schedule": command.envelope_schedule},
        "isoflop": profile | law,
        "parametric": law,
    }
    bootstrap = {"n_bootstrap": command.n_bootstrap, "seed": command.seed}
    fitted, refused = {}, {}
    for approach in command.approaches:
        obs = curves if approach == "envelope" and curves is not None else finals
        stage(f"fit: {approach_label(approach)}, {len(obs)} rows, {command.n_bootstrap} resamples")
        try:
            result = FITS[approach](obs, **settings[approach], **bootstrap)
            if reason := invalid(result):
                raise FitError(
                    f"{approach}: {reason}. These runs do not determine the optimum: add sizes and budgets."
                )
            fitted[approach] = result
        except FitError as error:
            refused[approach] = FailedFit(str(error), error.kind)
    return FitResults.of(fitted, refused, finals, asdict(command))

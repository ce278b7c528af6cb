"""Fits: Observations in, a FitResult out, by the paper's three approaches. NumPy only, no torch."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from chinchilla.config import FitCommand
from chinchilla.core.callable_module import make_callable
from chinchilla.core.errors import FitError
from chinchilla.fit.envelope.approach1 import fit_envelope
from chinchilla.fit.impossible import impossible
from chinchilla.fit.isoflop.approach2 import fit_isoflop
from chinchilla.fit.parametric.approach3 import fit_parametric
from chinchilla.fit.result import FitResult, LossLaw, OptimalPoint, PowerLaw, called
from chinchilla.fit.results import FailedFit, FitResults
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
    """Every approach that `command` asks for.

    Args:
        finals: final losses; may hold curve rows, of which approaches 2 and 3 use the last points.
        curves: points along the runs for approach 1; None = whatever curves `finals` holds.
        command: approaches and their settings.
        stage: told the name of each stage as it begins.

    Returns:
        The frontiers, and for the approaches that cannot answer the reason.
    """
    own: dict[str, dict[str, Any]] = {
        "envelope": {
            "smooth_steps": command.smooth_steps,
            "envelope_points": command.envelope_points,
            "part": command.envelope_part,
            "schedule": command.envelope_schedule,
        },
        "isoflop": {
            "profile": command.isoflop_profile,
            "window": command.isoflop_window,
            "interval": command.isoflop_interval,
            "huber_delta": command.huber_delta,
            "objective": command.objective,
        },
        "parametric": {
            key: getattr(command, key)
            for key in (
                "huber_delta",
                "objective",
                "method",
                "resampling",
                "target_flops",
                "compare_intervals",
            )
        },
    }
    fitted, refused = {}, {}
    for approach in command.approaches:
        obs = curves if approach == "envelope" and curves is not None else finals
        settings = {**own[approach], "n_bootstrap": command.n_bootstrap, "seed": command.seed}
        stage(f"fit: {called(approach)}, {len(obs)} rows, {command.n_bootstrap} resamples")
        try:
            found = FITS[approach](obs, **settings)
        except FitError as error:
            refused[approach] = FailedFit(str(error), error.kind)
            continue
        if wrong := impossible(found, approach):  # what is written must be what others read
            refused[approach] = FailedFit(
                f"{approach} finds what cannot be: {wrong}. These runs do not say where the optimum "
                "lies: add sizes and budgets."
            )
        else:
            fitted[approach] = found
    return FitResults.of(fitted, refused, finals, asdict(command))

"""Compute-optimal language models, after Hoffmann et al. (2022).

In a notebook: `import chinchilla; fits = chinchilla.fit(df); fits.predict(1e22)`. Names are imported
when they are first used, so that `import chinchilla` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chinchilla.api import diagnose, fit, simulate
    from chinchilla.fit import (
        FitResult,
        FitResults,
        LossLaw,
        PowerLaw,
        fit_envelope,
        fit_isoflop,
        fit_parametric,
    )
    from chinchilla.fit.loss_law import named_law
    from chinchilla.observations.table import Observations
    from chinchilla.recommend import recommendation

__version__ = "0.1.0"

_HOMES = {  # name -> the module that holds it
    "Observations": "chinchilla.observations.table",
    "FitResults": "chinchilla.fit",
    "FitResult": "chinchilla.fit",
    "LossLaw": "chinchilla.fit",
    "PowerLaw": "chinchilla.fit",
    "fit_envelope": "chinchilla.fit",
    "fit_isoflop": "chinchilla.fit",
    "fit_parametric": "chinchilla.fit",
    "named_law": "chinchilla.fit.loss_law",
    "recommendation": "chinchilla.recommend",
    "simulate": "chinchilla.api",
}
# Subpackages that can be called (callable_module.py): chinchilla.fit(obs), chinchilla.diagnose(fits).
_CALLABLE = ("diagnose", "fit")

__all__ = [
    "FitResult",
    "FitResults",
    "LossLaw",
    "Observations",
    "PowerLaw",
    "__version__",
    "diagnose",
    "fit",
    "fit_envelope",
    "fit_isoflop",
    "fit_parametric",
    "named_law",
    "recommendation",
    "simulate",
]


def __getattr__(name: str) -> Any:
    """PEP 562: a name of the notebook's API, from the module that holds it."""
    if name in _CALLABLE:
        return importlib.import_module(f"chinchilla.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

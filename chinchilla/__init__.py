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

# Names that are not in chinchilla.fit, and subpackages that can be called (core/callable_module.py).
_HOMES = {
    "Observations": "chinchilla.observations.table",
    "named_law": "chinchilla.fit.loss_law",
    "recommendation": "chinchilla.recommend",
    "simulate": "chinchilla.api",
}
_CALLABLE = ("diagnose", "fit")


def __getattr__(name: str) -> Any:
    """PEP 562: a name of the notebook's API, from the module that holds it."""
    if name in _CALLABLE:
        return importlib.import_module(f"chinchilla.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "chinchilla.fit")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

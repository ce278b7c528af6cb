"""Compute-optimal language models, after Hoffmann et al. (2022).

In a notebook: `from chinchilla import Observations, fit_parametric`. Names are imported when they
are first used, so that `import chinchilla` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chinchilla.fit import (
        Fits,
        Frontier,
        LossLaw,
        PowerLaw,
        fit_envelope,
        fit_isoflop,
        fit_parametric,
    )
    from chinchilla.fit.loss_law import named_law
    from chinchilla.observations import Observations

__version__ = "0.1.0"

_HOMES = {  # name -> the module that holds it
    "Observations": "chinchilla.observations",
    "Fits": "chinchilla.fit",
    "Frontier": "chinchilla.fit",
    "LossLaw": "chinchilla.fit",
    "PowerLaw": "chinchilla.fit",
    "fit_envelope": "chinchilla.fit",
    "fit_isoflop": "chinchilla.fit",
    "fit_parametric": "chinchilla.fit",
    "named_law": "chinchilla.fit.loss_law",
}

__all__ = [
    "Fits",
    "Frontier",
    "LossLaw",
    "Observations",
    "PowerLaw",
    "__version__",
    "fit_envelope",
    "fit_isoflop",
    "fit_parametric",
    "named_law",
]


def __getattr__(name: str) -> Any:
    """PEP 562: a name of the notebook's API, from the module that holds it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

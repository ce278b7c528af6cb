"""What each command does: one function a command, from its dataclass to an exit code.

Heavy imports stay inside the functions: planning and fitting never load torch.
"""

import importlib
from collections.abc import Callable
from typing import Any

HOMES = {  # module of this package -> the commands it holds
    "diagnose": ("diagnose",),
    "predict": ("predict",),
    "design": ("design",),
    "score": ("score",),
    "reproduce": ("reproduce",),
    "data": ("data",),
    "train": ("plan", "train", "flops"),
    "sweep": ("sweep", "status", "logs", "retry", "cancel"),
    "sync": ("sync",),
    "fetch": ("fetch",),
    "fit": ("fit", "report"),
    "compare": ("compare",),
}


def function(command: str) -> Callable[[Any], int]:
    """The function that carries out `command`; only its own module is imported."""
    home = next(module for module, names in HOMES.items() if command in names)
    found: Callable[[Any], int] = getattr(importlib.import_module(f"{__name__}.{home}"), command)
    return found

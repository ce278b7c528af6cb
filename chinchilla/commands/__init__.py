"""The commands: a function for each, from its dataclass to an exit code.

Heavy imports are inside the functions, so that planning and fitting never load torch.
"""

import importlib
from collections.abc import Callable
from typing import Any

MODULES = {  # module of this package -> its commands
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
    """The function of a command; only its own module is imported."""
    name = next(module for module, commands in MODULES.items() if command in commands)
    run: Callable[[Any], int] = getattr(importlib.import_module(f"{__name__}.{name}"), command)
    return run

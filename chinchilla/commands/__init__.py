"""The commands: a function for each, from its dataclass to an exit code.

Heavy imports are inside the functions, so that planning and fitting never load torch.
"""

import importlib
from collections.abc import Callable
from typing import Any

MODULES = {  # module of this package -> its commands
    "compare": ("compare",),
    "data": ("data",),
    "design": ("design",),
    "fit": ("fit", "diagnose", "report"),
    "plan": ("plan", "flops"),
    "predict": ("predict",),
    "reproduce": ("fetch", "reproduce"),
    "score": ("score",),
    "sweep": ("sweep", "worker", "status", "logs", "retry", "cancel"),
    "sync": ("sync",),
    "train": ("train",),
}


def function(command: str) -> Callable[[Any], int]:
    """The function of a command; only its own module is imported."""
    name = next(module for module, commands in MODULES.items() if command in commands)
    run: Callable[[Any], int] = getattr(importlib.import_module(f"{__name__}.{name}"), command)
    return run

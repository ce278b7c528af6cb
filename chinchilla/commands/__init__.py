"""The commands: a function for each, from its dataclass to an exit code.

Heavy imports are inside the functions, so that planning and fitting never load torch.
"""

import importlib
import os
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
# Modules that fit. Their matrices are small, so that threads of BLAS would cost CPU time and gain none.
WITHOUT_BLAS_THREADS = ("compare", "design", "fit", "plan", "predict", "reproduce")


def function(command: str) -> Callable[[Any], int]:
    """The function of a command; only its own module is imported."""
    name = next(module for module, commands in MODULES.items() if command in commands)
    if name in WITHOUT_BLAS_THREADS:  # read when NumPy is imported
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    run: Callable[[Any], int] = getattr(importlib.import_module(f"{__name__}.{name}"), command)
    return run

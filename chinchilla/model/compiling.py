"""torch.compile with one program per shape of a block, shared by models of all depths."""

import functools
from collections.abc import Callable
from typing import Any

import torch

BACKEND = "inductor"
MAX_SHAPES = 512  # limit of programs per function: one per width, length and number of rows


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` as one graph per set of input shapes, at the first call with each.

    If the first argument is a module, its weights are inputs of the graph. All blocks of one width
    therefore share a program, also across depths and runs.
    """
    import torch._dynamo.config as limits  # takes a second to import

    limits.recompile_limit = limits.accumulated_recompile_limit = MAX_SHAPES
    return torch.compile(function, backend=BACKEND, dynamic=False, fullgraph=True)

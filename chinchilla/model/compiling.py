"""torch.compile as this package uses it: one program for each shape of a block, whatever the depth."""

import functools
from collections.abc import Callable
from typing import Any

import torch

BACKEND = "inductor"
MOST_SHAPES = 512  # programs of one function: widths x lengths x rows that a worker may come by


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as one compiled graph for each set of shapes, compiled when it first meets them.

    Called with a module as its first argument, its weights are inputs of the graph: all blocks of
    one width share a program, those of another depth or another run, too.
    """
    import torch._dynamo.config as limits  # a second to import

    limits.recompile_limit = limits.accumulated_recompile_limit = MOST_SHAPES
    return torch.compile(function, backend=BACKEND, dynamic=False, fullgraph=True)

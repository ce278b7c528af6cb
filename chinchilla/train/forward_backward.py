"""Forward and backward passes, compiled, and on a GPU replayed as CUDA graphs.

Compilation and CUDA graphs change a loss only by rounding. If either fails, a warning is logged
once and passes run without it.
"""

import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chinchilla.core.errors import one_line
from chinchilla.model import Transformer
from chinchilla.train import attention_backend

WARMUP_PASSES = 3  # before a CUDA graph is captured, as in torch's documentation
log = logging.getLogger("chinchilla.train")


class ForwardBackward:
    """Accumulates the gradients of a batch over its micro-batches.

    Args:
        model: on its device.
        rows: rows of a micro-batch; the last one of a batch may have fewer.
        loss_scale: 1 / tokens of the whole batch over all ranks.
        cuda_graphs: replay a CUDA graph. The model must not be sharded.
        may_fall_back: use plain passes if compilation or capture fails. Must be False for several
            ranks, since the others would not do the same.
    """

    def __init__(
        self,
        model: Transformer,
        rows: int,
        loss_scale: float,
        cuda_graphs: bool,
        may_fall_back: bool,
    ) -> None:
        self.model, self.rows, self.loss_scale = model, rows, loss_scale
        self.cuda_graphs, self.may_fall_back = cuda_graphs, may_fall_back
        self.prepared = False
        self.attention = ""  # name of the kernel of a whole micro-batch
        self._graphs: dict[int, _Pass] = {}  # by rows

    @property
    def keeps_gradients(self) -> bool:
        """Whether gradients stay in the same tensors, as CUDA graphs need."""
        return bool(self._graphs)

    def prepare(self, batch: Tensor) -> None:
        """Compile, capture and choose attention kernels, while there are no gradients yet.

        Args:
            batch: (rows of a batch, seq_len + 1), on the device. Its gradients are discarded.
        """
        self.prepared = True
        # The size of a micro-batch, and that of a smaller last one if there is a remainder.
        sizes = sorted({self.rows, len(batch) % self.rows} - {0}, reverse=True)
        for size in sizes:
            if self.model.compile_blocks:
                self._compile(batch[:size])
            kernel = attention_backend.fastest_kernel(
                self.model.shape, size, self.model.dtype, batch.device
            )
            self.attention = self.attention or attention_backend.name_of(kernel)
        for size in sizes:
            if self.cuda_graphs:
                self._capture(batch[:size])

    def __call__(self, tokens: Tensor) -> Tensor:
        """Add the gradients of a micro-batch to those of the weights.

        Args:
            tokens: (B, seq_len + 1), on the device.

        Returns:
            The summed loss of its tokens times `loss_scale`, a scalar on the device.
        """
        captured = self._graphs.get(len(tokens))
        if captured is None:
            return self._plain(tokens)
        captured.tokens.copy_(tokens)
        captured.graph.replay()
        return captured.loss

    def zero_grad(self) -> None:
        """Discard the gradients; a CUDA graph needs the same tensors, so they are set to zero."""
        self.model.zero_grad(set_to_none=not self.keeps_gradients)

    def _plain(self, tokens: Tensor) -> Tensor:
        with self._attention(len(tokens), tokens.device):
            loss = self.model(tokens[:, :-1], tokens[:, 1:]) * self.loss_scale
            loss.backward()
        return loss.detach()

    def _attention(self, rows: int, device: torch.device) -> AbstractContextManager[None]:
        return attention_backend.fastest_attention(self.model.shape, rows, self.model.dtype, device)

    def _compile(self, tokens: Tensor) -> None:
        """Run a throwaway pass to trigger compilation."""
        try:
            self._plain(tokens)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not self.may_fall_back:
                raise
            log.warning("not compiled: %s", one_line(error, 300))
            self.model.compile_blocks = False
        self.zero_grad()

    def _capture(self, batch: Tensor) -> None:
        tokens = batch.clone()
        # Graphs that are not replayed at the same time can share memory.
        pool = next((other.graph.pool() for other in self._graphs.values()), None)
        losses: list[Tensor] = []
        try:
            graph = capture(
                lambda: losses.append(self._plain(tokens)), tokens.device, WARMUP_PASSES, pool
            )
            self._graphs[len(tokens)] = _Pass(graph, tokens, losses[-1])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not self.may_fall_back:
                raise
            log.warning("no CUDA graph: %s", one_line(error, 300))
            self.cuda_graphs = False
            self._graphs.clear()
        self.zero_grad()


class _Pass(NamedTuple):
    """A captured pass, its input and its output."""

    graph: Any
    tokens: Tensor
    loss: Tensor


def capture(
    function: Callable[[], None], device: torch.device, warm_ups: int = 0, pool: Any = None
) -> Any:
    """A CUDA graph of what `function` does on the GPU.

    Args:
        function: called `warm_ups` times, and once more to record it, which does not execute it. It
            uses tensors that exist as long as the graph, and does not wait for the GPU.
        device: the GPU.
        warm_ups: calls in which libraries allocate what they need.
        pool: memory pool of another graph, to share its memory.

    Raises:
        RuntimeError: something in it cannot be recorded.
    """
    stream = _side_stream(device)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # torch.cuda.graph does not restore the stream if the capture fails; the outer block does.
    with (
        torch.cuda.stream(torch.cuda.current_stream()),
        torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
    ):
        function()
    return graph


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures of a process, because each stream keeps its own workspaces."""
    return torch.cuda.Stream(device)

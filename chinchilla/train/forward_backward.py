"""Forward and backward passes, compiled, and on a GPU replayed as one CUDA graph.

Compilation and CUDA graphs change a loss only by rounding. If either fails, a warning is logged
once and passes run without it.
"""

import functools
import logging
from contextlib import AbstractContextManager
from typing import Any

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
        cuda_graphs: replay a CUDA graph. Every micro-batch must have `rows` rows, and the model
            must not be sharded.
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
        self._graph: Any = None
        self._tokens = self._loss = torch.empty(0)  # input and output of the graph

    def prepare(self, batch: Tensor) -> None:
        """Compile, capture and choose attention kernels, while there are no gradients yet.

        Args:
            batch: (rows of a batch, seq_len + 1), on the device. Its gradients are discarded.
        """
        self.prepared = True
        # The size of a micro-batch, and that of a smaller last one if there is a remainder.
        for size in {self.rows, len(batch) % self.rows} - {0}:
            if self.model.compile_blocks:
                self._compile(batch[:size])
            else:
                self._attention(size, batch.device)
        if self.cuda_graphs:
            self._capture(batch[: self.rows])

    def __call__(self, tokens: Tensor) -> Tensor:
        """Add the gradients of a micro-batch to those of the weights.

        Args:
            tokens: (B, seq_len + 1), on the device.

        Returns:
            The summed loss of its tokens times `loss_scale`, a scalar on the device.
        """
        if self._graph is None:
            return self._plain(tokens)
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._loss

    def zero_grad(self) -> None:
        """Discard the gradients; a CUDA graph needs the same tensors, so they are set to zero."""
        self.model.zero_grad(set_to_none=self._graph is None)

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

    def _capture(self, tokens: Tensor) -> None:
        self._tokens = tokens.clone()
        stream = _side_stream(self._tokens.device)
        try:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARMUP_PASSES):
                    self._plain(self._tokens)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # torch.cuda.graph does not restore the stream if the capture fails; the outer block does.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
            ):
                self._loss = self._plain(self._tokens)
            self._graph = graph
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not self.may_fall_back:
                raise
            log.warning("no CUDA graph: %s", one_line(error, 300))
            self.cuda_graphs = False
        self.zero_grad()


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures of a process, because each stream keeps its own workspaces."""
    return torch.cuda.Stream(device)

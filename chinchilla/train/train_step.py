"""Forward and backward passes of one run: compiled, and on a GPU replayed as one CUDA graph.

Each is faster than the plain pass and the same but for rounding. What cannot be had here is said
once, in a warning, and done without.
"""

import functools
import logging
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from chinchilla.config import RuntimeConfig
from chinchilla.core.errors import one_line
from chinchilla.model import Transformer
from chinchilla.plan.memory import memory
from chinchilla.plan.records import RunSpec
from chinchilla.train import attention_backend
from chinchilla.train import device as devices
from chinchilla.train.distributed import RankGroup

WARM_UPS = 3  # passes before a capture, as torch asks for
log = logging.getLogger("chinchilla.train")


class Passes:
    """Adds up the gradients of a batch, one micro-batch after the other.

    Args:
        model: on its device.
        rows: of a micro-batch; the last of a batch may have fewer.
        share: of one token's loss in the loss of the batch.
        graphs: replay a CUDA graph for micro-batches of `rows`, as all have to be; the model is one
            process's alone.
        may_fall_back: go on without what fails. Ranks that train together cannot: the others would
            not follow.
    """

    def __init__(
        self, model: Transformer, rows: int, share: float, graphs: bool, may_fall_back: bool
    ) -> None:
        self.model, self.rows, self.share = model, rows, share
        self.graphs, self.may_fall_back = graphs, may_fall_back
        self.prepared = False  # for passes at full speed
        self._graph: Any = None
        self._tokens = self._loss = torch.empty(0)  # what the graph reads, and writes

    def prepare(self, batch: Tensor) -> None:
        """Measure, compile and capture what a batch's micro-batches need, while there are no gradients.

        Args:
            batch: (rows of a batch, seq_len + 1), on the device; nothing of it is added.
        """
        self.prepared = True
        for size in {self.rows, len(batch) % self.rows} - {0}:
            if self.model.compile_blocks:
                self._try_compiled(batch[:size])
            else:
                self._attention(size, batch.device)
        if self.graphs:
            self._capture(batch[: self.rows])

    def add(self, tokens: Tensor) -> Tensor:
        """Add a micro-batch's gradients to those there are.

        Args:
            tokens: (B, seq_len + 1), on the device.

        Returns:
            Its loss times `share`, summed over its tokens; a scalar on the device.
        """
        if self._graph is None:
            return self._plain(tokens)
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._loss

    def clear(self) -> None:
        """Forget the gradients. A graph's stay where they are, as zeros: it adds to them there."""
        self.model.zero_grad(set_to_none=self._graph is None)

    def _plain(self, tokens: Tensor) -> Tensor:
        model = self.model
        with self._attention(len(tokens), tokens.device):
            loss = model(tokens[:, :-1], tokens[:, 1:]) * self.share
            loss.backward()
        return loss.detach()

    def _attention(self, rows: int, device: torch.device) -> AbstractContextManager[None]:
        """The kernel for passes of so many rows, measured when it is asked for first."""
        return attention_backend.chosen(self.model.shape, rows, self.model.dtype, device)

    def _try_compiled(self, tokens: Tensor) -> None:
        """One pass for nothing."""
        try:
            self._plain(tokens)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not self.may_fall_back:
                raise
            log.warning("not compiled: %s", _in_short(error))
            self.model.compile_blocks = False
        self.clear()

    def _capture(self, tokens: Tensor) -> None:
        self._tokens = tokens.clone()
        stream = _side_stream(self._tokens.device)
        try:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._plain(self._tokens)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # The outer one puts the stream back where a capture fails: then its own context does not.
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
            log.warning("no CUDA graph: %s", _in_short(error))
            self.graphs = False
        self.clear()


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures of a process: each stream keeps workspaces of its own."""
    return torch.cuda.Stream(device)


def rows_at_once(
    spec: RunSpec, rows: int, runtime: RuntimeConfig, device: torch.device, ranks: RankGroup
) -> int:
    """Rows of a micro-batch, the same on all ranks: what was asked for, or what memory holds.

    Args:
        rows: a rank's part of a batch.
    """
    seq_len = spec.model.seq_len
    if runtime.micro_batch_tokens:
        return max(1, min(rows, runtime.micro_batch_tokens // seq_len))
    room, recompute = devices.memory_room(device), runtime.activation_checkpointing
    while rows > 1 and room < (
        memory(spec, rows * seq_len, ranks.shards, recompute, device.type).total
    ):
        rows = (rows + 1) // 2
    return min(ranks.gather(rows))


def _in_short(error: Exception) -> str:
    return one_line(error)[:300]

"""A run's batches on its device, in order; for a GPU the next one is under way while one is used."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from chinchilla.data.dataset import TokenData
from chinchilla.plan.records import RunSpec
from chinchilla.train.distributed import SINGLE, RankGroup

DEPTH = 2  # host buffers: one is filled while the other is copied


class Feed:
    """Batches of one rank.

    A GPU's are drawn by a thread into pinned memory, as 16-bit numbers where the vocabulary allows,
    copied without holding up the host and widened there.

    Args:
        data: the tokens.
        spec: whose stream, rows and length.
        rows: this rank's part of a batch.
        device: where batches are wanted.
        ranks: the processes that share each batch.
        ahead: draw the next batch beforehand; default: for a GPU.
    """

    def __init__(
        self,
        data: TokenData,
        spec: RunSpec,
        rows: int,
        device: torch.device,
        ranks: RankGroup = SINGLE,
        ahead: bool | None = None,
    ) -> None:
        self.data, self.spec, self.rows, self.device, self.ranks = data, spec, rows, device, ranks
        self.dtype = np.uint16 if data.vocab_size <= 1 << 16 else np.int32
        ahead = device.type == "cuda" if ahead is None else ahead
        self._thread = ThreadPoolExecutor(1, "feed") if ahead else None
        self._next: tuple[int, Future[tuple[Tensor, int]]] | None = None
        shape = (rows, spec.model.seq_len + 1)
        pinned = device.type == "cuda"
        self._host = [
            torch.empty(shape, dtype=torch.from_numpy(np.empty(0, self.dtype)).dtype).pin_memory()
            if pinned
            else torch.from_numpy(np.empty(shape, self.dtype))
            for _ in range(DEPTH if ahead else 0)
        ]
        self._copied: list[torch.cuda.Event | None] = [None] * len(self._host)
        self._n_drawn = 0

    def batch(self, step: int) -> Tensor:
        """(rows, seq_len + 1) int64 tokens of update number `step`, this rank's part, on the device."""
        if not self._thread:
            return torch.from_numpy(self._drawn(step).astype(np.int64)).to(self.device)
        if not self._next or self._next[0] != step:
            self._ask(step)
        assert self._next
        host, slot = self._next[1].result()
        self._next = None
        there = host.to(self.device, non_blocking=True)
        if self.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
            self._copied[slot] = event
        if step + 1 < self.spec.steps:
            self._ask(step + 1)
        if self.dtype == np.uint16:  # torch computes with few unsigned types
            return there.view(torch.int16).long() & 0xFFFF
        return there.long()

    def _drawn(self, step: int) -> np.ndarray:
        # Batches of a rank's size, counted over all ranks: together they are the batch of this step.
        counter = step * self.ranks.world_size + self.ranks.rank
        return self.data.batch(self.spec.seed, counter, self.rows, self.spec.model.seq_len)

    def _ask(self, step: int) -> None:
        assert self._thread
        if self._next:  # of a step that nobody came for
            self._next[1].result()
        slot = self._n_drawn % DEPTH
        self._n_drawn += 1
        self._next = step, self._thread.submit(self._fill, step, slot)

    def _fill(self, step: int, slot: int) -> tuple[Tensor, int]:
        if event := self._copied[slot]:
            event.synchronize()  # in this thread: training does not wait
        host = self._host[slot]
        host.numpy()[...] = self._drawn(step)
        return host.clone() if self.device.type == "cpu" else host, slot

    def close(self) -> None:
        """End the thread; a batch under way is finished first."""
        if self._thread:
            self._thread.shutdown()

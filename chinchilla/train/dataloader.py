"""The batches of a run, in order, on its device; for a GPU the next one is prepared ahead."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from chinchilla.data.dataset import TokenData
from chinchilla.plan.records import RunSpec
from chinchilla.train.distributed import SINGLE, RankGroup

N_BUFFERS = 2  # host buffers: one is filled while the other is copied


class BatchLoader:
    """Loads this rank's part of each batch.

    For a GPU a thread reads the next batch into pinned memory, as 16-bit integers where the
    vocabulary allows. The copy to the GPU is asynchronous, and the conversion to int64 happens there.

    Args:
        data: the tokens.
        spec: the run: seed, number of steps and sequence length.
        rows: rows of this rank's part of a batch.
        device: where batches are used.
        group: the ranks that share each batch.
        prefetch: read the next batch ahead; None = for a GPU only.
    """

    def __init__(
        self,
        data: TokenData,
        spec: RunSpec,
        rows: int,
        device: torch.device,
        group: RankGroup = SINGLE,
        prefetch: bool | None = None,
    ) -> None:
        self.data, self.spec, self.rows, self.device, self.group = data, spec, rows, device, group
        self.dtype = np.uint16 if data.vocab_size <= 1 << 16 else np.int32
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[int, Future[tuple[Tensor, int]]] | None = None  # step, its batch
        self._buffers: list[Tensor] = []
        self._n_reads = 0
        if device.type == "cuda" if prefetch is None else prefetch:
            self._thread = ThreadPoolExecutor(1, "batches")
            shape = (rows, spec.model.seq_len + 1)
            self._buffers = [
                torch.from_numpy(np.empty(shape, self.dtype)) for _ in range(N_BUFFERS)
            ]
            if device.type == "cuda":
                self._buffers = [buffer.pin_memory() for buffer in self._buffers]
        self._copied: list[torch.cuda.Event | None] = [None] * N_BUFFERS

    def batch(self, step: int) -> Tensor:
        """(rows, seq_len + 1) int64 tokens of update number `step`, on the device."""
        if not self._thread:
            return torch.from_numpy(self._read(step).astype(np.int64)).to(self.device)
        if not self._next or self._next[0] != step:
            self._prefetch(step)
        assert self._next
        host, slot = self._next[1].result()
        self._next = None
        tokens = host.to(self.device, non_blocking=True)
        if self.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
            self._copied[slot] = event
        if step + 1 < self.spec.steps:
            self._prefetch(step + 1)
        if self.dtype == np.uint16:  # torch supports few operations on uint16
            return tokens.view(torch.int16).long() & 0xFFFF
        return tokens.long()

    def _read(self, step: int) -> np.ndarray:
        # Parts of ranks are numbered consecutively; together they are a single process's batch.
        part = step * self.group.world_size + self.group.rank
        return self.data.batch(self.spec.seed, part, self.rows, self.spec.model.seq_len)

    def _prefetch(self, step: int) -> None:
        assert self._thread
        if self._next:  # a prefetched step that was not used
            self._next[1].result()
        slot = self._n_reads % N_BUFFERS
        self._n_reads += 1
        self._next = step, self._thread.submit(self._fill, step, slot)

    def _fill(self, step: int, slot: int) -> tuple[Tensor, int]:
        if event := self._copied[slot]:
            event.synchronize()  # waits in this thread, not in the training loop
        host = self._buffers[slot]
        host.numpy()[...] = self._read(step)
        return host.clone() if self.device.type == "cpu" else host, slot

    def close(self) -> None:
        """Stop the thread once its current batch is read."""
        if self._thread:
            self._thread.shutdown()

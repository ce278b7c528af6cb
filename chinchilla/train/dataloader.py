"""The batches of a run, in order, on its device; for a GPU the next one is prepared ahead."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from chinchilla.data.dataset import TokenData
from chinchilla.plan.records import RunSpec
from chinchilla.train.distributed import SINGLE, RankGroup


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
        self.pinned = device.type == "cuda"
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[int, Future[Tensor]] | None = None  # step, its batch
        if self.pinned if prefetch is None else prefetch:
            self._thread = ThreadPoolExecutor(1, "batches")
            if self.pinned:  # a new thread uses GPU 0 unless it is told otherwise
                self._thread.submit(torch.cuda.set_device, torch.cuda.current_device()).result()

    def batch(self, step: int) -> Tensor:
        """(rows, seq_len + 1) int64 tokens of update number `step`, on the device."""
        if self._thread is None:
            host = self._read(step)
        else:
            if self._next is None or self._next[0] != step:
                self._next = step, self._thread.submit(self._read, step)
            host = self._next[1].result()
            if step + 1 < self.spec.steps:
                self._next = step + 1, self._thread.submit(self._read, step + 1)
        # torch reuses pinned memory only when the copies from it are done.
        tokens = host.to(self.device, non_blocking=True)
        if self.dtype == np.uint16:  # torch supports few operations on uint16
            return tokens.view(torch.int16).long() & 0xFFFF
        return tokens.long()

    def _read(self, step: int) -> Tensor:
        # Parts of ranks are numbered consecutively; together they are a single process's batch.
        part = step * self.group.world_size + self.group.rank
        rows = self.data.batch(self.spec.seed, part, self.rows, self.spec.model.seq_len)
        host = torch.from_numpy(rows.astype(self.dtype))
        return host.pin_memory() if self.pinned else host

    def close(self) -> None:
        """Stop the thread once its current batch is read."""
        if self._thread:
            self._thread.shutdown()

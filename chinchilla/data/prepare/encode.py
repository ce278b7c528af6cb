"""Encode documents in a pool of processes: results in order, a bounded number of batches in flight.

The result of a batch depends only on its documents, so the number of workers never changes the tokens.
"""

import multiprocessing
import multiprocessing.resource_tracker as resource_tracker
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from chinchilla.core.errors import InputError
from chinchilla.data.prepare.word_cache import WordCache, is_separable
from chinchilla.data.tokenizer import Tokenizer

BATCH_BYTES = 1 << 20  # of text per batch; a longer document is a batch of its own
IN_FLIGHT = 3  # batches per worker, submitted and not yet consumed


@dataclass
class Batch:
    """Documents of one source and split."""

    kind: tuple[int, str]  # source, split
    texts: list[bytes] = field(default_factory=list)
    bytes: int = 0


def in_batches(documents: Iterable[tuple[tuple[int, str], bytes]]) -> Iterator[Batch]:
    """Group (kind, text) into batches of about BATCH_BYTES, in order within each kind."""
    open_batches: dict[tuple[int, str], Batch] = {}
    for kind, text in documents:
        batch = open_batches.setdefault(kind, Batch(kind))
        batch.texts.append(text)
        batch.bytes += len(text)
        if batch.bytes >= BATCH_BYTES:
            yield open_batches.pop(kind)
    yield from open_batches.values()


@dataclass(frozen=True)
class Encoder:
    """Encodes texts; every process creates its own tokenizer from the model."""

    model: bytes
    dtype: str  # uint16 or uint32

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self.model)

    @cached_property
    def _words(self) -> WordCache | None:
        return WordCache(self._tokenizer, self.dtype) if is_separable(self.model) else None

    def __call__(self, texts: list[bytes]) -> np.ndarray:
        """(tokens,) pieces of each text, each followed by eos."""
        strings = [text.decode("utf-8") for text in texts]
        if self._words is not None:
            return self._words.encode(strings)
        eos = [self._tokenizer.eos_id]
        return np.concatenate([
            np.array(self._tokenizer.encode(text) + eos, self.dtype) for text in strings
        ])  # fmt: skip


def dtype_of(tokenizer: Tokenizer) -> str:
    """uint16 if every piece fits, else uint32."""
    return "uint16" if tokenizer.vocab_size <= 65_536 else "uint32"


def in_pool(
    batches: Iterable[Batch], encoder: Encoder, n_workers: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Encode batches in worker processes.

    Args:
        batches: consumed only as fast as results are taken.
        encoder: is sent to the workers.
        n_workers: number of processes; 1 encodes in this process.

    Yields:
        (batch, tokens), in the order of `batches`.

    Raises:
        InputError: a worker was killed.
    """
    if n_workers == 1:
        for batch in batches:
            yield batch, encoder(batch.texts)
        return
    # pyarrow may have started threads, so fork would not be safe.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n_workers, context, _start_worker, (encoder,))
    try:
        pending: deque[tuple[Batch, Future[np.ndarray]]] = deque()
        for batch in batches:
            with _ctrl_c_for_the_parent():
                pending.append((batch, pool.submit(_encode_in_worker, batch.texts)))
            if len(pending) >= IN_FLIGHT * n_workers:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()
    except BrokenProcessPool:
        raise InputError(
            f"one of {n_workers} worker processes died, probably for lack of memory. "
            "Set a smaller n_workers, or cut very long documents."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_encoder: Encoder | None = None


@contextmanager
def _ctrl_c_for_the_parent() -> Iterator[None]:
    """Start processes in which Ctrl-C does nothing, also while they import modules."""
    resource_tracker.ensure_running()  # otherwise the first start of a process would unblock it again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(encoder: Encoder) -> None:
    global _encoder
    _encoder = encoder
    # Without this, the workers of a killed process would wait for work indefinitely.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_in_worker(texts: list[bytes]) -> np.ndarray:
    assert _encoder is not None
    return _encoder(texts)

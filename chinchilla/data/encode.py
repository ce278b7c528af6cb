"""Documents to tokens in a pool of processes: results in order, a bounded number in flight.

What a batch of documents becomes depends on the documents only, so the number of workers never
changes a byte.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import numpy as np

from chinchilla.data.tokenizer import Tokenizer
from chinchilla.errors import InputError

BATCH_BYTES = 1 << 20  # of text handed to a worker at once, or one document if that is longer
IN_FLIGHT = 3  # batches per worker waiting or done


@dataclass
class Batch:
    """Documents of one source's split on their way to a worker."""

    source: int
    split: str  # train or heldout
    texts: list[bytes] = field(default_factory=list)
    bytes: int = 0


def in_batches(documents: Iterable[tuple[int, str, bytes]]) -> Iterator[Batch]:
    """(source, split, text) into batches of about BATCH_BYTES, those of one kind in order."""
    open_batches: dict[tuple[int, str], Batch] = {}
    for source, split, text in documents:
        batch = open_batches.setdefault((source, split), Batch(source, split))
        batch.texts.append(text)
        batch.bytes += len(text)
        if batch.bytes >= BATCH_BYTES:
            yield open_batches.pop((source, split))
    yield from open_batches.values()


def encode_batches(
    batches: Iterable[Batch], tokenizer: Tokenizer, dtype: str, n_workers: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Each batch with its tokens: every document's pieces, then eos.

    Args:
        batches: consumed only as fast as results are taken.
        tokenizer: every worker makes its own from `tokenizer.model`.
        dtype: uint16 or uint32.
        n_workers: processes; 1 encodes in this one.

    Yields:
        (batch, (tokens,) array of dtype), in the order of `batches`.

    Raises:
        InputError: a worker was killed.
    """
    if n_workers == 1:
        for batch in batches:
            yield batch, encode_texts(tokenizer, batch.texts, dtype)
        return
    # Reading has started threads (pyarrow), so forking this process would not be safe.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n_workers, context, _start_worker, (tokenizer.model, dtype))
    try:
        pending: deque[tuple[Batch, Future[bytes]]] = deque()
        for batch in batches:
            pending.append((batch, pool.submit(_encode_in_worker, batch.texts)))
            if len(pending) >= IN_FLIGHT * n_workers:
                done, future = pending.popleft()
                yield done, np.frombuffer(future.result(), dtype)
        for done, future in pending:
            yield done, np.frombuffer(future.result(), dtype)
    except BrokenProcessPool:
        raise InputError(
            f"one of {n_workers} tokenising processes died, most likely for lack of memory. "
            "Use fewer with n_workers=, or cut very long documents."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def encode_texts(tokenizer: Tokenizer, texts: list[bytes], dtype: str) -> np.ndarray:
    """Pieces of each text, each followed by eos, in one array."""
    eos = [tokenizer.eos_id]
    parts = (np.array(tokenizer.encode(t.decode("utf-8")) + eos, dtype) for t in texts)
    return np.concatenate(list(parts))


_worker: tuple[Tokenizer, str] | None = None


def _start_worker(model: bytes, dtype: str) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    _worker = (Tokenizer(model), dtype)
    # Without this, workers of a killed process would wait for work for ever.
    threading.Thread(target=_die_with_parent, name="parent-watch", daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_in_worker(texts: list[bytes]) -> bytes:
    assert _worker is not None
    tokenizer, dtype = _worker
    return encode_texts(tokenizer, texts, dtype).tobytes()

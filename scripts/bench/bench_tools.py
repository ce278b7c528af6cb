"""Shared by the scripts: types of arguments, the record of machine, date and commit, CPU time."""

import argparse
import datetime
import json
import math
import os
import platform
import resource
import subprocess
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"


class Arguments(argparse.ArgumentParser):
    """Command line with a module's docstring as help; an error is one line and exit code 2."""

    def __init__(self, text: str | None) -> None:
        super().__init__(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split()).removesuffix(".")
        self.exit(2, f"{self.prog}: {line}. See {self.prog} --help.\n")


def count(text: str) -> int:
    """Whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0. Give 1 or more.")
    return int(text)


def amount(text: str) -> float:
    """Finite number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"{text!r} is not a finite number. Give 0 or more.")
    return value


def positive(text: str) -> float:
    """Finite number above 0."""
    value = amount(text)
    if not value:
        raise ArgumentTypeError(f"{text!r} is not above 0. Give a larger number.")
    return value


def existing_folder(text: str) -> Path:
    if not os.path.isdir(text):
        raise ArgumentTypeError(f"there is no folder {text!r}. Give an existing one.")
    return Path(text)


def existing_file(text: str) -> Path:
    if not os.path.exists(text) or os.path.isdir(text):
        raise ArgumentTypeError(f"there is no file {text!r}. Give an existing one.")
    return Path(text)


def json_file(text: str) -> dict[str, Any]:
    """Content of a file with a JSON object."""
    try:
        value = json.loads(existing_file(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentTypeError(f"{text!r} cannot be read as JSON ({error}). Correct it.") from None
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"{text!r} does not contain a JSON object. Give another file.")
    return value


def out_file(text: str) -> Path:
    """File in an existing folder."""
    if os.path.isdir(text or ".") or not os.path.isdir(os.path.dirname(text) or "."):
        raise ArgumentTypeError(
            f"{text!r} is a folder or lies in a folder that does not exist. "
            "Create that folder, or name another file."
        )
    return Path(text)


def git_commit(folder: Path = ROOT) -> str:
    """Commit of a checkout, with +dirty if it has changes; "" outside a checkout."""
    describe = ["describe", "--always", "--abbrev=12", "--dirty=+dirty", "--exclude=*"]
    command = ["git", "-C", os.fspath(folder), *describe]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def processor() -> str:
    """Processor and number of cores."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def provenance() -> dict[str, str]:
    """Machine, date and commit of a record."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"machine": processor(), "date": date, "commit": git_commit()}


def save_json(path: Path, record: Any) -> None:
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def children_cpu_seconds() -> float:
    """CPU seconds of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime

"""Command lines of the other bench_*.py: bad input is one line on stderr and exit code 2.

    python scripts/bench_NAME.py --help

The functions are types of arguments. Standard library only, as bench_programs.py runs under other
programs' Pythons.
"""

import argparse
import json
import math
import os
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any, NoReturn


class Arguments(argparse.ArgumentParser):
    """Shows a module's docstring as help, and an error without the usage."""

    def __init__(self, text: str | None) -> None:
        super().__init__(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        said = " ".join(message.split()).removesuffix(".")
        self.exit(2, f"{self.prog}: {said}. See {self.prog} --help.\n")


def count(text: str) -> int:
    """Whole and above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0. Give 1 or more.")
    return value


def amount(text: str) -> float:
    """0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"{text!r} is not a finite number from 0 up. Give one.")
    return value


def positive(text: str) -> float:
    """Above 0."""
    value = amount(text)
    if not value:
        raise ArgumentTypeError(f"{text!r} is too little. Give more than 0.")
    return value


def existing_folder(text: str) -> Path:
    if not os.path.isdir(text):
        raise ArgumentTypeError(f"there is no folder {text!r}. Give one that is there.")
    return Path(text)


def existing_file(text: str) -> Path:
    if not os.path.exists(text) or os.path.isdir(text):
        raise ArgumentTypeError(f"there is no file {text!r}. Give one that is there.")
    return Path(text)


def json_file(text: str) -> dict[str, Any]:
    """What it holds: an object."""
    try:
        value = json.loads(existing_file(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentTypeError(f"{text!r} cannot be read as JSON ({error}). Mend it.") from None
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"{text!r} is JSON, but no object. Give another file.")
    return value


def out_file(text: str) -> Path:
    """A file that is there or can be made."""
    if os.path.isdir(text or ".") or not os.path.isdir(os.path.dirname(text) or "."):
        raise ArgumentTypeError(
            f"{text!r} cannot be written: it is a folder, or its folder is not there. "
            "Make that folder, or name another file."
        )
    return Path(text)


if __name__ == "__main__":
    parser = Arguments(__doc__)
    parser.parse_args()
    parser.error("it measures nothing by itself: run another bench_*.py")

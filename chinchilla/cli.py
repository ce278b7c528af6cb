"""`chinchilla COMMAND [word ...] [key=value ...]`: argv -> Hydra -> dataclass -> command.

Exit codes: 0 ok, 1 a run failed (of `train`, or diverged), 2 bad input (one line says what was given,
why it is refused and what to do), 3 refused, 75 stopped or unfinished: run the same command again.
"""

import inspect
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from chinchilla import __version__
from chinchilla.config import COMMANDS
from chinchilla.config.command_line.compose import compose, composed
from chinchilla.config.command_line.words import choices, groups_of, words_usage
from chinchilla.config.setting import settings_of
from chinchilla.core.errors import EXIT_AGAIN, EXIT_OK, InputError, nearest
from chinchilla.core.module_path import exclude_working_folder
from chinchilla.core.program import run_program
from chinchilla.core.terminal import print_message


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    if argv is None:  # started as a program
        exclude_working_folder()
    args = list(sys.argv[1:] if argv is None else argv)
    trains = args[:1] in (["sweep"], ["train"], ["worker"])
    return run_program(lambda: _run(args), if_closed=EXIT_AGAIN if trains else EXIT_OK)


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print_message(usage())
        return 0
    if args[0] in ("-V", "--version"):
        print_message(f"chinchilla {__version__}")
        return 0
    command, words = args[0], args[1:]
    if command not in COMMANDS:
        raise InputError(
            f"there is no command {command!r}.{nearest(command, COMMANDS)} "
            f"Commands: {', '.join(COMMANDS)}."
        )
    if "-h" in words or "--help" in words:
        print_message(
            command_help(command, [word for word in words if word not in ("-h", "--help")])
        )
        return 0
    from chinchilla import commands

    return commands.function(command)(compose(command, words))


def usage() -> str:
    """The text of `chinchilla --help`."""
    lines = ["usage: chinchilla COMMAND [WORD ...] [key=value ...]", ""]
    for name, schema in COMMANDS.items():
        does = (inspect.getdoc(schema) or "").partition(": ")[2].splitlines()[0]
        lines += _wrapped(f"{name:<9} ", f"{does[0].upper()}{does[1:]}")
    lines += [
        "",
        "chinchilla COMMAND --help lists the settings of a command with their values.",
        "Numbers may end in k, M, B or T: 32k, 300M, 20B, 1.5T.",
        "Exit codes: 0 ok, 1 a run failed (or, of train, diverged), 2 bad input, 3 refused, "
        f"{EXIT_AGAIN} stopped or unfinished: run the same command again.",
    ]
    return "\n".join(lines)


def command_help(command: str, words: Sequence[str] = ()) -> str:
    """The text of `chinchilla COMMAND --help`: every setting with the value it has after `words`."""
    from omegaconf import OmegaConf

    config, chosen = composed(command, words)
    settings = settings_of(COMMANDS[command])
    width = max(len(s.key) for s in settings)
    lines = [
        f"usage: {' '.join(['chinchilla', command, *words_usage(command)])} [key=value ...]",
        "",
        inspect.getdoc(COMMANDS[command]) or "",
    ]
    if COMMANDS[command].words:
        lines += ["", "Words without = are values of the settings in capitals, in this order."]
    lines += ["", "Settings, with their values in brackets:"]
    for s in settings:
        missing = OmegaConf.is_missing(config, s.key)
        value = "REQUIRED" if missing else _typed(OmegaConf.select(config, s.key))
        lines += _wrapped(f"{s.key:<{width}}  ", f"{s.help} [{f'{value} {s.unit}'.strip()}]")
    if groups := [g for g in groups_of(command) if choices(g)]:
        lines += [
            "",
            "Named options: files in configs/, or in --config-dir FOLDER. Chosen, and others:",
        ]
        for group in groups:
            others = [name for name in choices(group) if name != chosen.get(group)]
            head = f"{group}={chosen.get(group, '')}".ljust(18)
            lines += _wrapped(head, f"or {' '.join(others)}")
    return "\n".join(lines)


def _wrapped(first: str, text: str) -> list[str]:
    """Lines of a text as wide as the terminal, indented by the width of `first`."""
    return textwrap.wrap(
        text,
        min(shutil.get_terminal_size((100, 24)).columns, 120),
        initial_indent=f"  {first}",
        subsequent_indent=" " * (len(first) + 2),
        break_on_hyphens=False,
    )


def _typed(value: Any) -> str:
    """A value as it is typed on the command line, lists without their brackets."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_typed, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else str(value)
    return str(value) or "''"


if __name__ == "__main__":
    sys.exit(main())

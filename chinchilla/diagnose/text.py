"""Diagnostics as text, for the command and for notebooks."""

import textwrap
from collections.abc import Mapping

from chinchilla.diagnose.findings import Finding, called, described

WIDTH = 100  # columns


def text(items: Mapping[str, Finding], first: str, summary: str) -> str:
    """One paragraph an item: verdict, message, effect and advice; then what to do first."""
    lines = []
    indent = " " * 12
    for name, item in items.items():
        head = f"{called(item.verdict):<11} {called(name)}: "
        lines += textwrap.wrap(head + item.message, WIDTH, subsequent_indent=indent)
        if effect := described(item):
            lines.append(f"{indent}{effect}")
        if item.note:
            lines += textwrap.wrap(
                f"note: {item.note}", WIDTH, initial_indent=indent, subsequent_indent=indent + "   "
            )
        if item.advice:
            lines += textwrap.wrap(
                f"-> {item.advice}", WIDTH, initial_indent=indent, subsequent_indent=indent + "   "
            )
    lines += textwrap.wrap(first, WIDTH, subsequent_indent="   ")
    lines.append(summary)
    return "\n".join(lines)

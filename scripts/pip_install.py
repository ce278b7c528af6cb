"""Run `pip install` and show its progress on one line.

    python scripts/pip_install.py --constraint constraints.txt --editable '.[dev]'

Without --quiet, pip prints several lines per package, and with it nothing for minutes. Here pip writes to a
pseudo-terminal, so that it reports the progress of each download; the current package and that progress are shown.
Where the output is not a terminal, only downloads of 20 MB or more are listed. Errors and warnings are always shown.
"""

import contextlib
import os
import pty
import re
import subprocess
import sys

BAR = re.compile(r"([\d.]+)/([\d.]+ [kMG]B)(?:.*?([\d.]+ [kMG]B/s))?")
DOWNLOAD = re.compile(
    r"\s*Downloading (?!\S*\.metadata)(?:\S*/)?([\w.]+?)-([\w.+!]+?)-\S+ \(([\d.]+) (\w?B)\)"
)
SHOWN = re.compile(r"\s*(ERROR|WARNING|error)|.*(error|Error):")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LARGE = {"kB": 0.0, "MB": 1.0, "GB": 1000.0}  # in MB


class Progress:
    """Turns pip's output into what is shown.

    Args:
        live: whether to rewrite one line, as on a terminal.
    """

    def __init__(self, live: bool) -> None:
        self.live, self.text, self.package, self.n, self.rest = live, "", "", 0, False

    def feed(self, text: str) -> str:
        """What to write for another part of pip's output."""
        *lines, self.text = re.split(r"[\r\n]+", self.text + ANSI.sub("", text))
        return "".join(map(self._line, lines))

    def _line(self, line: str) -> str:
        if self.rest or SHOWN.match(line):
            self.rest |= "error" in line.lower()  # with the lines behind it
            clear = "\r\x1b[K" if self.live else ""
            return f"{clear}{line}\n" if line.strip() else ""
        if found := DOWNLOAD.match(line):
            self.n += 1
            self.package = f"{found[1]} {found[2]}"
            if not self.live:
                large = float(found[3]) * LARGE.get(found[4], 0.0) >= 20
                return f"  downloading {self.package} ({found[3]} {found[4]})\n" if large else ""
            return self._status(f"downloading {self.n}: {self.package}, {found[3]} {found[4]}")
        if (found := BAR.search(line)) and self.package:
            speed = f", {found[3]}" if found[3] else ""
            return self._status(
                f"downloading {self.n}: {self.package}, {found[1]} of {found[2]}{speed}"
            )
        if line.startswith("Installing collected packages"):
            n = f"{line.count(',') + 1} package{'s' if ',' in line else ''}"
            return self._status(f"installing {n}") or f"  installing {n}\n"
        if line.startswith("Collecting "):
            return self._status(f"resolving {line.split()[1]}")
        return ""

    def _status(self, text: str) -> str:
        return f"\r\x1b[K  {text}" if self.live else ""


def main(arguments: list[str]) -> int:
    """Run pip with the arguments and return its exit code."""
    progress = Progress(sys.stdout.isatty())

    settings = {"COLUMNS": "100", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    terminal, end = pty.openpty()
    pip = subprocess.Popen(
        [sys.executable, "-m", "pip", "install", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=end,
        stderr=end,
        env=os.environ | settings,
    )
    os.close(end)
    with contextlib.suppress(OSError):  # EIO, when pip has ended
        while data := os.read(terminal, 4096):
            print(end=progress.feed(data.decode(errors="replace")), flush=True)
    print(end=progress.feed("\n") + ("\r\x1b[K" if progress.live else ""))
    return pip.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

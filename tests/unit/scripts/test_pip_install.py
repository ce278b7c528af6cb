"""Progress of `make install`: one line from the output of pip."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[3] / "scripts" / "pip_install.py"
SPEC = importlib.util.spec_from_file_location("pip_install", PATH)
assert SPEC is not None
assert SPEC.loader is not None
pip_install = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pip_install)

BAR = "\x1b[2K     \u2501\u2501\u2501 {0}/906.4 MB 45.2 MB/s eta 0:00:14\r"
PIP = [
    "Collecting torch==2.13.0\r\n",
    "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (906.4 MB)\r\n",
    BAR.format("300.1"), BAR.format("906.4"), "\r\n",
    "Collecting tqdm\r\n",
    "  Downloading tqdm-4.70.1-py3-none-any.whl.metadata (62 kB)\r\n",
    "  Downloading tqdm-4.70.1-py3-none-any.whl (78 kB)\r\n",
    "Installing collected packages: tqdm, torch\r\n",
    "Successfully installed torch-2.13.0 tqdm-4.70.1\r\n",
]  # fmt: skip


def shown(live: bool, parts: list[str]) -> str:
    progress = pip_install.Progress(live)
    return "".join(map(progress.feed, parts)) + progress.feed("\n")


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_terminal_shows_one_line_with_package_and_progress(size):
    text = "".join(PIP)
    parts = [text[i : i + size] for i in range(0, len(text), size)]
    out = shown(True, parts)
    assert "\n" not in out
    assert out.split("\r\x1b[K  ")[1:] == [
        "resolving torch==2.13.0",
        "downloading 1: torch 2.13.0, 906.4 MB",
        "downloading 1: torch 2.13.0, 300.1 of 906.4 MB, 45.2 MB/s",
        "downloading 1: torch 2.13.0, 906.4 of 906.4 MB, 45.2 MB/s",
        "resolving tqdm",
        "downloading 2: tqdm 4.70.1, 78 kB",
        "installing 2 packages",
    ]


def test_a_log_lists_large_downloads_only():
    assert shown(False, PIP) == "  downloading torch 2.13.0 (906.4 MB)\n  installing 2 packages\n"


@pytest.mark.parametrize("live", [True, False])
def test_errors_are_shown_with_what_follows(live):
    out = shown(live, ["Collecting x\n", "ERROR: No matching distribution found for x\n", "  more"])
    assert "ERROR: No matching distribution found for x\n  more\n" in out.replace("\r\x1b[K", "")

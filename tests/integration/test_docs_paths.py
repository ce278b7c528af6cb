"""Files and settings that the documentation names exist."""

import re
from pathlib import Path

import pytest

from chinchilla.config import COMMANDS
from chinchilla.config.command_line.words import groups_of
from chinchilla.config.setting import settings_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IN_CODE = re.compile(r"`((?:[\w*-]+/)+[\w*-]*(?:\.\w+)?)`")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
PACKAGE_FOLDERS = {p.name for p in (ROOT / "chinchilla").iterdir() if p.is_dir()}
REPOSITORY_FOLDERS = {"chinchilla", "configs", "docs", "scripts", "slurm", "tests"}


def named_paths(page: Path) -> list[Path]:
    """Files and folders of the repository that a page names or links to."""
    text = page.read_text(encoding="utf-8")
    found = [page.parent / link for link in LINK.findall(text)]
    for name in IN_CODE.findall(text):
        first = name.split("/")[0]
        if first in REPOSITORY_FOLDERS:
            found.append(ROOT / name)
        elif first in PACKAGE_FOLDERS and page.name == "architecture.md":
            found.append(ROOT / "chinchilla" / name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_named_files_exist(page: Path):
    missing = [
        str(path.relative_to(page.parent) if path.is_relative_to(page.parent) else path)
        for path in named_paths(page)
        if not list(path.parent.glob(path.name) if "*" in path.name else [path] * path.exists())
    ]
    assert missing == []


def test_paths_are_found():
    assert len(named_paths(ROOT / "docs" / "architecture.md")) >= 30


IN_TEXT = re.compile(r"`([a-z][a-z_]*(?:\.[a-z_]+)*)=[^`=]*`")
NOT_SETTINGS = {"sep"}  # `sep=;` is the first line of CSV files from Excel
KNOWN_SETTINGS = {
    setting.key for schema in COMMANDS.values() for setting in settings_of(schema)
} | {group for command in COMMANDS for group in groups_of(command)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_named_settings_exist(page: Path):
    """`key=value` in a page names a setting, or the last part of one's key."""
    known = KNOWN_SETTINGS | {key.rpartition(".")[2] for key in KNOWN_SETTINGS}
    named = set(IN_TEXT.findall(page.read_text(encoding="utf-8")))
    assert sorted(named - known - NOT_SETTINGS) == []

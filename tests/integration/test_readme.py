"""The commands of the README are accepted as printed."""

import re
import shlex
from pathlib import Path

import pytest

from chinchilla.cli import COMMANDS, compose
from chinchilla.plan.grid import plan_grid

README = Path(__file__).parents[2] / "README.md"
PLACEHOLDER = re.compile(r"<[^>]*>|\.\.\.|\$|\b[A-Z_]{3,}\b")  # <...>, a shell variable, FOLDER


def code_blocks(text: str) -> list[list[str]]:
    """Fenced blocks and blocks indented by four spaces, their lines without the indent."""
    blocks: list[list[str]] = []
    fenced, last_was_code = False, False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
            if fenced:
                blocks.append([])
        elif fenced:
            blocks[-1].append(line)
        elif line.startswith("    "):
            if not last_was_code:
                blocks.append([])
            blocks[-1].append(line[4:])
        last_was_code = not fenced and line.startswith("    ")
    return blocks


def commands_in(block: list[str]) -> list[list[str]]:
    """Arguments of each `chinchilla` command line without placeholders."""
    commands = []
    for line in "\n".join(block).replace("\\\n", " ").splitlines():
        parts = re.split(r"&&|\||;", line.strip().removeprefix("$ "))
        chinchilla_calls = [part for part in parts if part.strip().startswith("chinchilla ")]
        commands += [
            shlex.split(p, comments=True)[1:] for p in chinchilla_calls if not PLACEHOLDER.search(p)
        ]
    return commands


BLOCKS = code_blocks(README.read_text(encoding="utf-8"))
COMMAND_LINES = [words for block in BLOCKS for words in commands_in(block) if "--help" not in words]
FILES = {
    block[0].removeprefix("#").strip(): "\n".join(block) + "\n"
    for block in BLOCKS
    if re.fullmatch(r"# \S+\.yaml", block[0].strip())
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the YAML files of the README at the paths it gives."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_shows_most_commands():
    assert len(COMMAND_LINES) >= 5, "no commands were found: has the README's form changed?"
    assert {"data", "sweep", "fit"} <= {words[0] for words in COMMAND_LINES}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_a_command_of_the_readme_is_accepted(words: list[str]):
    command = compose(words[0], words[1:])
    assert isinstance(command, COMMANDS[words[0]])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "words", [words for words in COMMAND_LINES if words[0] in ("plan", "sweep")], ids=" ".join
)
def test_a_plan_or_sweep_of_the_readme_is_not_refused(words: list[str]):
    """With the vocabulary of the demo, 512, or of other corpora, 32,000."""
    command = compose(words[0], words[1:])
    pieces = 512 if command.grid.name == "demo" else 32_000
    specs = plan_grid(
        command.grid, command.recipe, vocab_size=pieces, data_id="none", precision="bf16"
    )
    assert len(specs) >= 5 * len(command.grid.budgets)


def test_commands_are_found_in_fenced_and_indented_blocks():
    """Otherwise the tests above would skip a README with other formatting."""
    text = """
```bash
$ chinchilla plan grid=paper  # its cost
chinchilla fit observations=x.csv \\
  out_dir=fits && chinchilla report fits=fits
chinchilla status sweep_dir=<yours>
```

    chinchilla predict budget_flops=1e21

Not code: chinchilla plan grid=none
"""
    assert [words for block in code_blocks(text) for words in commands_in(block)] == [
        ["plan", "grid=paper"],
        ["fit", "observations=x.csv", "out_dir=fits"],
        ["report", "fits=fits"],
        ["predict", "budget_flops=1e21"],
    ]

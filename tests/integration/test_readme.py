"""The commands of the documentation are accepted as printed, by the command and by bash and zsh."""

import functools
import re
import shlex
from pathlib import Path

import pytest
import yaml

from chinchilla.cli import COMMANDS, compose
from chinchilla.commands.propose import KEPT
from chinchilla.plan.grid import plan_grid
from chinchilla.plan.propose import propose_grid

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "slurm" / "README.md",
    # The scripts of schedulers.md have a test of their own, test_docs_schedulers.
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "schedulers.md"),
]
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


def lines_of(page: Path) -> list[list[str]]:
    """Arguments of the commands in the code blocks of a page and in its text."""
    text = page.read_text(encoding="utf-8")
    inline = [[code.replace("\n", " ")] for code in re.findall(r"`(chinchilla [^`]*)`", text)]
    commands = [words for block in [*code_blocks(text), *inline] for words in commands_in(block)]
    return [words for words in commands if len(words) > 1 and "--help" not in words]


BLOCKS = [block for page in PAGES for block in code_blocks(page.read_text(encoding="utf-8"))]
COMMAND_LINES = lines_of(README)
OTHER_LINES = [words for page in PAGES[1:] for words in lines_of(page)]
FILES = {
    block[0].removeprefix("#").strip(): "\n".join(block) + "\n"
    for block in BLOCKS
    if re.fullmatch(r"# \S+\.yaml", block[0].strip())
}


@functools.cache
def proposed() -> dict[str, object]:
    """What `plan save=` writes for the README's text."""
    grid = propose_grid(1e13, compose("plan", ["recipe=step_law"]).recipe, vocab_size=512)
    return {name: getattr(grid, name) for name in KEPT}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the YAML files of the README at the paths it gives."""
    for name in ("runs/a", "runs/demo", "runs/first", "fits/theirs"):
        (tmp_path / name).mkdir(parents=True)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for path in re.findall(r"save=(\S+)\.yaml", README.read_text(encoding="utf-8")):
        values = proposed() | {"name": Path(path).name}
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{path}.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_shows_most_commands():
    assert len(COMMAND_LINES) >= 20, "no commands were found: has the README's form changed?"
    assert len(OTHER_LINES) >= 20
    assert {"data", "sweep", "fit"} <= {words[0] for words in COMMAND_LINES}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("words", COMMAND_LINES + OTHER_LINES, ids=" ".join)
def test_a_command_of_the_documentation_is_accepted(words: list[str]):
    command = compose(words[0], words[1:])
    assert isinstance(command, COMMANDS[words[0]])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "words", [words for words in COMMAND_LINES if words[0] in ("plan", "sweep")], ids=" ".join
)
def test_a_plan_or_sweep_of_the_readme_is_not_refused(words: list[str]):
    """With the vocabulary of the demo and of books, 512, or of other corpora, 32,000."""
    command = compose(words[0], words[1:])
    pieces = 512 if command.grid.name in ("demo", "books") else 32_000
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


# ------------------------------------------------------------------ shells

# Characters that zsh or bash treat as a pattern, a comment or more. zsh refuses a pattern without a match,
# and takes # for a word where a command is typed.
SPECIAL = re.compile(r"[][{}*?#()!]")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\\.")
STARTS = r"(?:\$ )?(chinchilla|make|python|pip|bash|apt-get|torchrun|sbatch|srun) "


def shell_lines(text: str) -> list[str]:
    """Command lines in the code blocks of a page, and in its text."""
    lines = [
        line
        for block in code_blocks(text)
        for line in "\n".join(block).replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if re.match(STARTS, line)] + [
        code.replace("\n", " ") for code in re.findall(r"`([^`]*)`", text) if re.match(STARTS, code)
    ]


def special_words(line: str) -> list[str]:
    """Words of a command line with a special character outside of quotes."""
    return [word for word in QUOTED.sub("", line).split() if SPECIAL.search(word)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_can_be_pasted_into_zsh_and_bash(page: Path):
    text = page.read_text(encoding="utf-8")
    found = {line: words for line in shell_lines(text) if (words := special_words(line))}
    assert found == {}


def test_messages_and_comments_print_commands_that_can_be_pasted():
    """Commands in messages, help texts and comments; braces of f-strings are left out."""
    files = [
        *(ROOT / "chinchilla").rglob("*.py"),
        *(ROOT / "scripts").rglob("*.*"),
        *(ROOT / "configs").rglob("*.yaml"),
    ]
    command = re.compile(rf"\bchinchilla (?:{'|'.join(COMMANDS)})\b[^`\n]*")
    setting = re.compile(r"(?<![\w'\"[{(])[a-z_.]+=\[[A-Z_]{2}")  # a placeholder in brackets
    found = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        lines = [re.sub(r"\{[^{}]*\}", "", line) for line in command.findall(text)]
        found += [
            f"{path.name}: {line}"
            for line in lines
            if re.search(r"=\S*[][*?]", QUOTED.sub("", line))
        ]
        found += [f"{path.name}: {word}" for word in setting.findall(text)]
    assert found == []


@pytest.mark.parametrize("line", ["chinchilla fit a=[1]", "chinchilla plan  # cost", "make *"])
def test_special_characters_are_found(line: str):
    assert special_words(line)
    assert special_words("chinchilla fit 'columns={N: \"(M)\"}'") == []

"""Structure of the package: layers of imports, light imports, sizes of files and folders."""

import ast
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import chinchilla

PACKAGE = Path(chinchilla.__file__).parent
HEAVY = (
    "torch",
    "hydra",
    "omegaconf",
    "wandb",
    "matplotlib",
    "datasets",
    "sentencepiece",
)

LAYERS = {
    "core": 0,
    "config": 1,
    "plan": 2,
    "observations": 3, "data": 3, "model": 3, "tracking": 3,
    "train": 4, "fit": 4, "diagnose": 4, "decide": 4, "recommend": 4, "plots": 4, "api": 4,
    "sweep": 5, "report": 5,
    "commands": 6, "cli": 6,
}  # fmt: skip


def part_of(module: str) -> str:
    """The top-level part of a dotted name: chinchilla.fit.isoflop.approach2 -> fit."""
    return module.split(".")[1]


def imported(path: Path) -> set[str]:
    """Parts of the package that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            whole_package = node.module == "chinchilla"
            names = [f"chinchilla.{a.name}" for a in node.names] if whole_package else [node.module]
        else:
            continue
        found |= {part_of(name) for name in names if name.startswith("chinchilla.")}
    return found - {"__version__"}


SOURCES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [
    (path.relative_to(PACKAGE), path.relative_to(PACKAGE).with_suffix("").parts[0], other)
    for path in SOURCES
    if path != PACKAGE / "__init__.py"
    for other in imported(path)
]


def test_every_part_of_the_package_has_a_layer():
    """Add a new file or folder to LAYERS (see CONTRIBUTING.md)."""
    parts = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in SOURCES} - {"__init__"}
    assert parts <= set(LAYERS)
    assert {other for _, _, other in IMPORTS} <= set(LAYERS)


def test_imports_go_down_only():
    upward = [
        f"{path} imports {other}"
        for path, own, other in IMPORTS
        if LAYERS.get(other, 0) > LAYERS.get(own, 4)
    ]
    assert upward == []


def test_train_and_fit_do_not_import_each_other():
    found = [str(path) for path, own, other in IMPORTS if {own, other} == {"train", "fit"}]
    assert found == []


def test_fits_import_neither_diagnose_nor_decide():
    found = [
        str(p) for p, own, other in IMPORTS if own == "fit" and other in ("diagnose", "decide")
    ]
    assert found == []


def test_data_and_model_do_not_import_each_other():
    found = [str(path) for path, own, other in IMPORTS if {own, other} == {"data", "model"}]
    assert found == []


def test_imports_inside_functions_are_found():
    """`sweep.worker` imports the trainer only when a worker starts."""
    assert "train" in imported(PACKAGE / "sweep" / "worker.py")


MAX_FILES, MAX_LINES = 16, 400


def test_folders_and_files_are_small():
    folders = {path.parent for path in SOURCES}
    for folder in folders - {PACKAGE}:
        name = str(folder.relative_to(PACKAGE))
        assert len(list(folder.glob("*.py"))) <= MAX_FILES, name
    for path in SOURCES:
        name = str(path.relative_to(PACKAGE))
        n_lines = len(path.read_text(encoding="utf-8").splitlines())
        assert n_lines <= MAX_LINES, name


def test_only_the_api_and_the_command_line_lie_at_the_package_root():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "api.py", "cli.py"}


TESTS = Path(__file__).parent
AT_THE_ROOT = ("test_api.py", "test_cli.py", "test_structure.py")


def test_unit_tests_are_named_after_modules():
    """tests/unit/<folder>/test_<module>.py or test_<module>_<aspect>.py; tests/unit/scripts for scripts/."""
    others = set()
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS)
        if folder == Path("scripts"):
            modules = (PACKAGE.parent / "scripts").rglob("*.*")
        else:
            modules = [p for p in (PACKAGE / folder).glob("*") if folder != Path()]
        name = path.stem.removeprefix("test_")
        if not any(f"{name}_".startswith(f"{module.stem}_") for module in modules):
            others.add(str(path.relative_to(TESTS)))
    assert sorted(others - {*AT_THE_ROOT}) == []


@pytest.mark.parametrize(
    "module",
    [
        "chinchilla.plan.grid",
        "chinchilla.fit",
        "chinchilla.observations",
        "chinchilla.cli",
        "chinchilla.diagnose.verdicts",
        "chinchilla.decide.decision",
    ],
)
def test_light_modules_import_no_heavy_ones(module):
    code = f"import sys, {module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"]])
def test_help_takes_less_than_half_a_cpu_second(words):
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "chinchilla.cli", *words], check=True, stdout=subprocess.DEVNULL
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(seconds) < 0.5

"""The building: imports go down only, and the lower floors are quick to enter."""

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
    "submitit",
    "wandb",
    "matplotlib",
    "datasets",
    "sentencepiece",
)

FLOORS = {
    "core": 0,
    "config": 1,
    "plan": 2,
    "observations": 3, "data": 3, "model": 3, "tracking": 3,
    "train": 4, "fit": 4, "diagnose": 4, "decide": 4, "recommend": 4, "plots": 4, "api": 4,
    "sweep": 5, "report": 5,
    "commands": 6, "cli": 6,
}  # fmt: skip


def unit_of(module: str) -> str:
    """The file or folder of the package that a dotted name lies in: chinchilla.fit.isoflop.approach2 -> fit."""
    return module.split(".")[1]


def imported(path: Path) -> set[str]:
    """Units of the package that a file imports, at its top and inside its functions."""
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
        found |= {unit_of(name) for name in names if name.startswith("chinchilla.")}
    return found - {"__version__"}


SOURCES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [
    (path.relative_to(PACKAGE), path.relative_to(PACKAGE).with_suffix("").parts[0], other)
    for path in SOURCES
    if path != PACKAGE / "__init__.py"
    for other in imported(path)
]


def test_every_part_of_the_package_has_a_floor():
    """A new file or folder: decide its floor (see CONTRIBUTING.md), then name it above."""
    parts = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in SOURCES} - {"__init__"}
    assert parts <= set(FLOORS)
    assert {other for _, _, other in IMPORTS} <= set(FLOORS)


def test_imports_go_down_only():
    up = [
        f"{path} imports {other}"
        for path, own, other in IMPORTS
        if FLOORS.get(other, 0) > FLOORS.get(own, 4)
    ]
    assert up == []


def test_train_and_fit_never_meet():
    meet = [str(path) for path, own, other in IMPORTS if {own, other} == {"train", "fit"}]
    assert meet == []


def test_fits_know_nothing_of_what_is_made_of_them():
    below = [
        str(p) for p, own, other in IMPORTS if own == "fit" and other in ("diagnose", "decide")
    ]
    assert below == []


def test_data_and_model_know_nothing_of_each_other():
    meet = [str(path) for path, own, other in IMPORTS if {own, other} == {"data", "model"}]
    assert meet == []


def test_the_test_sees_imports_inside_functions():
    """`sweep.worker` loads the trainer only when a worker starts; the walk must still find it."""
    assert "train" in imported(PACKAGE / "sweep" / "worker.py")


@pytest.mark.parametrize(
    "module",
    [
        "chinchilla.plan.grid",
        "chinchilla.fit",
        "chinchilla.observations.table",
        "chinchilla.cli",
        "chinchilla.diagnose.verdicts",
        "chinchilla.decide.decision",
    ],
)
def test_a_light_module_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"]])
def test_help_answers_within_half_a_cpu_second(words):
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "chinchilla.cli", *words], check=True, stdout=subprocess.DEVNULL
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(seconds) < 0.5

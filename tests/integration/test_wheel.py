"""The wheel in an environment without torch: contents, plans and fits."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_TORCH = ("hydra-core", "omegaconf", "numpy", "scipy", "rich", "jinja2", "matplotlib")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def observations() -> str:
    """Noise-free runs on appendix D.3's law, four budgets of seven sizes."""
    rows = ["run_id,budget_flops,C,N,D,L"]
    for budget in (1e18, 4e18, 1.6e19, 6.4e19):
        middle = 0.6 * (budget / 6) ** 0.45
        for k in range(-3, 4):
            N = middle * 2.0**k
            D = budget / (6 * N)
            L = 1.69 + 406.4 / N**0.34 + 410.7 / D**0.28
            rows.append(f"r{len(rows)},{budget},{budget},{N},{D},{L}")
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("build", "hatchling"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed (it is in the dev extra)")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel and the dependencies of plans, fits and reports."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    path = folder / "bin" / "python"
    pip = [str(path), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pins = ["--constraint", str(ROOT / "constraints.txt")]
    done = subprocess.run([*pip, *pins, *NO_TORCH], capture_output=True, text=True)
    if "NewConnectionError" in done.stderr:
        pytest.skip("no package index can be reached from here")
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*pip, "--no-deps", str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def run(python: Path, tmp_path: Path):
    """Run the installed `chinchilla` in an empty folder and return its output."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}

    def chinchilla(*words: str) -> str:
        command = [str(python.parent / "chinchilla"), *words]
        done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return chinchilla


def test_configs_and_the_embedded_corpus_are_in_the_wheel(wheel: Path):
    inside = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"chinchilla/configs/{p.relative_to(ROOT / 'configs')}"
               for p in (ROOT / "configs").rglob("*.yaml")}  # fmt: skip
    assert len(configs) > 15
    assert configs <= inside
    assert "chinchilla/data/embedded/sotu.jsonl.xz" in inside
    assert "chinchilla/report/page.html.j2" in inside
    assert "chinchilla/py.typed" in inside
    assert not [n for n in inside if not n.startswith(("chinchilla/", "chinchilla_lab-"))]


def test_the_environment_has_no_torch(python: Path, tmp_path: Path):
    code = (
        "import importlib.util as u, chinchilla; "
        "print(chinchilla.__file__, *(u.find_spec(m) for m in ('torch', 'datasets', 'wandb')))"
    )
    output = subprocess.run(
        [str(python), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "site-packages" in output
    assert output.split()[1:] == ["None"] * 3


def test_help_lists_commands_and_choices(run):
    assert "usage: chinchilla COMMAND" in run("--help")
    assert "paper" in run("plan", "--help")


def test_plan_without_torch(run, tmp_path: Path):
    output = run("plan", "grid=paper", "grid.vocab_size=32000", "out=plan.jsonl")
    assert "device-hours" in output
    specs = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()]
    assert len({spec["budget_flops"] for spec in specs}) >= 9


def test_fit_report_and_predict_without_torch(run, tmp_path: Path):
    (tmp_path / "runs.csv").write_text(observations())
    run("fit", "observations=runs.csv", "out_dir=fits", "n_bootstrap=20")
    run("report", "fits=fits")
    assert (tmp_path / "fits" / "report" / "report.html").stat().st_size > 10_000
    output = json.loads(run("predict", "fits=fits", "budget_flops=1e20", "format=json"))
    rows = output["predictions"]
    [ours] = [row for row in rows if "parametric" in row["by"] and "data" in row["by"]]
    # Minimum of 406.4/N^.34 + 410.7/D^.28 at 6ND = 1e20, which noise-free points must reproduce.
    G = (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62)
    assert ours["N"] == pytest.approx(G * (1e20 / 6) ** (0.28 / 0.62), rel=0.02)

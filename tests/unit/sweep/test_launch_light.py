"""Launching a finished sweep and showing its status import nothing that they do not need."""

import subprocess
import sys
from pathlib import Path

import pytest
from sweep_fakes import make_result, save_curve

from chinchilla.config import GridConfig, RecipeConfig
from chinchilla.plan.grid import plan_grid
from chinchilla.plan.plan_file import save_plan
from chinchilla.sweep.run_files import run_dir_of

GRID = GridConfig(
    name="light", budgets=[1e10], models=["8x1", "16x1"], kv_size=8, seq_len=32, vocab_size=384,
    min_sizes=1, min_side=0, min_steps=1,
)  # fmt: skip
AGAIN = [
    "sweep", "data_dir=", "grid=demo", "grid.name=light", "grid.budgets=[1e10]",
    "grid.models=[8x1,16x1]", "grid.kv_size=8", "grid.seq_len=32", "grid.vocab_size=384",
    "grid.sizes_per_budget=0", "grid.min_sizes=1", "grid.min_side=0", "grid.min_steps=1",
    "grid.horizon_models=[]", "grid.horizon_tokens_per_param=[]", "recipe=paper",
    "recipe.batch_tokens=384", "recipe.precision=fp32",
]  # fmt: skip
NOT_NEEDED = (
    "torch", "scipy", "wandb", "matplotlib", "datasets", "sentencepiece",
    "chinchilla.fit", "chinchilla.decide", "chinchilla.diagnose", "chinchilla.report",
    "chinchilla.train",
)  # fmt: skip


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    recipe = RecipeConfig(batch_tokens=384, lr_width_exponent=0.2041)
    specs = plan_grid(GRID, recipe, vocab_size=0, data_id="none", precision="fp32")
    save_plan(specs, tmp_path / "plan.jsonl")
    for spec in specs:
        run_dir_of(tmp_path, spec).mkdir(parents=True)
        curve = save_curve(run_dir_of(tmp_path, spec), spec)
        make_result(spec, **curve).save(run_dir_of(tmp_path, spec))
    return tmp_path


@pytest.mark.parametrize("words", [AGAIN, ["status"]], ids=["sweep", "status"])
def test_a_finished_sweep_is_shown_without_importing_training_or_fits(
    words: list[str], finished: Path
):
    code = (
        f"import sys; from chinchilla.cli import main; code = main({[*words, f'sweep_dir={finished}']});"
        f"print(*['loads ' + m for m in {NOT_NEEDED} if m in sys.modules]); sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert "2/2 runs, 100% of FLOPs" in run.stdout  # nothing was planned anew
    assert "loads" not in run.stdout

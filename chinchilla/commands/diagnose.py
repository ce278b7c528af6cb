"""`chinchilla diagnose`: checks of the fits."""

from pathlib import Path

from chinchilla import config
from chinchilla.core.files import sha256_file, writable_dir
from chinchilla.diagnose.verdicts import FILE
from chinchilla.diagnose.verdicts import diagnose as run_diagnostics
from chinchilla.fit.results import FILE as FRONTIER
from chinchilla.fit.results import FitResults
from chinchilla.plan.records import load_plan


def diagnose(command: config.DiagnoseCommand) -> int:
    """Run every diagnostic on the fits of a folder, write diagnostics.json beside them, print them."""
    fits_dir = Path(command.fits or Path(command.sweep_dir) / "fits")
    fits = FitResults.load(fits_dir)
    shapes = {}
    if command.sweep_dir:
        specs = load_plan(Path(command.sweep_dir) / "plan.jsonl")
        shapes = {spec.run_id: spec.model for spec in specs}
    diagnostics = run_diagnostics(
        fits.runs_beside(fits_dir),
        fits,
        C_star=command.budget_flops,
        n_bootstrap=command.n_bootstrap,
        seed=command.seed,
        shapes=shapes,
        frontier_sha256=sha256_file(fits_dir / FRONTIER),
    )
    path = writable_dir(fits_dir, "fits") / FILE
    diagnostics.save(path)
    if command.format == "json":
        print(path.read_text(encoding="utf-8"), end="")
    else:
        print(diagnostics)
        print(f"wrote {path}")
    return 0

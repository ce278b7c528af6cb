"""Keep what a demo run measured: numbers with machine, date and commit, and the README's figures.

    python scripts/record_demo.py runs/demo [DOCS_DIR]

Writes DOCS_DIR/results/demo.json and demo_observations.csv, and DOCS_DIR/figures/demo_*.png.
"""

import datetime
import os
import shutil
import sys
from pathlib import Path

from chinchilla.commands.shared import sweep_results
from chinchilla.core.files import write_json
from chinchilla.core.provenance import code_here
from chinchilla.fit.results import FitResults
from chinchilla.recommend.evaluate import default_budget, recommendation


def main(sweep_dir: Path, docs: Path) -> None:
    results, _ = sweep_results(sweep_dir)
    found = FitResults.load(sweep_dir / "fits")
    fits, refusals, told = found.fitted, found.refused, found.command
    finished = [r for r in results if r.status == "finished"]
    spent = sum(r.flops_spent for r in finished)
    record = {
        "machine": f"{results[0].device}, {os.cpu_count()} cores",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": code_here().label,
        "versions": results[0].versions,
        "runs": {
            status: sum(r.status == status for r in results)
            for status in ("finished", "diverged", "failed")
        },
        "sweep_wall_seconds": round(
            (
                max(map(_time, (r.finished_utc for r in results)))
                - min(map(_time, (r.started_utc for r in results)))
            ).total_seconds()
        ),
        "training_seconds_over_all_runs": round(sum(r.train_seconds for r in results), 1),
        "training_flops": spent,
        "flops_per_second_of_one_worker": spent / sum(r.train_seconds for r in finished),
        "loss": told["loss"],
        "exponents": {
            name: {
                "a": [f.N_opt.exponent, f.N_opt.p10, f.N_opt.p90],
                "b": [f.D_opt.exponent, f.D_opt.p10, f.D_opt.p90],
                "n_runs": f.n_runs,
                "interval": f.settings.get("interval"),
                "warnings": f.warnings,
                "refusals": f.refusals,
            }
            for name, f in fits.items()
        },
        "recommended": None
        if found.recommended is None
        else recommendation(found, default_budget(found)).to_dict(),
        "isoflop_minima": [
            {"budget_flops": p.budget_flops, "N_opt": p.N, "D_opt": p.D, "loss": p.L}
            for p in (fits["isoflop"].points if "isoflop" in fits else [])
        ],
        "refused_approaches": {a: r.reason for a, r in refusals.items()},
    }
    for folder in ("results", "figures"):
        (docs / folder).mkdir(parents=True, exist_ok=True)
    write_json(docs / "results" / "demo.json", record)
    shutil.copyfile(
        sweep_dir / "fits" / "observations.csv", docs / "results" / "demo_observations.csv"
    )
    for figure in ("isoflop_curves", "optimal_sizes"):
        source = sweep_dir / "report" / "figures" / f"{figure}.png"
        shutil.copyfile(source, docs / "figures" / f"demo_{figure}.png")


def _time(utc: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(utc)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit(0)
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) == 3 else "docs"))

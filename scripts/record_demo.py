"""Record the results of a demo sweep with machine, date and commit, and the figures of the README.

    python scripts/record_demo.py runs/demo [DOCS_DIR]

Writes DOCS_DIR/results/demo.json and demo_observations.csv, and DOCS_DIR/figures/demo_*.png.
"""

import datetime
import os
import shutil
from pathlib import Path

from bench.bench_tools import Arguments, existing_folder, provenance

from chinchilla.commands.shared import sweep_runs
from chinchilla.core.files.writing import write_json
from chinchilla.fit.results import FitResults
from chinchilla.recommend.evaluate import default_budget, recommendation


def main(sweep_dir: Path, docs: Path) -> None:
    results = sweep_runs(sweep_dir).results
    fits = FitResults.load(sweep_dir / "fits")
    fitted = fits.fitted
    finished = [r for r in results if r.status == "finished"]
    times = [
        [datetime.datetime.fromisoformat(getattr(r, name)) for r in results]
        for name in ("started_utc", "finished_utc")
    ]
    spent = sum(r.flops_spent for r in finished)
    record = {
        **provenance(),
        "machine": f"{results[0].device}, {os.cpu_count()} cores",
        "versions": results[0].versions,
        "runs": {
            status: sum(r.status == status for r in results)
            for status in ("finished", "diverged", "failed")
        },
        "sweep_wall_seconds": round((max(times[1]) - min(times[0])).total_seconds()),
        "training_seconds_over_all_runs": round(sum(r.train_seconds for r in results), 1),
        "training_flops": spent,
        "flops_per_second_of_one_worker": spent / sum(r.train_seconds for r in finished),
        "loss": fits.command["loss"],
        "exponents": {
            name: {
                "a": [f.N_opt.exponent, f.N_opt.p10, f.N_opt.p90],
                "b": [f.D_opt.exponent, f.D_opt.p10, f.D_opt.p90],
                "n_runs": f.n_runs,
                "interval": f.settings.get("interval"),
                "warnings": f.warnings,
                "refusals": f.refusals,
            }
            for name, f in fitted.items()
        },
        "recommended": fits.recommended and recommendation(fits, default_budget(fits)).to_dict(),
        "isoflop_minima": [
            {"budget_flops": p.budget_flops, "N_opt": p.N, "D_opt": p.D, "loss": p.L}
            for p in (fitted["isoflop"].points if "isoflop" in fitted else [])
        ],
        "refused_approaches": {a: r.reason for a, r in fits.refused.items()},
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


if __name__ == "__main__":
    parser = Arguments(__doc__)
    parser.add_argument("sweep_dir", type=existing_folder)
    parser.add_argument("docs", metavar="DOCS_DIR", nargs="?", type=Path, default="docs")
    args = parser.parse_args()
    main(args.sweep_dir, args.docs)

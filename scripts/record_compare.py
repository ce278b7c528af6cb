"""Record the result of scripts/compare_corpora.sh with machine, date and commit, and its figure.

    python scripts/record_compare.py runs/compare [DOCS_DIR]

Writes DOCS_DIR/results/compare_corpora.json and DOCS_DIR/figures/compare_corpora.png.
"""

import os
import shutil
from pathlib import Path

from bench.bench_tools import Arguments, existing_folder, provenance

from chinchilla.commands.shared import sweep_runs
from chinchilla.core.files.reading import read_json
from chinchilla.core.files.writing import write_json


def main(folder: Path, docs: Path) -> None:
    comparison = read_json(folder / "compare" / "compare.json", "comparison")
    for corpus in comparison["corpora"]:
        results = [r for r in sweep_runs(folder / corpus["name"]).results if r.status == "finished"]
        corpus["folder"] = Path(corpus["folder"]).name
        corpus["training_seconds_over_all_runs"] = round(sum(r.train_seconds for r in results), 1)
        corpus["trained_at_commit"] = sorted({r.code.label for r in results})
    record = {
        **provenance(),
        "machine": f"{results[0].device}, {os.cpu_count()} cores",
        "versions": results[0].versions,
        "command": "scripts/compare_corpora.sh",
        **comparison,
    }
    for name in ("results", "figures"):
        (docs / name).mkdir(parents=True, exist_ok=True)
    write_json(docs / "results" / "compare_corpora.json", record)
    source = folder / "compare" / "figures" / "compare_isoflop_curves.png"
    shutil.copyfile(source, docs / "figures" / "compare_corpora.png")


if __name__ == "__main__":
    parser = Arguments(__doc__)
    parser.add_argument("folder", type=existing_folder)
    parser.add_argument("docs", metavar="DOCS_DIR", nargs="?", type=Path, default="docs")
    args = parser.parse_args()
    main(args.folder, args.docs)

"""Keep what scripts/compare_corpora.sh measured: compare.json with machine, date and commit, and its figure.

    python scripts/record_compare.py runs/compare [DOCS_DIR]

Writes DOCS_DIR/results/compare_corpora.json and DOCS_DIR/figures/compare_corpora.png.
"""

import datetime
import os
import shutil
import sys
from pathlib import Path

from chinchilla.commands.shared import finished_results
from chinchilla.core.files import read_json, write_json
from chinchilla.core.provenance import code_here


def main(folder: Path, docs: Path) -> None:
    found = read_json(folder / "compare" / "compare.json", "comparison")
    for corpus in found["corpora"]:
        results = finished_results(folder / corpus["name"])
        corpus["folder"] = Path(corpus["folder"]).name
        corpus["training_seconds_over_all_runs"] = round(sum(r.train_seconds for r in results), 1)
        corpus["trained_at_commit"] = sorted({r.git for r in results})
    record = {
        "machine": f"{results[0].device}, {os.cpu_count()} cores",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": code_here().label,
        "versions": results[0].versions,
        "command": "scripts/compare_corpora.sh",
        **found,
    }
    for name in ("results", "figures"):
        (docs / name).mkdir(parents=True, exist_ok=True)
    write_json(docs / "results" / "compare_corpora.json", record)
    source = folder / "compare" / "figures" / "compare_isoflop_curves.png"
    shutil.copyfile(source, docs / "figures" / "compare_corpora.png")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit(0)
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) == 3 else "docs"))

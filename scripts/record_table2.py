"""Record the output of `chinchilla reproduce table2` in docs/results/table2.md and table2.json.

    python scripts/record_table2.py POINTS.csv [CURVES.csv]

`chinchilla fetch hoffmann POINTS.csv` writes POINTS.csv. The points have no licence that permits copying,
so they are not part of the repository.
"""

import dataclasses
import time
from pathlib import Path

from bench.bench_tools import RESULTS, Arguments, existing_file, provenance

import chinchilla
from chinchilla.core.files.reading import sha256_file
from chinchilla.core.files.writing import write_json, write_text
from chinchilla.observations.table import Observations
from chinchilla.report.reproduce import markdown, reproduce


def main(points: Path, curves: Path | None) -> None:
    observations = Observations.from_csv(points)
    curve_points = Observations.from_csv(curves) if curves else None
    start = time.process_time()
    result = reproduce(observations, curve_points)
    made = {
        **provenance(),
        "version": chinchilla.__version__,
        "points_sha256": sha256_file(points),
        "cpu_seconds": round(time.process_time() - start, 1),
    }
    write_json(RESULTS / "table2.json", {"made": made, **dataclasses.asdict(result)})
    head = f"`python scripts/record_table2.py`, {made['date']}, commit {made['commit']}.\n\n"
    write_text(RESULTS / "table2.md", head + markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    parser = Arguments(__doc__)
    parser.add_argument("points", metavar="POINTS.csv", type=existing_file)
    parser.add_argument("curves", metavar="CURVES.csv", nargs="?", type=existing_file)
    args = parser.parse_args()
    main(args.points, args.curves)

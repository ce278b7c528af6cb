"""Keep what `chinchilla reproduce table2` says: docs/results/table2.md and table2.json.

    python scripts/record_table2.py POINTS.csv [CURVES.csv]

POINTS.csv is what `chinchilla fetch points=hoffmann out=POINTS.csv` writes. The points themselves have
no licence for copying and stay out of the repository.
"""

import dataclasses
import datetime
import os
import platform
import sys
import time
from pathlib import Path

import chinchilla
from chinchilla.core.files import sha256_file, write_json, write_text
from chinchilla.core.provenance import code_here
from chinchilla.observations.table import Observations
from chinchilla.report.reproduce import markdown, reproduce


def main(points: Path, curves: Path | None, folder: Path) -> None:
    read = [Observations.from_csv(p) if p else None for p in (points, curves)]
    assert read[0] is not None
    start = time.process_time()
    found = reproduce(read[0], read[1], full_grid=True)
    made = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": code_here().label,
        "version": chinchilla.__version__,
        "points_sha256": sha256_file(points),
        "cpu_seconds": round(time.process_time() - start, 1),
    }
    write_json(folder / "table2.json", {"made": made, **dataclasses.asdict(found)})
    head = f"`python scripts/record_table2.py`, {made['date']}, commit {made['commit']}.\n\n"
    write_text(folder / "table2.md", head + markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit(0)
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    second = Path(sys.argv[2]) if len(sys.argv) == 3 else None
    main(Path(sys.argv[1]), second, Path("docs/results"))

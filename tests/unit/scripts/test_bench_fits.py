"""scripts/bench/bench_fits.py: the tables that are fitted."""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts" / "bench"))
import bench_fits


def test_public_tables_are_split_by_sweep_and_synthetic_ones_are_added(tmp_path):
    folder = tmp_path / "public"
    folder.mkdir()
    with open(folder / bench_fits.SWEEPS, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*bench_fits.COLUMNS, "config"))
        for config in ("a", "b", "b"):
            writer.writerow(("r", 6e18, 6e18, 1e9, 1e9, 3.0, config))
    found = {name: (path, n) for name, path, n in bench_fits.tables(folder, tmp_path)}
    *public, rates, wide = found
    assert [(name.rpartition(" ")[2], found[name][1]) for name in public] == [("a", 1), ("b", 2)]
    assert (found[rates][1], found[wide][1]) == (2_808, 20_000)
    for path, n in found.values():
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == n
        assert len({row["run_id"] for row in rows} - {"r at 6e+18"}) in (0, n)
        assert all(float(row["L"]) > 1 for row in rows[:50])

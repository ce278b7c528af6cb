"""CPU seconds of complete runs of `chinchilla fit` on tables that the law fits badly.

    python scripts/bench/bench_fits.py [--rounds 3] [--out FILE]

Each run is a separate process with the environment's number of threads. CPU seconds are user and system
time of the whole process, including imports and files. Tables: the public ones that the folder
CHINCHILLA_PUBLIC_DATA contains (gadre_overtraining.csv, datablations.csv, hoffmann_fig4.csv, and each config
of porian_refinedweb_isoflop.csv) and two synthetic ones. Writes docs/results/bench_fits.json.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench_tools import (
    RESULTS,
    ROOT,
    Arguments,
    children_cpu_seconds,
    count,
    out_file,
    provenance,
    save_json,
)

COLUMNS = ("run_id", "budget_flops", "C", "N", "D", "L")
PUBLIC = ("gadre_overtraining.csv", "datablations.csv", "hoffmann_fig4.csv")
SWEEPS = "porian_refinedweb_isoflop.csv"
LIMITS = ((250, 4.0), (2_808, 10.0), (20_000, 60.0))  # rows, CPU seconds allowed


def rates(n: int = 2_808) -> list[dict[str, Any]]:
    """42 pairs of size and horizon on one law, each at many learning rates, most of them poor."""
    import numpy as np

    rng = np.random.default_rng(1)
    N, D = np.meshgrid([6e7, 1.2e8, 2.1e8, 2.7e8, 4.3e8, 5.4e8, 1.1e9], np.geomspace(1e9, 1e11, 6))
    N, D = (np.repeat(x.ravel(), -(-n // 42))[:n] for x in (N, D))
    off = rng.uniform(-2.5, 3.5, n)  # ln(rate / best rate)
    lost = 0.02 * off**2 + 0.01 * np.maximum(off, 0) ** 3 * rng.random(n)
    L = (1.8 + 400 / N**0.34 + 2000 / D**0.36) * np.exp(lost + 0.003 * rng.normal(size=n))
    return _rows(np.full(n, np.nan), N, D, L)


def wide_profiles(n: int = 20_000) -> list[dict[str, Any]]:
    """Budgets of 40 sizes over a factor of 400; the losses differ from the law at both ends."""
    import numpy as np

    rng = np.random.default_rng(0)
    C = np.repeat(np.geomspace(1e17, 1e21, n // 40), 40)
    N = 0.09 * C**0.5 * np.exp(rng.uniform(-3, 3, len(C)))
    D = C / (6 * N)
    L = 1.8 + 400 / N**0.34 + 2000 / D**0.36 + 0.024 * np.log(D / N / 20) ** 2
    return _rows(C, N, D, L * np.exp(0.01 * rng.standard_t(3, len(C))))


def _rows(budgets: Any, N: Any, D: Any, L: Any) -> list[dict[str, Any]]:
    values = [("" if b != b else b, 6 * n * d, n, d, loss) for b, n, d, loss in zip(
        budgets.tolist(), N.tolist(), D.tolist(), L.tolist(), strict=True)]  # fmt: skip
    return [dict(zip(COLUMNS, (f"run{i}", *row), strict=True)) for i, row in enumerate(values)]


def tables(folder: Path, scratch: Path) -> Iterable[tuple[str, Path, int]]:
    """Name, file and rows of each table; synthetic ones are written to scratch."""
    for name in PUBLIC:
        if (folder / name).exists():
            with open(folder / name, newline="") as f:
                yield name, folder / name, len(list(csv.DictReader(f)))
    by_config: dict[str, list[dict[str, Any]]] = {}
    if (folder / SWEEPS).exists():
        with open(folder / SWEEPS, newline="") as f:
            for row in csv.DictReader(f):
                own = {"run_id": f"{row['run_id']} at {row['budget_flops']}"}
                by_config.setdefault(row["config"], []).append(row | own)
    made = {f"{SWEEPS}, {config}": rows for config, rows in by_config.items()}
    made |= {"synthetic, 67 learning rates each": rates()}
    made |= {"synthetic, wide profiles": wide_profiles()}
    for i, (name, rows) in enumerate(made.items()):
        path = scratch / f"table{i}.csv"
        with open(path, "w", newline="") as f:
            writer = csv.DictWriter(f, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        yield name, path, len(rows)


def fit_seconds(table: Path, out_dir: Path) -> float:
    """CPU seconds of one `chinchilla fit` with its defaults."""
    before = children_cpu_seconds()
    command = [sys.executable, "-m", "chinchilla.cli", "fit"]
    command += [f"observations={table}", f"out_dir={out_dir}"]
    environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT)}
    subprocess.run(command, check=True, capture_output=True, cwd=out_dir.parent, env=environment)
    return children_cpu_seconds() - before


def main() -> None:
    parser = Arguments(__doc__)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--out", type=out_file, default=RESULTS / "bench_fits.json")
    options = parser.parse_args()
    folder = Path(os.environ.get("CHINCHILLA_PUBLIC_DATA", ROOT.parent / "shared" / "data"))
    measured = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, path, n_rows in tables(folder, Path(scratch)):
            calls = [
                fit_seconds(path, Path(scratch, f"fits{i}"))
                for i in range(1 if n_rows > LIMITS[1][0] else options.rounds)
            ]
            limit = next(seconds for rows, seconds in LIMITS if n_rows <= rows or rows == 20_000)
            print(f"{name}, {n_rows} rows", calls, flush=True)
            measured.append({
                "table": name, "rows": n_rows, "cpu_seconds": statistics.median(calls),
                "cpu_seconds_range": [min(calls), max(calls)], "wanted_at_most": limit,
            })  # fmt: skip
    threads = os.environ.get("OMP_NUM_THREADS", "as the libraries choose")
    save_json(options.out, {**provenance(), "threads": threads, "measured": measured})


if __name__ == "__main__":
    main()

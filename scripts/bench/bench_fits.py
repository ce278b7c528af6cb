"""Time the fits of this package and of four public programs on the same points.

    python scripts/bench/bench_fits.py --peers DIR [--rounds 3] [--quick] [--only ours,kyo] [--out FILE]

Writes docs/results/bench_fits.json and prints it as a Markdown table. The points are the 240 points of the
paper's Figure 4 without the five highest losses (hoffmann_fig4.csv in the folder CHINCHILLA_PUBLIC_DATA, default
shared/data beside the checkout). Approach 2 uses those that belong to a budget. whole_fits.py times complete runs
of `chinchilla fit` on tables that the law fits badly.

DIR contains checkouts of the programs, each with its own .venv:

    cd DIR
    git clone https://github.com/epoch-research/analyzing-chinchilla epoch
    git clone https://github.com/kyo-takano/chinchilla kyo
    git clone https://github.com/Open-Athena/vpnls vpnls
    git clone https://github.com/formll/resolving-scaling-law-discrepancies formll
    for name in epoch kyo vpnls formll; do python3 -m venv $name/.venv; done
    epoch/.venv/bin/pip install numpy scipy pandas autograd
    kyo/.venv/bin/pip install ./kyo
    vpnls/.venv/bin/pip install numpy scipy cython 'setuptools>=77'
    (cd vpnls && .venv/bin/python setup.py build_ext --inplace)
    formll/.venv/bin/pip install -r formll/requirements.txt

Missing programs are reported and left out. PEERS lists the commits of the recorded times; a checkout at another
commit is used and recorded as such. Each measurement runs in its own process (bench_programs.py) with one
thread, in interleaved rounds. Medians of CPU seconds without imports are recorded. Measurements of over a minute
run once. Every point fit is evaluated by the paper's objective, the sum of Huber(1e-3) on log-loss, relative to
the lowest value that any program reached. The table states the objective that each program minimises.
"""

import csv
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench_programs import DELTA, PROGRAMS, TASKS, Found, Task
from bench_tools import (
    RESULTS,
    ROOT,
    Arguments,
    count,
    existing_folder,
    out_file,
    provenance,
    save_json,
)
from whole_fits import whole_fits

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Peer:
    """A public program: URL, commit of the recorded times, and a file that identifies it."""

    url: str
    commit: str
    file: str
    blob: str  # git's blob id of the file


PEERS = {
    "epoch": Peer(
        "https://github.com/epoch-research/analyzing-chinchilla",
        "92258837425e", "data_analysis.ipynb", "e1185cddb12f1b3a9be5b3cbbaafa38856c8d174",
    ),
    "kyo": Peer(
        "https://github.com/kyo-takano/chinchilla",
        "75e5858f6e7c", "chinchilla/core.py", "111cddabf762782a5896d4b7ab28ba092ba6a427",
    ),
    "vpnls": Peer(
        "https://github.com/Open-Athena/vpnls",
        "026317d6a0dd", "src/vpnls/grid.py", "281419573d88aad29ba58d93e7b4a0e416e857b5",
    ),
    "formll": Peer(
        "https://github.com/formll/resolving-scaling-law-discrepancies",
        "0dc60d91b8a5", "analysis.py", "3c61ad5a0d66d03f3062501879e4fea9f7abe482",
    ),
}  # fmt: skip


def missing(peers: Path | None, name: str) -> str:
    """Reason why a program cannot run, or ""."""
    peer = PEERS[name]
    if peers is None:
        return f"{name}: left out, no --peers folder given. See the docstring of this script."
    if not (peers / name / peer.file).is_file():
        return f"{name}: left out, {peers / name / peer.file} is missing. git clone {peer.url} {peers / name}"
    return ""


def version_of(peers: Path, name: str) -> str:
    """The commit of PEERS if the checkout contains its file, else "unknown"."""
    content = (peers / name / PEERS[name].file).read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return PEERS[name].commit if blob == PEERS[name].blob else f"unknown (blob {blob[:12]})"


def run(task: Task, folder: Path, points: Path) -> Found:
    """Run one measurement in its own process; {"failed": reason} if it fails."""
    python = folder / ".venv" / "bin" / "python"
    if task.program == "ours" or not python.exists():
        python = Path(sys.executable)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "measured.json")
        program = Path(__file__).with_name("bench_programs.py")
        command = [python, program, task.program, task.name, folder, points, out]
        environment = {**os.environ, **ONE_THREAD, "MPLBACKEND": "Agg"}
        done = subprocess.run(
            list(map(os.fspath, command)), capture_output=True, text=True, cwd=scratch,
            env=environment, check=False,
        )  # fmt: skip
        if done.returncode or not out.exists():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return {"failed": lines[-1]}
        return json.loads(out.read_text())


def huber_sum(points: Found, laws: Any, weights: Any = 1.0) -> Any:
    """(k,) sum of Huber losses of (k, 5) E, A, B, alpha, beta."""
    import numpy as np

    E, A, B, alpha, beta = np.atleast_2d(np.asarray(laws, float)).T[:, :, None]
    N, D, L = (np.array(points[key]) for key in "NDL")
    r = np.abs(np.log(E + A / N**alpha + B / D**beta) - np.log(L))
    return (weights * np.where(r <= DELTA, r * r / 2, DELTA * (r - DELTA / 2))).sum(axis=1)


def score_resamples(points: Found, drawn: Any, laws: Any) -> Found:
    """Shares of resamples that reach their minimum, for a program and for this package."""
    import numpy as np

    sys.path.insert(0, str(ROOT))
    from chinchilla.fit.parametric.solver import fit_loss_law, refit_loss_law

    N, D, L = (np.array(points[key]) for key in "NDL")
    counts = np.array([np.bincount(row, minlength=len(N)) for row in np.array(drawn)], float)
    refits = refit_loss_law(N, D, L, counts, fit_loss_law(N, D, L)[0])
    f = np.array([huber_sum(points, laws, counts), huber_sum(points, refits.theta, counts)])
    above = f / np.nanmin(f, axis=0) - 1
    return {
        "share_within_1e-6_of_minimum": float((above[0] < 1e-6).mean()),
        "share_within_1e-3_of_minimum": float((above[0] < 1e-3).mean()),
        "refit_loss_law_within_1e-6_on_the_same": float((above[1] < 1e-6).mean()),
    }


def public_folder() -> Path:
    return Path(os.environ.get("CHINCHILLA_PUBLIC_DATA", ROOT.parent / "shared" / "data"))


def public_points() -> Found:
    """N, D, C, L, budget_flops of the 240 points."""
    path = public_folder() / "hoffmann_fig4.csv"
    if not path.exists():
        print(
            f"{path} is missing. Set CHINCHILLA_PUBLIC_DATA to the folder of hoffmann_fig4.csv.",
            file=sys.stderr,
        )
        sys.exit(2)
    with open(path, newline="") as f:
        rows = [row for row in csv.DictReader(f) if row["epoch_outlier"] != "True"]
    return {
        key: [float(row[key] or "nan") for row in rows]
        for key in ("N", "D", "C", "L", "budget_flops")
    }


def summary(task: Task, runs: list[Found], points: Found) -> Found:
    """One entry of the record from the measurements of a task."""
    entry: Found = {
        k: v for k, v in asdict(task).items() if v and k != "slow" and (k, v) != ("share", 1.0)
    }
    failed = [r["failed"] for r in runs if "failed" in r]
    if failed:
        return {**entry, "failed": failed[-1]}
    result = dict(runs[-1]["found"])
    calls = [call for r in runs for call in r["calls"]]
    entry |= {
        "cpu_seconds": statistics.median(calls) / task.share,
        "cpu_seconds_range": [min(calls) / task.share, max(calls) / task.share],
        "cpu_seconds_first_call": statistics.median(r["calls"][0] for r in runs) / task.share,
        "n_calls": len(calls),
        "import_seconds": statistics.median(r["import_seconds"] for r in runs),
        "versions": runs[-1]["versions"],
    }
    if "laws" in result:
        result |= score_resamples(points, result.pop("drawn"), result.pop("laws"))
    if "alpha" in result:
        law = [result[key] for key in ("E", "A", "B", "alpha", "beta")]
        result |= {
            "a": result["beta"] / (result["alpha"] + result["beta"]),
            "objective": float(huber_sum(points, law)[0]),
        }
    return entry | result


def table(entries: list[Found]) -> str:
    """The record as Markdown tables."""
    lines = []
    for kind, title in (
        ("point", "Approach 3, point fit of 240 points"),
        ("resamples", "Approach 3, intervals from 4000 resamples"),
        ("isoflop", "Approach 2 with 1000 resamples"),
    ):
        lines += [
            "", f"**{title}**", "",
            "| program | measured call | CPU s | above the minimum | alpha | beta | a | 95% of a | status |",
            "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for e in (e for e in entries if e["kind"] == kind):
            if "failed" in e:
                lines.append(f"| {e['program']} | {e['what']} | failed: {e['failed']} |||||||")
                continue
            ci = e.get("a_ci95")
            numbers = [f"{e[k]:.4f}" if k in e else "" for k in ("alpha", "beta", "a")]
            columns = [
                e["program"],
                e["what"] + (f"; minimises {e['minimises']}" if e.get("minimises") else ""),
                f"{e['cpu_seconds']:.3g}",
                f"{e['above_minimum']:.1e}" if "above_minimum" in e else "",
                *numbers,
                f"{ci[0]:.3f} to {ci[1]:.3f}" if ci else "",
                _status(e),
            ]
            lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines).strip()


def _status(e: Found) -> str:
    parts = [e["status"]] if "status" in e else []
    if "n_starts" in e:
        parts.append(f"{e['n_success']} of {e['n_starts']} report success")
    for key, words in (
        ("share_of_starts_at_best", "at the lowest of them"),
        ("share_certified", "certified"),
        ("share_success", "report convergence"),
        ("share_within_1e-6_of_minimum", "within 1e-6 of their minimum"),
    ):
        if key in e and e.get("n_starts") != 1:
            parts.append(f"{e[key]:.1%} {words}")
    if "n_budgets" in e:
        parts.append(f"{e['n_budgets']} budgets")
    if "predicted_relative_decrease" in e:
        parts.append(f"predicted decrease {e['predicted_relative_decrease']:.0e}")
    return ", ".join(parts)


def main(arguments: list[str] | None = None) -> int:
    parser = Arguments(__doc__)
    parser.add_argument(
        "--peers", type=existing_folder, help="folder with epoch, kyo, vpnls, formll"
    )
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--quick", action="store_true", help="skip measurements of over a minute")
    parser.add_argument(
        "--only",
        default="",
        help="programs, separated by commas; or whole, to measure only whole_fits",
    )
    parser.add_argument("--out", type=out_file, default=RESULTS / "bench_fits.json")
    options = parser.parse_args(arguments)
    if options.only == "whole":
        record = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
        record["whole_fits"] = whole_fits(public_folder(), options.rounds)
        save_json(options.out, record)
        return 0
    peers = options.peers.resolve() if options.peers else None
    names = options.only.split(",") if options.only else list(PROGRAMS)
    if unknown := [name for name in names if name not in PROGRAMS]:
        parser.error(
            f"--only: there is no program {unknown[0]!r}. Choose from {','.join(PROGRAMS)}."
        )
    absent = {name: reason for name in PEERS if name in names and (reason := missing(peers, name))}
    for reason in absent.values():
        print(reason, file=sys.stderr)
    tasks = [
        t for t in TASKS
        if t.program in names and t.program not in absent and not (options.quick and t.slow)
    ]  # fmt: skip
    if not tasks:
        print("nothing is left to time.", file=sys.stderr)
        return 1
    points = public_points()
    runs: dict[Task, list[Found]] = {task: [] for task in tasks}
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(scratch, "points.json")
        given.write_text(json.dumps(points))
        for turn in range(options.rounds):
            for task in tasks:
                if turn and task.slow:
                    continue
                folder = ROOT if task.program == "ours" or peers is None else peers / task.program
                runs[task].append(run(task, folder, given))
                calls = runs[task][-1].get("calls", ["failed"])
                print(f"round {turn + 1}: {task.program} {task.name}", calls, file=sys.stderr)

    entries = [summary(task, runs[task], points) for task in tasks]
    lowest = min((e["objective"] for e in entries if "objective" in e), default=float("nan"))
    for e in entries:
        if "objective" in e:
            e["above_minimum"] = e["objective"] / lowest - 1
    record = {
        **provenance(),
        "threads": 1,
        "python": platform.python_version(),
        "points": f"{len(points['L'])} of Figure 4, without the five highest losses",
        "rounds": options.rounds,
        "yardstick": "sum of Huber(1e-3) on log-loss",
        "lowest_objective": lowest,
        "peers": {
            name: {"url": p.url, "commit": version_of(peers, name)}
            for name, p in PEERS.items()
            if peers is not None and name in names and name not in absent
        },
        "left_out": absent,
        "measured": entries,
    }
    if not options.only:
        record["whole_fits"] = whole_fits(public_folder(), options.rounds)
    save_json(options.out, record)
    print(table(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())

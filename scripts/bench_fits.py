"""Time the fits beside four public programs, on the same points, in one run.

    python scripts/bench_fits.py --peers DIR [--rounds 3] [--quick] [--only ours,kyo] [--out FILE]

Writes docs/results/bench_fits.json and prints it as a Markdown table. The points are the 240 of the
paper's Figure 4 without the five highest losses (hoffmann_fig4.csv in the folder that
CHINCHILLA_PUBLIC_DATA names, default shared/data beside the checkout); approach 2 gets those of them
that belong to a budget. Whole runs of `chinchilla fit` on ill-fitting tables are timed by whole_fits.py.

The programs are nobody's to ship here, so DIR holds checkouts of them, each with its own .venv:

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

What is missing is named and left out. PEERS names the commits that the recorded times are of; a
checkout at another one is used, and recorded as such. Each measurement is a process of its own
(bench_programs.py) with one thread: CPU seconds around the work, imports apart, in interleaved rounds;
medians. What takes over a minute runs once. Every point fit is judged by one yardstick, the paper's
objective: the sum of Huber(1e-3) on log-loss, and how far it lies above the lowest that any program
reached. A program that minimises something else need not come near; the table says what it minimises.
"""

import csv
import datetime
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

from bench_arguments import Arguments, count, existing_folder, out_file
from bench_programs import DELTA, PROGRAMS, Found
from whole_fits import whole_fits

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Peer:
    """A public program: where it is, and the commit and file that the recorded times are of."""

    url: str
    commit: str
    file: str
    blob: str  # git's id of that file at that commit


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


@dataclass(frozen=True)
class Task:
    """One thing timed."""

    program: str  # ours, or a key of PEERS
    name: str
    kind: str  # point: approach 3; resamples: its intervals; isoflop: approach 2 with intervals
    what: str
    minimises: str = "sum of Huber(1e-3) on log-loss"
    slow: bool = False  # over a minute: once
    share: float = 1.0  # of the task that runs; the time is scaled up by it


MSE = "mean square of linear loss"
LINEAR = "mean of Huber(1e-3) on linear loss"
TASKS = [
    Task("ours", "fit", "point", "fit_loss_law"),
    Task("ours", "search", "point", "L-BFGS from the paper's 4500 starts, tight", slow=True),
    Task("epoch", "grid", "point", "cell `Replicate exactly`: L-BFGS-B from the 4500 starts",
         slow=True),
    Task("epoch", "headline", "point", "the cell of its published constants: BFGS from one start",
         "likelihood of Huber with a free scale"),
    Task("kyo", "default", "point", "Chinchilla.fit, README's grid of 3125 starts, BFGS",
         "mean of asymmetric absolute error of linear loss", slow=True),
    Task("kyo", "log_huber", "point", "the same with its log_huber(delta=1e-3)",
         "mean of Huber(1e-3) on log-loss", slow=True),
    Task("vpnls", "default", "point", "fit_vpnls as it comes: grid of 0.01", MSE),
    Task("vpnls", "readme", "point", "README's real-data call: grid of 0.01", LINEAR),
    Task("vpnls", "fine", "point", "the same, grid of 0.001", LINEAR),
    Task("vpnls", "scipy", "point", "the same, method=scipy", LINEAR),
    Task("ours", "refits", "resamples", "refit_loss_law of 4000 resamples"),
    Task("ours", "intervals", "resamples",
         "fit_parametric(n_bootstrap=4000, resampling=pairs), whole"),
    Task("epoch", "resamples", "resamples", "its bootstrap cell: 4000, BFGS from one start each",
         slow=True),
    Task("vpnls", "resamples", "resamples", "has none: README's call on 50 resamples, times 80",
         LINEAR, share=1 / 80),
    Task("ours", "isoflop", "isoflop", "fit_isoflop(n_bootstrap=1000): exact shape, wild", ""),
    Task("ours", "parabola", "isoflop", "the same with profile=parabola", ""),
    Task("formll", "isoflop", "isoflop",
         "interp_flop (Akima, 1000 noise draws) and fit_compute_optimal_power_laws", ""),
]  # fmt: skip


def missing(peers: Path | None, name: str) -> str:
    """Why a program can not run, and what to do; empty where it can."""
    peer = PEERS[name]
    if peers is None:
        return f"{name}: left out, no --peers folder named. See the head of this script."
    if not (peers / name / peer.file).is_file():
        return f"{name}: left out, {peers / name / peer.file} is missing. git clone {peer.url} {peers / name}"
    return ""


def version_of(peers: Path, name: str) -> str:
    """The commit of PEERS where the checkout holds its file, else that it is another."""
    content = (peers / name / PEERS[name].file).read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return PEERS[name].commit if blob == PEERS[name].blob else f"unknown (blob {blob[:12]})"


def run(task: Task, folder: Path, points: Path) -> Found:
    """One measurement in a process of its own; {"failed": why} where it ends badly."""
    python = folder / ".venv" / "bin" / "python"
    if task.program == "ours" or not python.exists():
        python = Path(sys.executable)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "measured.json")
        program = Path(__file__).with_name("bench_programs.py")
        command = [python, program, task.program, task.name, folder, points, out]
        environment = {**os.environ, **ONE_THREAD, "MPLBACKEND": "Agg"}
        ended = subprocess.run(
            list(map(os.fspath, command)), capture_output=True, text=True, cwd=scratch,
            env=environment, check=False,
        )  # fmt: skip
        if ended.returncode or not out.exists():
            lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            return {"failed": lines[-1]}
        return json.loads(out.read_text())


def huber_sum(points: Found, laws: Any, weights: Any = 1.0) -> Any:
    """(k,) the yardstick of (k, 5) E, A, B, alpha, beta."""
    import numpy as np

    E, A, B, alpha, beta = np.atleast_2d(np.asarray(laws, float)).T[:, :, None]
    N, D, L = (np.array(points[key]) for key in "NDL")
    r = np.abs(np.log(E + A / N**alpha + B / D**beta) - np.log(L))
    return (weights * np.where(r <= DELTA, r * r / 2, DELTA * (r - DELTA / 2))).sum(axis=1)


def judge_resamples(points: Found, drawn: Any, laws: Any) -> Found:
    """How many of someone's resamples end at their minimum, beside our refits of the same."""
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
    found = dict(runs[-1]["found"])
    calls = [call for r in runs for call in r["calls"]]
    entry |= {
        "cpu_seconds": statistics.median(calls) / task.share,
        "cpu_seconds_range": [min(calls) / task.share, max(calls) / task.share],
        "cpu_seconds_first_call": statistics.median(r["calls"][0] for r in runs) / task.share,
        "n_calls": len(calls),
        "import_seconds": statistics.median(r["import_seconds"] for r in runs),
        "versions": runs[-1]["versions"],
    }
    if "laws" in found:
        found |= judge_resamples(points, found.pop("drawn"), found.pop("laws"))
    if "alpha" in found:
        law = [found[key] for key in ("E", "A", "B", "alpha", "beta")]
        found |= {
            "a": found["beta"] / (found["alpha"] + found["beta"]),
            "objective": float(huber_sum(points, law)[0]),
        }
    return entry | found


def table(entries: list[Found]) -> str:
    """The record in Markdown."""
    lines = []
    for kind, title in (
        ("point", "Approach 3, point fit of 240 points"),
        ("resamples", "Approach 3, intervals from 4000 resamples"),
        ("isoflop", "Approach 2 with 1000 resamples"),
    ):
        lines += [
            "", f"**{title}**", "",
            "| program | what ran | CPU s | above the minimum | alpha | beta | a | 95% of a | ended |",
            "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for e in (e for e in entries if e["kind"] == kind):
            if "failed" in e:
                lines.append(f"| {e['program']} | {e['what']} | failed: {e['failed']} |||||||")
                continue
            ci = e.get("a_ci95")
            numbers = [f"{e[k]:.4f}" if k in e else "" for k in ("alpha", "beta", "a")]
            cells = [
                e["program"],
                e["what"] + (f"; minimises {e['minimises']}" if e.get("minimises") else ""),
                f"{e['cpu_seconds']:.3g}",
                f"{e['above_minimum']:.1e}" if "above_minimum" in e else "",
                *numbers,
                f"{ci[0]:.3f} to {ci[1]:.3f}" if ci else "",
                _ended(e),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines).strip()


def _ended(e: Found) -> str:
    said = [e["status"]] if "status" in e else []
    if "n_starts" in e:
        said.append(f"{e['n_success']} of {e['n_starts']} say success")
    for key, words in (
        ("share_of_starts_at_best", "at the lowest of them"),
        ("share_certified", "certified"),
        ("share_success", "say converged"),
        ("share_within_1e-6_of_minimum", "within 1e-6 of their minimum"),
    ):
        if key in e and e.get("n_starts") != 1:
            said.append(f"{e[key]:.1%} {words}")
    if "n_budgets" in e:
        said.append(f"{e['n_budgets']} budgets")
    if "predicted_relative_decrease" in e:
        said.append(f"a Newton step promises {e['predicted_relative_decrease']:.0e}")
    return ", ".join(said)


def git_commit() -> str:
    """Commit of this checkout, with +dirty when it was changed."""
    ask = ["git", "-C", os.fspath(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+dirty"]
    told = subprocess.run([*ask, "--exclude=*"], capture_output=True, text=True, check=False)
    return told.stdout.strip()


def machine() -> str:
    """Processor, number of cores, and that the programs use one thread."""
    return f"{processor()}, 1 thread used"


def processor() -> str:
    """Processor and number of cores."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def main(arguments: list[str] | None = None) -> int:
    parser = Arguments(__doc__)
    parser.add_argument(
        "--peers", type=existing_folder, help="folder with epoch, kyo, vpnls, formll"
    )
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--quick", action="store_true", help="leave out what takes over a minute")
    parser.add_argument(
        "--only", default="", help="programs, with commas; or whole, which renews whole_fits alone"
    )
    parser.add_argument(
        "--out", type=out_file, default=ROOT / "docs" / "results" / "bench_fits.json"
    )
    told = parser.parse_args(arguments)
    whole = (ROOT, public_folder(), told.rounds, processor(), git_commit())
    if told.only == "whole":
        kept = json.loads(told.out.read_text(encoding="utf-8")) if told.out.exists() else {}
        kept["whole_fits"] = whole_fits(*whole)
        told.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return 0
    peers = told.peers.resolve() if told.peers else None
    wanted = told.only.split(",") if told.only else list(PROGRAMS)
    if unknown := [name for name in wanted if name not in PROGRAMS]:
        parser.error(
            f"--only: there is no program {unknown[0]!r}. Choose from {','.join(PROGRAMS)}."
        )
    absent = {name: why for name in PEERS if name in wanted and (why := missing(peers, name))}
    for why in absent.values():
        print(why, file=sys.stderr)
    tasks = [
        t for t in TASKS
        if t.program in wanted and t.program not in absent and not (told.quick and t.slow)
    ]  # fmt: skip
    if not tasks:
        print("nothing is left to time.", file=sys.stderr)
        return 1
    points = public_points()
    runs: dict[Task, list[Found]] = {task: [] for task in tasks}
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(scratch, "points.json")
        given.write_text(json.dumps(points))
        for turn in range(told.rounds):
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
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": git_commit(),
        "python": platform.python_version(),
        "points": f"{len(points['L'])} of Figure 4, without the five highest losses",
        "rounds": told.rounds,
        "yardstick": "sum of Huber(1e-3) on log-loss",
        "lowest_objective": lowest,
        "peers": {
            name: {"url": p.url, "commit": version_of(peers, name)}
            for name, p in PEERS.items()
            if peers is not None and name in wanted and name not in absent
        },
        "left_out": absent,
        "measured": entries,
    }
    if not told.only:
        record["whole_fits"] = whole_fits(*whole)
    told.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())

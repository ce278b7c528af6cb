"""Score choices of runs on ScaleBench: R2 of the fitted law at the target for a tenth of the cost.

    python scripts/studies/score_design.py DIR [--tasks data_con,moe] [--seeds 5] [--budget 0.1] [--out FILE]

Writes docs/results/design.json and prints it as a Markdown table. DIR is a checkout of
https://github.com/PlanarG/active-sl (Li et al. 2026, arXiv 2604.22753) with its tables and laws. The script imports
its laws.py files, so use a checkout that you trust. Reading the tables requires pyarrow. Missing tables are reported
and left out.

A task has runs that may be chosen (train), each with a cost; target runs, which cost more (test); and up to ten
laws. A method chooses runs one by one until no other fits in the budget, which is a share of the cost of all
runs. The law is fitted to the chosen runs by least squares within the bounds of the task. The score is R2 over
the target runs, clipped at -1. All methods are scored with the same fits:

    random      every run that still fits, in random order
    cheapest    every run that still fits, in order of cost
    v_optimal   V-optimal: reduction of the variance of the target losses under the law alone, over cost^(1/3)
    ours        V-optimal with misfit of the law (chinchilla/decide/v_optimal.py)
    all         every run, without a budget

v_optimal and ours start from the cheapest runs: 2.5 per parameter of the law, or a fifth of the budget if that is
less. They use the losses of the chosen runs, but not those of the target. Because a law has several local minima,
each score is repeated with other starts. Median, mean and the 10th and 90th percentiles are over laws and repeats.
The published numbers are means obtained with another optimizer and are not directly comparable.
"""

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "bench")]

from bench_tools import (
    RESULTS,
    Arguments,
    count,
    existing_folder,
    git_commit,
    out_file,
    positive,
    provenance,
    save_json,
)

from chinchilla.decide.v_optimal import MISFIT, Posterior, kernel

URL = "https://github.com/PlanarG/active-sl"
COST_POWER = (
    1 / 3
)  # exponent of the cost by which gains are divided: 0 prefers expensive runs, 1 cheap ones
FIRST = (2.5, 0.2)  # first runs: number per parameter, and the largest share of the budget
REFIT = 3  # runs chosen between two fits
STARTS = (
    96,
    8,
)  # starts of the scored fit and of the first; of the others, in addition to the best four
# Prior of the residual variance: number of runs, and standard deviation over that of the losses.
PSEUDO_RUNS, PSEUDO_SD = 2, 0.2


@dataclass(frozen=True)
class Task:
    """Tables and columns of a task, and the results in Table 2 of the paper at 10%."""

    folder: str
    inputs: tuple[str, ...]
    loss: str
    cost: tuple[str, ...]  # the product of these columns
    published: dict[str, float]


TASKS = {
    "data_con": Task(
        "data_constrained_scaling_law", ("unique_tokens", "params", "tokens"), "loss",
        ("params", "tokens"),
        {"random": 0.12, "cheapest": -0.40, "v_optimal": 0.85, "active": 0.86, "all": 0.79},
    ),
    "moe": Task(
        "moe_scaling_law", ("num_experts", "dense_parameter_count"), "loss_validation",
        ("num_experts", "dense_parameter_count"),
        {"random": 0.26, "cheapest": 0.81, "v_optimal": 0.80, "active": 0.83, "all": 0.81},
    ),
    "farseer": Task(
        "farseer_scaling_law", ("N", "D"), "loss", ("N", "D"),
        {"random": 0.79, "cheapest": 0.68, "v_optimal": 0.92, "active": 0.93, "all": 0.91},
    ),
}  # fmt: skip
METHODS = ("random", "cheapest", "v_optimal", "ours", "all")


@dataclass(frozen=True)
class Runs:
    """Inputs (n, d), losses (n,) and costs (n,) of runs."""

    X: np.ndarray
    y: np.ndarray
    cost: np.ndarray


class Law:
    """A law of the benchmark in parameters u: ln(theta) if its bounds are positive, else theta."""

    def __init__(self, function: Callable[..., Any], bounds: list[tuple[float, float]]) -> None:
        low, high = np.array(bounds, float).T
        self._function, self._log = function, low > 0
        self.low, self.high = (np.where(self._log, np.log(np.where(self._log, x, 1)), x)
                               for x in (low, high))  # fmt: skip
        self.n_params = len(low)

    def __call__(self, u: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses (k, n) and their derivatives by u (k, n, p) at u (k, p)."""
        theta = np.where(self._log, np.exp(np.where(self._log, u, 0.0)), u)
        with np.errstate(all="ignore"):
            y, J = self._function(theta, X, backend="numpy")
        scale = np.where(self._log, theta, 1.0)[:, None, :]
        return y.reshape(len(u), len(X)), J.reshape(len(u), len(X), -1) * scale

    def starts(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """(n, p) starts, uniform inside the bounds; wide bounds about zero cover all orders of magnitude."""
        u = rng.uniform(self.low, self.high, (n, self.n_params))
        wide = ~self._log & (self.high - self.low > 100)
        return np.where(wide, u * 10.0 ** rng.uniform(-6, 0, u.shape), u)


def fit(law: Law, X: np.ndarray, y: np.ndarray, u: np.ndarray, steps: int):
    """Least squares inside the bounds by Levenberg-Marquardt, from all starts at once.

    Args:
        law: p parameters.
        X: (n, d) inputs.
        y: (n,) losses.
        u: (k, p) starts.
        steps: iterations.

    Returns:
        (k, p) parameters and (k,) sums of squares, the best first.
    """
    u = np.clip(u, law.low, law.high)
    damping, diagonal = np.full(len(u), 1e-2), np.arange(law.n_params)
    r, J, f = _residuals(law, X, y, u)
    for _ in range(steps):
        H, g = J.transpose(0, 2, 1) @ J, (J.transpose(0, 2, 1) @ r[:, :, None])[:, :, 0]
        held = ((u <= law.low) & (g > 0)) | ((u >= law.high) & (g < 0))
        H = np.where(held[:, :, None] | held[:, None, :], 0.0, H)
        d = np.einsum("kii->ki", H)
        floor = 1e-12 * d.max(1, keepdims=True) + 1e-300
        H[:, diagonal, diagonal] += damping[:, None] * d + floor + held
        step = np.linalg.solve(H, np.where(held, 0.0, -g)[:, :, None])[:, :, 0]
        tried = np.clip(u + step, law.low, law.high)
        new = _residuals(law, X, y, tried)
        better = new[2] < f
        u = np.where(better[:, None], tried, u)
        r = np.where(better[:, None], new[0], r)
        J = np.where(better[:, None, None], new[1], J)
        f = np.where(better, new[2], f)
        damping = np.clip(np.where(better, 0.3 * damping, 4 * damping), 1e-12, 1e12)
        if (damping > 1e6).all():
            break
    order = np.argsort(f)
    return u[order], f[order]


def _residuals(law: Law, X: np.ndarray, y: np.ndarray, u: np.ndarray):
    """Residuals, derivatives and sums of squares, which are infinite if a value is not finite."""
    predicted, J = law(u, X)
    r = predicted - y
    f = (r**2).sum(1)
    bad = ~np.isfinite(f) | ~np.isfinite(J).all((1, 2))
    keep = ~bad[:, None]
    return np.where(keep, r, 0.0), np.where(keep[:, None], J, 0.0), np.where(bad, np.inf, f)


def choose(
    method: str, law: Law, runs: Runs, target: np.ndarray, budget: float, rng: np.random.Generator
) -> np.ndarray:
    """Indices of the runs that a method chooses within a budget.

    Args:
        method: one of METHODS.
        law: law that will be fitted.
        runs: runs that may be chosen.
        target: (t, d) inputs of the target.
        budget: largest total cost.
        rng: generator of random orders and starts.
    """
    order = np.argsort(runs.cost, kind="stable")
    if method == "all":
        return order
    if method in ("random", "cheapest"):
        return _filled(rng.permutation(order) if method == "random" else order, runs.cost, budget)
    first = _filled(order, runs.cost, FIRST[1] * budget)[: int(FIRST[0] * law.n_params)]
    chosen, Z = list(first), coordinates(np.log(np.vstack([runs.X, target])))
    u, f = fit(law, runs.X[chosen], runs.y[chosen], law.starts(rng, STARTS[0]), 60)
    while True:
        left = budget * (1 + 1e-9) - runs.cost[chosen].sum()
        affordable = np.setdiff1d(np.flatnonzero(runs.cost <= left), chosen)
        if not len(affordable):
            return np.array(chosen)
        prior = PSEUDO_RUNS * (PSEUDO_SD * runs.y[chosen].std()) ** 2
        variance = (prior + f[0]) / (PSEUDO_RUNS + len(chosen))
        misfit = MISFIT if method == "ours" else 0.0
        posterior = _prior_of(law, u[0], runs.X, target, Z, variance, misfit)
        posterior.measure(np.array(chosen))
        gain = posterior.gain()[affordable] / runs.cost[affordable] ** COST_POWER
        chosen.append(int(affordable[np.argmax(gain)]))
        if (len(chosen) - len(first)) % REFIT == 0:
            starts = np.vstack([u[:4], law.starts(rng, STARTS[1])])
            u, f = fit(law, runs.X[chosen], runs.y[chosen], starts, 25)


def coordinates(log_x: np.ndarray) -> np.ndarray:
    """(n, d) ln x of all places and targets, each column scaled to standard deviation 1."""
    sd = log_x.std(axis=0)
    return log_x / np.where(sd > 0, sd, 1.0)


def _filled(order: np.ndarray, cost: np.ndarray, budget: float) -> np.ndarray:
    """The runs in this order that still fit in the budget."""
    chosen, left = [], budget
    for i in order:
        if cost[i] <= left:
            chosen.append(i)
            left -= cost[i]
    return np.array(chosen, int)


def _prior_of(
    law: Law,
    u: np.ndarray,
    X: np.ndarray,
    target: np.ndarray,
    Z: np.ndarray,
    variance: float,
    misfit: float,
) -> Posterior:
    """Distribution of all losses before any is measured; the bounds are two sd of u from their middle."""
    sd = (law.high - law.low) / 4
    J, target_J = (np.nan_to_num(law(u[None], x)[1][0]) * sd for x in (X, target))
    places, targets = Z[: len(X)], Z[len(X) :]
    return Posterior(
        J, places, target_J, kernel(targets, places), np.ones(len(target)),
        (1 - misfit) * variance, misfit * variance, np.ones(len(X)),
    )  # fmt: skip


def r_squared(y: np.ndarray, predicted: np.ndarray) -> float:
    """R2, clipped at -1 as in the benchmark; -1 if a prediction is not finite."""
    if not np.isfinite(predicted).all():
        return -1.0
    return float(max(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum(), -1.0))


def load(folder: Path, task: Task) -> tuple[Runs, Runs, dict[str, Law]]:
    """Runs that may be chosen, target runs, and laws of a task."""
    import pyarrow.parquet as parquet

    def read(split: str) -> Runs:
        path = folder / "benchmark" / "dataset" / task.folder / f"{split}-00000-of-00001.parquet"
        table = parquet.read_table(path).to_pydict()
        column = {name: np.array(values) for name, values in table.items()}
        X = np.stack([column[name] for name in task.inputs], axis=1).astype(float)
        cost = np.prod([column[name].astype(float) for name in task.cost], axis=0)
        return Runs(X, column[task.loss].astype(float), cost)

    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = importlib.import_module(f"benchmark.dataset.{task.folder}.laws")
    laws = {
        name: Law(function, module.PARAM_BOUNDS[name])
        for name, function in module.LAW_REGISTRY.items()
    }
    return read("train"), read("test"), laws


def missing(folder: Path, name: str) -> str:
    """Reason why a task cannot be scored, or ""."""
    if importlib.util.find_spec("pyarrow") is None:
        return f"{name}: left out, pyarrow is not installed. pip install pyarrow."
    place = folder / "benchmark" / "dataset" / TASKS[name].folder
    for file in ("laws.py", "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
        if not (place / file).exists():
            return f"{name}: left out, {place / file} is missing. git clone {URL} {folder}"
    return ""


def score(folder: Path, name: str, n_seeds: int, share: float) -> dict[str, Any]:
    """Score every method on one task."""
    runs, target, laws = load(folder, TASKS[name])
    budget, methods = share * float(runs.cost.sum()), {}
    for method in METHODS:
        started = time.process_time()
        scores = {law_name: [] for law_name in laws}
        sizes, spent = [], []
        for law_name, law in laws.items():
            for seed in range(n_seeds):
                rng = np.random.default_rng(seed)
                chosen = choose(method, law, runs, target.X, budget, rng)
                starts = law.starts(rng, STARTS[0])
                u, _ = fit(law, runs.X[chosen], runs.y[chosen], starts, 150)
                scores[law_name].append(r_squared(target.y, law(u[:1], target.X)[0][0]))
                sizes.append(len(chosen))
                spent.append(runs.cost[chosen].sum() / runs.cost.sum())
        values = np.array(list(scores.values()))
        p10, median, p90 = np.percentile(values, (10, 50, 90))
        methods[method] = {
            "median": float(median), "p10": float(p10), "p90": float(p90),
            "mean": float(values.mean()), "sd_of_repeats": float(values.std(axis=1).mean()),
            "median_by_law": {k: float(np.median(x)) for k, x in scores.items()},
            "n_runs": float(np.median(sizes)), "spent": float(np.median(spent)),
            "cpu_seconds": round(time.process_time() - started, 1),
        }  # fmt: skip
        print(f"{name} {method}: median {median:.3f}, mean {values.mean():.3f}", file=sys.stderr)
    return {
        "runs": len(runs.y), "target_runs": len(target.y), "laws": len(laws),
        "methods": methods, "published_means_at_10_percent": TASKS[name].published,
    }  # fmt: skip


def table(tasks: dict[str, Any]) -> str:
    """Scores as a Markdown table."""
    lines = [
        "| task | method | runs | R2: median (10-90%) | mean | published mean |",
        "|---" * 6 + "|",
    ]
    for name, task in tasks.items():
        published = task["published_means_at_10_percent"]
        for method, s in task["methods"].items():
            reference = published.get("active" if method == "ours" else method)
            lines.append(
                f"| {name} | {method} | {s['n_runs']:.0f} | {s['median']:.2f} ({s['p10']:.2f}-{s['p90']:.2f}) "
                f"| {s['mean']:.2f} | {reference:.2f}{' (its own selection)' if method == 'ours' else ''} |"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = Arguments(__doc__)
    parser.add_argument("folder", type=existing_folder, help=f"a checkout of {URL}")
    parser.add_argument("--tasks", default="data_con,moe,farseer", help="separated by commas")
    parser.add_argument("--seeds", type=count, default=5, help="repeats of each law")
    parser.add_argument(
        "--budget", type=positive, default=0.1, help="share of the cost of all runs"
    )
    parser.add_argument("--out", type=out_file, default=RESULTS / "design.json")
    args = parser.parse_args(arguments)
    names = args.tasks.split(",")
    if unknown := [name for name in names if name not in TASKS]:
        parser.error(f"--tasks: there is no task {unknown[0]!r}. Choose from {','.join(TASKS)}.")
    if args.budget > 1:
        parser.error(f"--budget: {args.budget:g} is more than all runs cost. Give 1 or less.")
    folder = args.folder.resolve()
    absent = {name: why for name in names if (why := missing(folder, name))}
    for why in absent.values():
        print(why, file=sys.stderr)
    if len(absent) == len(names):
        print("nothing is left to score.", file=sys.stderr)
        return 1
    tasks = {
        name: score(folder, name, args.seeds, args.budget) for name in names if name not in absent
    }
    record = {
        **provenance(),
        "tables": {"url": URL, "commit": git_commit(folder)},
        "budget": args.budget,
        "repeats": args.seeds,
        "left_out": absent,
        "tasks": tasks,
    }
    save_json(args.out, record)
    print(table(tasks))
    return 0


if __name__ == "__main__":
    sys.exit(main())

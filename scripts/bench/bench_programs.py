"""One measurement of bench_fits.py: the fit of one program to given points in its own process.

    PYTHON scripts/bench/bench_programs.py PROGRAM NAME FOLDER POINTS.json OUT.json

PROGRAM and NAME identify a task of TASKS, and FOLDER contains the program. The script runs under the Python of that
program and uses this package only for PROGRAM=ours. CPU seconds include child processes; imports and preparation are
measured separately.
"""

import contextlib
import csv
import json
import math
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from bench_tools import Arguments, cpu_seconds, existing_folder, json_file, out_file

DELTA = 1e-3  # Huber width in log-loss (section 3.3)
N_RESAMPLES = 4000
Found = dict[str, Any]
Work = Callable[[], Found]


@dataclass(frozen=True)
class Task:
    """One measurement."""

    program: str  # ours, or a key of PEERS
    name: str
    kind: str  # point: approach 3; resamples: its intervals; isoflop: approach 2 with intervals
    what: str
    minimises: str = "sum of Huber(1e-3) on log-loss"
    slow: bool = False  # takes over a minute, so it runs once
    share: float = 1.0  # of the task that is run; the time is divided by it


MSE = "mean square of linear loss"
LINEAR = "mean of Huber(1e-3) on linear loss"
TASKS = [
    Task("ours", "fit", "point", "fit_loss_law"),
    Task("ours", "search", "point", "L-BFGS from the paper's 4500 starts, tight", slow=True),
    Task("epoch", "grid", "point", "cell `Replicate exactly`: L-BFGS-B from the 4500 starts",
         slow=True),
    Task("epoch", "headline", "point", "the cell that gives its published constants: BFGS from one start",
         "likelihood of Huber with a free scale"),
    Task("kyo", "default", "point", "Chinchilla.fit, README's grid of 3125 starts, BFGS",
         "mean of asymmetric absolute error of linear loss", slow=True),
    Task("kyo", "log_huber", "point", "the same with its log_huber(delta=1e-3)",
         "mean of Huber(1e-3) on log-loss", slow=True),
    Task("vpnls", "default", "point", "fit_vpnls with its defaults: grid of 0.01", MSE),
    Task("vpnls", "readme", "point", "README's real-data call: grid of 0.01", LINEAR),
    Task("vpnls", "fine", "point", "the same, grid of 0.001", LINEAR),
    Task("vpnls", "scipy", "point", "the same, method=scipy", LINEAR),
    Task("ours", "refits", "resamples", "refit_loss_law of 4000 resamples"),
    Task("ours", "intervals", "resamples", "fit_parametric(n_bootstrap=4000), whole"),
    Task("epoch", "resamples", "resamples", "its bootstrap cell: 4000, BFGS from one start each",
         slow=True),
    Task("vpnls", "resamples", "resamples", "README's call on 50 resamples, times 80; it has no bootstrap",
         LINEAR, share=1 / 80),
    Task("ours", "isoflop", "isoflop", "fit_isoflop(n_bootstrap=1000): exact shape, wild", ""),
    Task("ours", "parabola", "isoflop", "the same with profile=parabola", ""),
    Task("formll", "isoflop", "isoflop",
         "interp_flop (Akima, 1000 noise draws) and fit_compute_optimal_power_laws", ""),
]  # fmt: skip


def ours(folder: Path, points: Found, name: str) -> Work:
    """This package, from its checkout."""
    sys.path.insert(0, str(folder))
    from chinchilla.fit import bootstrap, fit_isoflop, fit_parametric
    from chinchilla.fit.parametric.paper_search import search
    from chinchilla.fit.parametric.solver import fit_loss_law, refit_loss_law
    from chinchilla.observations.table import Observations

    obs = Observations.of(**points, flop_convention="six_nd")
    if name in ("isoflop", "parabola"):
        import numpy as np

        obs = obs.where(np.isfinite(obs.budget_flops))
    N, D, L = obs.N, obs.D, obs.L

    def fit() -> Found:
        law, certificate = fit_loss_law(N, D, L)
        starts = {"n_starts": certificate["n_starts"], "n_success": certificate["n_converged"]}
        predicted = certificate["predicted_relative_decrease"]
        return {**_constants(law), **starts, "predicted_relative_decrease": predicted}

    def search_paper() -> Found:
        result = search(N, D, L)
        return {
            **_constants(result.law),
            **_starts(result.said_success, result.iterations),
            "share_of_starts_at_best": result.share_at_best,
        }

    def refits() -> Found:
        counts = bootstrap.draw_counts(len(obs), N_RESAMPLES, 0)
        laws = refit_loss_law(N, D, L, counts, fit_loss_law(N, D, L)[0])
        return {"share_certified": float(laws.converged.mean()), **_spread(laws.theta)}

    def intervals() -> Found:
        fit = fit_parametric(obs, n_bootstrap=N_RESAMPLES)
        assert fit.N_opt.samples
        return _exponents(fit.N_opt.exponent, fit.N_opt.samples[1])

    def isoflop() -> Found:
        shape = "parabola" if name == "parabola" else "exact"
        fit = fit_isoflop(obs, profile=shape, n_bootstrap=1000)
        assert fit.N_opt.ci95
        return {"a": fit.N_opt.exponent, "a_ci95": fit.N_opt.ci95, "n_budgets": len(fit.points)}

    chosen = {"fit": fit, "search": search_paper, "refits": refits, "intervals": intervals}
    return chosen.get(name, isoflop)


def epoch(folder: Path, points: Found, name: str) -> Work:
    """Besiroglu et al. (2024): cells of their notebook."""
    import numpy as np
    import pandas as pd
    from autograd import grad
    from scipy import optimize

    notebook = json.loads((folder / "data_analysis.ipynb").read_text(encoding="utf-8"))
    columns = {"Model Size": "N", "Training Tokens": "D", "Training FLOP": "C", "loss": "L"}
    frame = pd.DataFrame({theirs: points[own] for theirs, own in columns.items()})
    names = {"training_df": frame, "nr_of_models_excluded": 0, "np": np, "grad": grad}
    for definitions in ("random_indices = ", "def huber_loss_objective"):
        exec(cell_with(notebook, definitions), names)
    marks = {
        "grid": "product(alpha_vals, beta_vals, e_vals, a_vals, b_vals)",
        "headline": "init_params = list(true_params) + [0]",
        "resamples": "in enumerate(random_indices)",
    }
    cell = cell_with(notebook, marks[name])
    drawn = np.array(names["random_indices"])

    def work() -> Found:
        with recorded_minimize() as ends, np.errstate(over="ignore", invalid="ignore"):
            names["minimize"] = optimize.minimize  # an earlier cell imported the original
            exec(cell, names)
        if name == "resamples":
            theta = np.array(names["param_list"])
            A, B, E = np.exp(theta[:, :3].T)
            laws = np.column_stack([E, A, B, theta[:, 3:]])
            starts = _starts([s for s, _, _ in ends], [n for _, n, _ in ends])
            return {"laws": laws.tolist(), "drawn": drawn.tolist(), **_spread(laws), **starts}
        a, b, e, alpha, beta = (names["best_params"] if name == "grid" else names["result"].x)[:5]
        A, B, E = map(float, np.exp([a, b, e]))
        law = {"E": E, "A": A, "B": B, "alpha": float(alpha), "beta": float(beta)}
        return {**law, **_search_summary(ends)}

    return work


def kyo(folder: Path, points: Found, name: str) -> Work:
    """kyo-takano/chinchilla, which has the same import name as this package."""
    import numpy as np

    sys.path.insert(0, str(folder))
    chinchilla = import_module("chinchilla")
    assert Path(str(chinchilla.__file__)).is_relative_to(folder), chinchilla.__file__
    log_huber = import_module("chinchilla._metrics").log_huber
    grid: Found = {"E": np.linspace(1, 2, 5)}
    grid |= {key: np.linspace(1, 10, 5) for key in ("a", "b")}
    grid |= {key: np.linspace(0.1, 0.7, 5) for key in ("alpha", "beta")}
    project = tempfile.mkdtemp()
    with open(Path(project, "df.csv"), "w", newline="") as f:
        rows = zip(*(points[key] for key in "CNDL"), strict=True)
        csv.writer(f).writerows([("C", "N", "D", "loss"), *rows])
    own = {"loss_fn": lambda y, y_hat: log_huber(y, y_hat, DELTA)} if name == "log_huber" else {}
    model = chinchilla.Chinchilla(project, param_grid=grid, log_level=100, **own)
    model.visualizer.optim = lambda *args, **kwargs: None  # its figure is not part of the fit

    def work() -> Found:
        with recorded_minimize() as ends:
            model.fit(parallel=False)
        return {**{key: float(x) for key, x in model.params.items()}, **_search_summary(ends)}

    return work


def vpnls(folder: Path, points: Found, name: str) -> Work:
    """Czech et al. (2026); its README divides N by 1e6 and D by 1e9."""
    import numpy as np

    sys.path.insert(0, str(folder / "src"))
    api = import_module("vpnls.api")
    N, D, L = (np.array(points[key]) for key in "NDL")
    options = {
        "default": {},
        "fine": {"loss": api.huber(DELTA), "resolution": 0.001},
        "scipy": {"loss": api.huber(DELTA), "method": "scipy"},
    }.get(name, {"loss": api.huber(DELTA), "resolution": 0.01})
    units = (1.0, 1.0) if name == "default" else (1e6, 1e9)
    rows = np.random.default_rng(0).integers(0, len(L), (N_RESAMPLES // 80, len(L)))

    def fit(at: Any) -> Any:
        return api.fit_vpnls(N[at] / units[0], D[at] / units[1], L[at], **options)

    def work() -> Found:
        if name == "resamples":
            fits = [fit(at) for at in rows]
            return {
                "a_se": float(np.std([x.a for x in fits])),
                "n_resamples": len(fits),
                "share_success": float(np.mean([x.status.value == "converged" for x in fits])),
            }
        law = fit(slice(None))
        return {
            "E": law.E,
            "A": law.A * units[0] ** law.alpha,
            "B": law.B * units[1] ** law.beta,
            "alpha": law.alpha,
            "beta": law.beta,
            "status": law.status.value,
        }

    return work


def formll(folder: Path, points: Found, name: str) -> Work:
    """Porian et al. (2024): their estimator on one final loss per run."""
    import numpy as np
    import pandas as pd

    sys.path.insert(0, str(folder))
    analysis = import_module("analysis")
    noise = import_module("configs").RW_SEED_CONFIG
    C, N, L, budget = (np.array(points[key], float) for key in ("C", "N", "L", "budget_flops"))
    own = np.isfinite(budget)
    step_tokens = 2048.0  # one sequence: its steps are then D / 2048
    rows = [
        {"loss": pd.Series([loss], index=[c / (6 * n * step_tokens)]), "params": n, "bs": 1}
        | {"seq_len": 2048, "warmup_tokens": 0, "flops_per_token": 6 * n}
        for c, n, loss in zip(C[own], N[own], L[own], strict=True)
    ]

    def work() -> Found:
        np.random.seed(42)
        data, optima, *_ = analysis.interp_flop(
            pd.DataFrame(rows), "loss", flop_vals=np.unique(budget[own]).tolist(),
            seed_noise=noise, flop_tolerance=0.15,
        )  # fmt: skip
        fits = analysis.fit_compute_optimal_power_laws(optima, data, fit_loss=False)
        samples = [x["n_exponent"] for x in fits["bootstrap_weighted"]]
        exponents = _exponents(fits["bs_median_weighted"]["n_exponent"], samples)
        return {**exponents, "n_budgets": int(optima.n.notna().sum())}

    return work


PROGRAMS = {"ours": ours, "epoch": epoch, "kyo": kyo, "vpnls": vpnls, "formll": formll}


def cell_with(notebook: Found, mark: str) -> str:
    """Source of the first code cell that contains `mark`."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and mark in source:
            return source
    raise ValueError(f"no code cell contains {mark!r}: this is another version of the notebook.")


@contextlib.contextmanager
def recorded_minimize() -> Iterator[list[tuple[bool, int, float]]]:
    """Record SciPy's success, iterations and value of each minimisation."""
    import scipy.optimize

    original, ends = scipy.optimize.minimize, []

    def minimize(*args: Any, **kwargs: Any) -> Any:
        end = original(*args, **kwargs)
        ends.append((bool(end.success), int(end.nit), float(end.fun)))
        return end

    scipy.optimize.minimize = minimize
    try:
        yield ends
    finally:
        scipy.optimize.minimize = original


def _constants(law: Any) -> Found:
    return {key: getattr(law, key) for key in ("E", "A", "B", "alpha", "beta")}


def _search_summary(ends: list[tuple[bool, int, float]]) -> Found:
    """Summary of searches of one objective, with the share that ends at the lowest value."""
    if not ends:
        return {}
    success, iterations, values = zip(*ends, strict=True)
    lowest = min(filter(math.isfinite, values), default=math.nan)  # may be negative
    at_best = sum(v - lowest <= 1e-6 * abs(lowest) for v in values) / len(values)
    return {**_starts(success, iterations), "share_of_starts_at_best": at_best}


def _starts(success: Any, iterations: Any) -> Found:
    return {
        "n_starts": len(success),
        "n_success": int(sum(success)),
        "median_iterations": float(statistics.median(map(int, iterations))),
    }


def _exponents(a: float, samples: Any) -> Found:
    import numpy as np

    low, high = np.percentile(samples, (2.5, 97.5))
    return {"a": float(a), "a_se": float(np.std(samples)), "a_ci95": [float(low), float(high)]}


def _spread(laws: Any) -> Found:
    a = laws[:, 4] / (laws[:, 3] + laws[:, 4])
    return {k: v for k, v in _exponents(0, a).items() if k != "a"} | {"n_resamples": len(laws)}


def measure(program: str, name: str, folder: Path, points: Found) -> Found:
    """Prepare, then repeat the work for a second or five calls, at least once."""
    started = cpu_seconds()
    work = PROGRAMS[program](folder, points, name)
    spent_before = cpu_seconds() - started
    calls: list[float] = []
    while not calls or (sum(calls) < 1 and len(calls) < 5):
        started = cpu_seconds()
        result = work()
        calls.append(cpu_seconds() - started)
    versions = {
        package: metadata.version(package)
        for package in ("numpy", "scipy", "pandas")
        if package in sys.modules
    }
    return {"calls": calls, "import_seconds": spent_before, "found": result, "versions": versions}


def main() -> None:
    parser = Arguments(__doc__)
    parser.add_argument("program", metavar="PROGRAM", choices=PROGRAMS, help=", ".join(PROGRAMS))
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("folder", metavar="FOLDER", type=existing_folder)
    parser.add_argument("points", metavar="POINTS.json", type=json_file, help="N, D, C, L, budget_flops")  # fmt: skip
    parser.add_argument("out", metavar="OUT.json", type=out_file)
    options = parser.parse_args()
    names = [task.name for task in TASKS if task.program == options.program]
    if options.name not in names:
        parser.error(
            f"{options.program} has no task {options.name!r}. Give one of {', '.join(names)}."
        )
    if missing := {"N", "D", "C", "L", "budget_flops"} - options.points.keys():
        parser.error(f"POINTS.json lacks {', '.join(sorted(missing))}. Add them.")
    warnings.simplefilter("ignore")
    measured = measure(options.program, options.name, options.folder, options.points)
    options.out.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()

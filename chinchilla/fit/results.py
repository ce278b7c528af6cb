"""Results of one `chinchilla fit` by approach, and their file frontier.json.

The file is sufficient for predictions. `design`, `diagnose` and `report` also read observations.csv in the same
folder, whose SHA-256 the file holds. docs/frontier.md describes every field.
"""

import dataclasses
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chinchilla.config.checks import require_choice
from chinchilla.config.fit import APPROACHES
from chinchilla.core.errors import InputError, Refusal, nearest_path
from chinchilla.core.files.json_codec import IN_MEMORY, decode
from chinchilla.core.files.reading import TEXT_BYTES, read_json, sha256_file
from chinchilla.core.files.writing import clean_leftovers, make_dirs, write_json
from chinchilla.fit.loss_law import FlopsPerToken, is_six_nd
from chinchilla.fit.result import FitResult, RunsOf, approach_label, budgets, frame, observations_at
from chinchilla.observations.table import Observations

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from chinchilla.recommend.forecast import RecommendedModel

SCHEMA = 6
WIDTH = 100  # columns of text
FILE = "frontier.json"
RUNS = "observations.csv"  # in the same folder
MINIMA = "minima"  # the recommended approach where only losses at minima were given


@dataclass(frozen=True)
class FailedFit:
    """Reason why an approach could not be fitted: a sentence, and a word for programs."""

    reason: str
    kind: str = "unidentified"


@dataclass(frozen=True)
class FrontierFile:
    """The keys of frontier.json."""

    schema: int
    approaches: dict[str, dict[str, Any]]
    data: dict[str, Any]
    flops_per_token: FlopsPerToken | None
    command: dict[str, Any]
    recommended: dict[str, Any] | None


@dataclass(frozen=True)
class FitResults:
    """Results and refusals by approach, and a summary of the data.

    `data` holds the ranges of the runs: n_runs, [smallest, largest] of C, N, D and tokens_per_param,
    max_epochs (None if not recorded), notes about derived or excluded values, and observations_sha256
    once the runs are saved. `cost` is the FLOPs per token as a function of N; None where C = 6*N*D. If only
    losses at minima were given (`of_minima`), no approach is fitted, n_runs counts the minima, and of the
    ranges only C is known.
    """

    fitted: dict[str, FitResult]
    refused: dict[str, FailedFit]
    data: dict[str, Any]
    cost: FlopsPerToken | None = None
    command: dict[str, Any] = field(default_factory=dict)  # the settings of `chinchilla fit`
    recommended: dict[str, Any] | None = None  # chinchilla.recommend's model; None if there is none
    # The observations that were fitted, or a function that reads them.
    runs: RunsOf = field(default=None, compare=False, repr=False, metadata=IN_MEMORY)

    @classmethod
    def of(
        cls,
        fitted: Mapping[str, FitResult],
        refused: Mapping[str, FailedFit],
        obs: Observations,
        command: Mapping[str, Any] | None = None,
    ) -> "FitResults":
        """Collect fits of `obs`: final losses, or curves of which the last points are used."""
        runs, obs = obs, obs.finals()
        columns = {"C": obs.C, "N": obs.N, "D": obs.D, "tokens_per_param": obs.D / obs.N}
        data: dict[str, Any] = {"n_runs": len(obs)}
        data |= {name: [float(x.min()), float(x.max())] for name, x in columns.items()}
        known = obs.epochs[np.isfinite(obs.epochs)]
        data["max_epochs"] = float(known.max()) if len(known) else None
        data["notes"] = list(obs.notes)
        cost = None if is_six_nd(obs) else FlopsPerToken.from_observations(obs)
        return cls(dict(fitted), dict(refused), data, cost, dict(command or {}), runs=runs)

    @property
    def of_minima(self) -> bool:
        """Whether only losses at minima were given (`chinchilla fit minima=`)."""
        return self.recommended is not None and self.recommended.get("approach") == MINIMA

    @cached_property
    def recommended_model(self) -> "RecommendedModel | None":
        """`recommended`, decoded; None if no approach has a usable answer.

        Raises:
            InputError: its values are inconsistent.
        """
        from chinchilla.recommend.forecast import RecommendedModel

        if self.recommended is None:
            return None
        return RecommendedModel.from_dict(self.recommended, "frontier.json: recommended")

    def observations(self) -> Observations:
        """Return the observations that were fitted, from memory or from observations.csv.

        Raises:
            InputError: they are not known, or their file is missing or has changed since the fit.
            Refusal: only losses at minima were given.
        """
        if self.of_minima:
            raise Refusal(
                "these fits were made from losses at minima alone (minima=), but runs are needed here. Only "
                "`chinchilla predict` can use such fits. For other commands, fit the runs with "
                "observations=FILE.csv."
            )
        return observations_at(self.runs)

    def __str__(self) -> str:
        """A few lines for each approach, and one line for each refused approach."""
        return "\n".join(
            [
                *map(str, self.fitted.values()),
                *(
                    f"{approach_label(name)} refused: {r.reason}"
                    for name, r in self.refused.items()
                ),
                *(f"note: {text}" for text in self.data.get("notes", ())),
            ]
        )

    def __repr__(self) -> str:
        """The recommended answer and one line for each approach; `print` shows more."""
        lines = textwrap.wrap(self._answer(), WIDTH, subsequent_indent="  ")
        for name, f in self.fitted.items():
            exponents = f"a = {f.N_opt.exponent_text}, b = {f.D_opt.exponent_text}"
            lines.append(f"  {approach_label(name)}: {exponents}, {f.n_runs} runs")
        for name, refused in self.refused.items():
            reason = f"{approach_label(name)} refused: {refused.reason}"
            lines.append("  " + textwrap.shorten(reason, WIDTH - 2, placeholder=" ..."))
        n = sum(len(f.warnings) + len(f.refusals) for f in self.fitted.values())
        n += len(self.data.get("notes", ()))
        lines.append(
            f"  [80% intervals]; print() shows methods and {n} warnings and notes; "
            "chinchilla.diagnose() checks them"
        )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The recommended answer and a table of the approaches, for notebooks."""
        rows = [["", "runs", "a [80%]", "b [80%]", ""]]
        for name, f in self.fitted.items():
            exponents = (f.N_opt.exponent_text, f.D_opt.exponent_text)
            rows.append([approach_label(name), str(f.n_runs), *exponents, ""])
        for name, r in self.refused.items():
            rows.append([approach_label(name), "", "", "", f"refused: {r.reason}"])
        cells = ("".join(f"<td>{escape(text)}</td>" for text in row) for row in rows)
        table = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<p><b>{escape(self._answer())}</b></p><table>{table}</table>"

    def _answer(self) -> str:
        """Recommended answer in one line, or the reason why there is none."""
        from chinchilla.recommend import evaluate

        if self.recommended is None and self.fitted:
            return "These fits have no recommendation. Use chinchilla.fit to get one."
        try:
            C = evaluate.default_budget(self)
            return evaluate.headline(evaluate.recommendation(self, C))
        except Refusal as refusal:
            return f"No recommendation: {refusal}"

    @property
    def a(self) -> float:
        """Exponent of the recommended N_opt, at ten times the largest C.

        Raises:
            Refusal: no approach is recommended, or no sizes are known.
        """
        return self._exponents()[0]

    @property
    def b(self) -> float:
        """Exponent of the recommended D_opt, as `a`."""
        return self._exponents()[1]

    def _exponents(self) -> tuple[float, float]:
        from chinchilla.recommend import evaluate

        model = self.recommended_model
        if model is None or model.N is None:
            raise Refusal(
                "these fits have no recommended N_opt. See print(fits) for the reasons, or use one approach: "
                "fits.fitted['isoflop'].a."
            )
        C = evaluate.default_budget(self)
        a, x = model.N.slope(C, self.cost), model.N.log_at(C, self.cost)
        per_token = 1.0 if self.cost is None else float(self.cost.trend_and_slope(np.array(x))[1])
        return a, 1 - a * per_token

    def N_opt(self, C: Any) -> Any:
        """Recommended parameters at C training FLOPs, of the shape of C.

        Raises:
            Refusal: as `chinchilla.recommendation`.
        """
        from chinchilla.recommend.evaluate import recommendation

        N = np.array([recommendation(self, c).N for c in budgets(C)], float)  # None becomes NaN
        return N.reshape(np.shape(C)) if np.ndim(C) else float(N[0])

    def predict(self, C: Any) -> "DataFrame":
        """Recommended answer at C training FLOPs, a number or a list; one row each.

        Columns are C, N, D, D/N, L, the bounds of the 80% intervals (N_low, N_high, D_low, D_high, L_low,
        L_high), approach, beyond (C over the largest C of the runs) and range_only (C is so far from
        the runs that only the bounds are meaningful).

        Args:
            C: training FLOPs, counted as the runs count them.

        Raises:
            Refusal: as `chinchilla.recommendation`.
            InputError: C is not positive, or pandas is not installed.
        """
        from chinchilla.recommend.evaluate import recommendation

        rows = []
        for c in budgets(C):
            r = recommendation(self, c)
            row: dict[str, Any] = {"C": c, "N": r.N, "D": r.D, "D/N": r.ratio, "L": r.L}
            for name in "NDL":
                bounds = getattr(r, f"{name}_interval80") or (None, None)
                row[f"{name}_low"], row[f"{name}_high"] = bounds
            row |= {"approach": r.approach, "beyond": r.beyond, "range_only": r.range_only}
            rows.append(row)
        return frame(rows)

    def plot(self, ax: "Axes | None" = None, quantity: Literal["N", "D"] = "N") -> "Axes":
        """Plot N_opt or D_opt against C: the recommended answer with its 80% band, and each approach."""
        from chinchilla.plots.results import plot_fits

        return plot_fits(self, ax, quantity)

    def plot_residuals(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the residuals of the recommended approach, see `FitResult.plot_residuals`."""
        from chinchilla.plots.results import plot_fits_residuals

        return plot_fits_residuals(self, ax)

    def save(self, path: Path | str) -> None:
        """Write frontier.json to a path that ends in .json, or a folder with it and observations.csv."""
        path, data = Path(path), self.data
        if path.suffix != ".json":
            make_dirs(path)
            clean_leftovers(path)
            self.observations().save(path / RUNS)
            data = {**data, "observations_sha256": sha256_file(path / RUNS)}
            path = path / FILE
        write_json(path, {**self.to_dict(), "data": data})

    def to_dict(self) -> dict[str, Any]:
        """The keys of frontier.json, without the hash of a file of runs."""
        approaches: dict[str, Any] = {}
        for name, f in self.fitted.items():
            record = dataclasses.asdict(dataclasses.replace(f, runs=None))
            del record["runs"]
            approaches[name] = {"status": "fitted", "reason": "", **record}
        for name, r in self.refused.items():
            approaches[name] = {"status": "refused", **dataclasses.asdict(r)}
        file = FrontierFile(
            SCHEMA, approaches, self.data, self.cost, self.command, self.recommended
        )
        return dataclasses.asdict(file)

    @classmethod
    def load(cls, path: Path | str) -> "FitResults":
        """Read frontier.json, or the one in a folder.

        Raises:
            InputError: it is missing, of another version, incomplete, or holds values of a wrong type.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE
        if not path.exists():
            raise InputError(
                f"{path} does not exist.{nearest_path(path)} Make it with `chinchilla fit`."
            )
        file: FrontierFile = decode(
            FrontierFile, read_json(path, "fits", TEXT_BYTES), str(path), SCHEMA
        )
        data = file.data
        for name in ("C", "N", "D", "tokens_per_param"):
            ends = decode(list[float] | None, data.get(name), f"{path}: data.{name}")
            if len(ends or ()) != 2 and (name == "C" or ends is not None):
                raise InputError(f"{path}: data.{name} must be the smallest and the largest value.")
        decode(int, data.get("n_runs"), f"{path}: data.n_runs")
        decode(float | None, data.get("max_epochs"), f"{path}: data.max_epochs")
        decode(list[str], data.get("notes"), f"{path}: data.notes")
        runs = partial(_runs_in, path.parent, str(data.get("observations_sha256", "")))
        fitted, refused = {}, {}
        for name, record in file.approaches.items():
            where, status = f"{path}: {name}", record.pop("status", None)
            require_choice(f"{path}: approaches", name, APPROACHES)
            require_choice(f"{where}.status", status, ("fitted", "refused"))
            if status == "refused":
                refused[name] = decode(FailedFit, record, where)
                continue
            record.pop("reason", None)
            result = decode(FitResult, record, where)
            if reason := invalid(result):
                raise InputError(f"{where}: {reason}. Run `chinchilla fit` again.")
            fitted[name] = dataclasses.replace(result, runs=runs)
        results = cls(
            fitted, refused, data, file.flops_per_token, file.command, file.recommended, runs
        )
        if not file.approaches and not results.of_minima:
            raise InputError(f"{path}: approaches is empty. Run `chinchilla fit` again.")
        return results


def invalid(result: FitResult) -> str:
    """The first value of a result that no approach can produce, or ""."""
    laws = {"N_opt": result.N_opt, "D_opt": result.D_opt}
    positive = {f"{name}.coefficient": law.coefficient for name, law in laws.items()}
    if result.law is not None:
        names = ("A", "B", "alpha", "beta")
        positive |= {f"law.{name}": getattr(result.law, name) for name in names}
    for point in result.points:
        positive |= {f"points.{name}": getattr(point, name) for name in "CNDL"}
    for name, x in positive.items():
        if not 0 < x < math.inf:
            return f"{name} is not positive and finite"
    rows = [(f"{name}.samples", law.samples, 2) for name, law in laws.items()]
    for name, samples, n in [*rows, ("law_samples", result.law_samples, 5)]:
        if samples and (len(samples) != n or len({len(row) for row in samples}) > 1):
            return f"{name} must be {n} rows of equal length"
    return ""


def _runs_in(folder: Path, sha256: str) -> Observations:
    """Read observations.csv of a folder; check its SHA-256 if one is given."""
    path = folder / RUNS
    if not path.exists():
        raise InputError(
            f"{path} does not exist, and the runs that {FILE} was fitted to are needed here. "
            "Run `chinchilla fit` again, or give the folder that it wrote."
        )
    if sha256 not in ("", sha256_file(path)):
        raise InputError(
            f"{path} is not the table that the {FILE} beside it was fitted to (another SHA-256). Restore that "
            "table, or run `chinchilla fit` again."
        )
    return Observations.from_csv(path)

"""What one `chinchilla fit` found, by approach, and its file frontier.json.

For predictions the file stands alone. What looks at the runs again (design, diagnose, report) reads
observations.csv beside it, whose SHA-256 the file holds (`FitResults.runs_beside`). docs/frontier.md describes
every field. NumPy only: this module must import without torch.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chinchilla.config.checks import require_choice
from chinchilla.config.fit import APPROACHES
from chinchilla.core.errors import InputError, Refusal
from chinchilla.core.files import read_json, sha256_file, write_json
from chinchilla.core.json_codec import IN_MEMORY, built
from chinchilla.fit.impossible import impossible
from chinchilla.fit.loss_law import FlopsPerToken, is_six_nd
from chinchilla.fit.result import FitResult, RunsOf, called, observations_at
from chinchilla.observations.table import Observations

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

SCHEMA = 3
FILE = "frontier.json"
RUNS = "observations.csv"  # beside it
MINIMA = "minima"  # the recommended approach where losses at minima alone were given


@dataclass(frozen=True)
class FailedFit:
    """Why an approach cannot answer: a sentence for people, a word for programs."""

    reason: str
    kind: str = "unidentified"


@dataclass(frozen=True)
class FitResults:
    """Frontiers and refusals by approach, and what they stand on.

    `data` says what the runs cover: n_runs, [smallest, largest] of C, N, D and tokens_per_param,
    max_epochs (None where not recorded), notes of what was derived or left out, and observations_sha256 once the runs were saved.
    `cost` is their FLOPs per token as a function of N; None where C = 6*N*D. Of losses at minima alone
    (`of_minima`) no approach is fitted, n_runs counts the minima, and only C of the ranges is known.
    """

    fitted: dict[str, FitResult]
    refused: dict[str, FailedFit]
    data: dict[str, Any]
    cost: FlopsPerToken | None = None
    command: dict[str, Any] = field(default_factory=dict)  # what `chinchilla fit` was told
    recommended: dict[str, Any] | None = None  # chinchilla.recommend's model; None: nothing is
    # The observations that were fitted; of fits read from a file, a function that reads them.
    runs: RunsOf = field(default=None, compare=False, repr=False, metadata=IN_MEMORY)

    @classmethod
    def of(
        cls,
        fitted: Mapping[str, FitResult],
        refused: Mapping[str, FailedFit],
        obs: Observations,
        command: Mapping[str, Any] | None = None,
    ) -> "FitResults":
        """The record of fits of `obs`: final losses, or curves of which the last points are used."""
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
        """Whether they were made from losses at minima alone (`chinchilla fit minima=`)."""
        return self.recommended is not None and self.recommended.get("approach") == MINIMA

    def need_runs(self, where: Path | str) -> None:
        """Refuse fits that have no runs.

        Args:
            where: the folder or file, for the message.

        Raises:
            Refusal: they were made from losses at minima alone.
        """
        if self.of_minima:
            raise Refusal(
                f"{where} was made from losses at minima alone (minima=), without runs, and runs are "
                "needed here. Only `chinchilla predict` answers from it; for the rest fit the runs, "
                "observations=FILE.csv."
            )

    def with_runs(self, path: Path) -> "FitResults":
        """These fits, tied to the table that their runs were saved as."""
        return dataclasses.replace(
            self, data={**self.data, "observations_sha256": sha256_file(path)}
        )

    def runs_beside(self, frontier: Path) -> Observations:
        """The runs that were fitted: observations.csv beside frontier.json.

        Args:
            frontier: frontier.json, or its folder.

        Raises:
            InputError: missing, or another table than the fits were made from.
            Refusal: they were made from losses at minima alone.
        """
        self.need_runs(frontier)
        folder = frontier if frontier.is_dir() else frontier.parent
        return _runs_in(folder, str(self.data.get("observations_sha256", "")))

    def observations(self) -> Observations:
        """The observations that were fitted: in memory, or observations.csv beside the file.

        Raises:
            InputError: these fits were made without them, or as `runs_beside`.
        """
        return observations_at(self.runs)

    def __str__(self) -> str:
        """All that people may want: a few lines an approach, and a line for one that cannot answer."""
        return "\n".join(
            [
                *map(str, self.fitted.values()),
                *(f"{called(name)} refused: {r.reason}" for name, r in self.refused.items()),
                *(f"note: {text}" for text in self.data.get("notes", ())),
            ]
        )

    def __repr__(self) -> str:
        """A few lines, headed by the recommended answer; `print` shows more of each approach."""
        from chinchilla.fit.display import fits_text

        return fits_text(self)

    def _repr_html_(self) -> str:
        from chinchilla.fit.display import fits_html

        return fits_html(self)

    @property
    def a(self) -> float:
        """Exponent of the recommended N_opt, at ten times the largest C.

        Raises:
            Refusal: no approach is recommended, or no sizes are known.
        """
        from chinchilla.fit.display import exponents

        return exponents(self)[0]

    @property
    def b(self) -> float:
        """Exponent of the recommended D_opt, as `a`."""
        from chinchilla.fit.display import exponents

        return exponents(self)[1]

    def N_opt(self, C: Any) -> Any:
        """The recommended parameters at C training FLOPs, of the shape of C.

        Raises:
            Refusal: as `chinchilla.recommendation`.
        """
        from chinchilla.fit.display import sizes

        return sizes(self, C)

    def to_frame(self) -> "DataFrame":
        """One row per approach: exponents with 80% intervals, the law, or why it was refused.

        Raises:
            InputError: pandas is not installed.
        """
        from chinchilla.fit.display import fits_frame

        return fits_frame(self)

    def predict(self, C: Any, force: bool = False) -> "DataFrame":
        """The recommended answer at C training FLOPs, a number or a list: one row each.

        Columns C, N, D, D/N, L, the bounds of the 80% intervals (N_low, N_high, D_low, D_high, L_low,
        L_high), approach, beyond (C over the largest C of the runs) and range_only: whether C lies so
        far from the runs that only the bounds mean something.

        Args:
            C: training FLOPs, counted as the runs count them.
            force: whether to answer a million times beyond the data and more.

        Raises:
            Refusal: as `chinchilla.recommendation`.
            InputError: C is not positive, or pandas is not installed.
        """
        from chinchilla.fit.display import fits_predictions

        return fits_predictions(self, C, force)

    def plot(self, ax: "Axes | None" = None, quantity: Literal["N", "D"] = "N") -> "Axes":
        """N_opt (or D_opt) against C: the recommended answer with its 80% band, and each approach.

        Args:
            ax: where to draw; None makes a new figure.
            quantity: N or D.
        """
        from chinchilla.plots.results import plot_fits

        return plot_fits(self, ax, quantity)

    def plot_residuals(self, ax: "Axes | None" = None) -> "Axes":
        """What the recommended approach leaves unexplained, see `FitResult.plot_residuals`.

        Args:
            ax: where to draw; None makes a new figure.
        """
        from chinchilla.plots.results import plot_fits_residuals

        return plot_fits_residuals(self, ax)

    def save(self, path: Path | str) -> None:
        """Write frontier.json to a path that ends in .json; or a folder with it and observations.csv.

        A folder can be loaded, diagnosed and reported without the runs at hand, as the folder that
        `chinchilla fit` writes. It is made if need be.
        """
        path = Path(path)
        if path.suffix != ".json":
            path.mkdir(parents=True, exist_ok=True)
            self.observations().save(path / RUNS)  # first: frontier.json holds its SHA-256
            self.with_runs(path / RUNS).save(path / FILE)
            return
        approaches: dict[str, Any] = {
            name: {"status": "fitted", "reason": "", **f.to_dict()}
            for name, f in self.fitted.items()
        }
        for name, r in self.refused.items():
            approaches[name] = {"status": "refused", **dataclasses.asdict(r)}
        value = {
            "schema": SCHEMA,
            "approaches": approaches,
            "data": self.data,
            "flops_per_token": None if self.cost is None else dataclasses.asdict(self.cost),
            "command": self.command,
            "recommended": self.recommended,
        }
        write_json(path, value)

    @classmethod
    def load(cls, path: Path | str) -> "FitResults":
        """Read frontier.json, or the one in a folder.

        Raises:
            InputError: missing, not written by this version's `chinchilla fit`, or edited into what no
                fit could be, naming the field.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE
        if not path.exists():
            raise InputError(f"{path} does not exist. Make it with `chinchilla fit`.")
        value = read_json(path, "fits")
        where = str(path)
        wanted = ("schema", "approaches", "data", "flops_per_token", "command", "recommended")
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise InputError(f"{path} was not written by this version's `chinchilla fit`.")
        if missing := [name for name in wanted if name not in value]:
            raise InputError(f"{path}: no {', '.join(missing)}. Run `chinchilla fit` again.")
        fitted, refused = {}, {}
        records = built(dict[str, dict[str, Any]], value["approaches"], f"{where}: approaches")
        for name, record in records.items():
            at, status = f"{where}: {name}", record.pop("status", None)
            require_choice(f"{where}: approaches", name, APPROACHES)
            require_choice(f"{at}.status", status, ("fitted", "refused"))
            if status == "refused":
                refused[name] = built(FailedFit, record, at)
                continue
            record.pop("reason", None)
            fitted[name] = built(FitResult, record, at)
            if wrong := impossible(fitted[name], name):
                raise InputError(f"{at}: {wrong}. Run `chinchilla fit` again.")
        recommended = built(dict[str, Any] | None, value["recommended"], f"{where}: recommended")
        of_minima = recommended is not None and recommended.get("approach") == MINIMA
        if of_minima and records:
            raise InputError(
                f"{where}: fits of losses at minima alone hold no approaches. Run `chinchilla fit` again."
            )
        if not records and not of_minima:
            raise InputError(f"{where}: approaches is empty. Run `chinchilla fit` again.")
        cost = value["flops_per_token"]
        if cost is not None:
            built(FlopsPerToken, cost, f"{where}: flops_per_token")
            cost = FlopsPerToken.from_dict(cost, where)
        data = built(dict[str, Any], value["data"], f"{where}: data")
        for name in ("C", "N", "D", "tokens_per_param"):
            if of_minima and name != "C":
                if data.get(name) is not None:
                    raise InputError(f"{where}: data.{name} must be null in fits of minima alone.")
                continue
            ends = built(list[float], data.get(name), f"{where}: data.{name}")
            if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
                raise InputError(
                    f"{where}: data.{name} must be the smallest and the largest value."
                )
        built(int, data.get("n_runs"), f"{where}: data.n_runs")
        built(float | None, data.get("max_epochs"), f"{where}: data.max_epochs")
        built(list[str], data.get("notes"), f"{where}: data.notes")
        command = built(dict[str, Any], value["command"], f"{where}: command")
        recommended = built(dict[str, Any] | None, value["recommended"], f"{where}: recommended")
        runs = partial(_runs_in, path.parent, str(data.get("observations_sha256", "")))
        fitted = {name: dataclasses.replace(f, runs=runs) for name, f in fitted.items()}
        return cls(fitted, refused, data, cost, command, recommended, runs)


def _runs_in(folder: Path, sha256: str) -> Observations:
    """observations.csv of a folder; of that SHA-256 where one is given."""
    path = folder / RUNS
    if not path.exists():
        raise InputError(
            f"{path} does not exist, and the runs that {FILE} was fitted to are needed here. "
            "Run `chinchilla fit` again, or give its own folder."
        )
    if sha256 not in ("", sha256_file(path)):
        raise InputError(
            f"{path} is not the table that the {FILE} beside it was fitted to (another "
            "SHA-256). Put that one back, or run `chinchilla fit` again."
        )
    return Observations.from_csv(path)

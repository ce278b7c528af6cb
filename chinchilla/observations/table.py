"""Observations: the table of losses that connects training and fitting.

Finished runs become observations by `from_results` and `from_curves`; other tables by `from_csv`,
`from_frame` and `of`. docs/observations.md describes the CSV. NumPy only: this module must import
without torch.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config.fit import Duplicates
from chinchilla.core.errors import InputError
from chinchilla.core.files.writing import write_text
from chinchilla.core.units import CONVENTIONS, same_values
from chinchilla.observations.columns import ALL_COLUMNS, COLUMNS, OPTIONAL
from chinchilla.observations.from_runs import final_losses, loss_curves
from chinchilla.observations.read_table import cell_text, comment_text, read_csv, read_frame
from chinchilla.observations.runs import BEST_ADVICE, check_distinct, runs_of
from chinchilla.observations.stretches import final_of, run_numbers, six_digits
from chinchilla.plan.records import Curve, RunResult, count_label

SINGLE_EPOCH = 1.001  # more epochs than this count as repetition


@dataclass(frozen=True, repr=False)
class Observations:
    """Losses of runs, one row per measurement. Rows of one run_id are points of a training curve.

    All columns but run_id are float64: 6*N*D overflows int64.

    Attributes:
        run_id: (n,) names of runs.
        budget_flops: (n,) intended FLOPs of the run's IsoFLOP budget, NaN if it belongs to none.
        C: (n,) training FLOPs spent.
        N: (n,) parameters.
        D: (n,) tokens seen.
        L: (n,) loss, nats per token.
        flop_convention: how C is counted, a key of `shapes.FLOP_CONVENTIONS`.
        n_convention: how N is counted, total or non_embedding.
        loss_kind: train or validation.
        notes: what was derived or left out when the table was read.
        unique_tokens: (n,) distinct tokens among D, NaN if not recorded; may be omitted.
        max_epochs: (n,) epochs of the most repeated source, NaN if not recorded; may be omitted.
    """

    run_id: np.ndarray
    budget_flops: np.ndarray
    C: np.ndarray
    N: np.ndarray
    D: np.ndarray
    L: np.ndarray
    flop_convention: str = "unknown"
    n_convention: str = "unknown"
    loss_kind: str = "unknown"
    notes: tuple[str, ...] = ()
    unique_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0))
    max_epochs: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for name in OPTIONAL:
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.broadcast_to(np.nan, len(self)))
        for name in ("N", "D", "C", "L"):
            values = getattr(self, name)
            if values.shape != (len(self),) or values.dtype != np.float64:
                raise InputError(
                    f"Observations.{name} has type {values.dtype} and shape {values.shape}. Give {len(self)} "
                    "float64 values, or make observations of arrays with Observations.of."
                )
            bad = ~np.isfinite(values) | (values <= 0)
            if bad.any():
                i = int(np.argmax(bad))
                raise InputError(
                    f"run {self.run_id[i]}: {name}={values[i]} is not a positive finite number. Leave the "
                    "run out, or correct the value."
                )

    def __len__(self) -> int:
        return len(self.run_id)

    def __str__(self) -> str:
        """A summary: number of runs, ranges of C, N, D and L, conventions and notes."""
        if not len(self):
            return "no runs"
        finals = self.finals()
        budgets = np.unique(finals.budget_flops[np.isfinite(finals.budget_flops)])
        points = f" in {len(self)} points" if self.has_curves else ""

        def span(values: np.ndarray, form: Callable[[float], str]) -> str:
            return f"{form(values.min())} to {form(values.max())}"

        lines = [
            f"{len(finals)} runs{points}, {len(budgets) or 'no'} IsoFLOP budgets",
            f"  C {span(finals.C, '{:.3g}'.format)} FLOPs ({self.flop_convention})",
            f"  N {span(finals.N, count_label)} parameters ({self.n_convention})",
            f"  D {span(finals.D, count_label)} tokens, "
            f"D/N {span(finals.D / finals.N, '{:.3g}'.format)}",
            f"  L {span(finals.L, '{:.3f}'.format)} nats per token ({self.loss_kind})",
        ]
        if len(again := self.repeating()):
            lines.append(f"  {len(again)} runs repeat data, up to {again.most_epochs()}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def __repr__(self) -> str:
        return f"<Observations: {len(self)} rows, {self.n_runs} runs>"

    def where(self, rows: np.ndarray) -> "Observations":
        """The rows selected by a boolean mask or by indices, which may repeat (bootstrap)."""
        return replace(self, **{name: getattr(self, name)[rows] for name in (*COLUMNS, *OPTIONAL)})

    @cached_property
    def run_number(self) -> np.ndarray:
        """(n,) number of the run of each row, from 0 in order of appearance."""
        return run_numbers(self.run_id)

    @cached_property
    def is_final(self) -> np.ndarray:
        """(n,) bool, the row with the most tokens of each run."""
        return final_of(self.run_number, self.D)

    @property
    def budget_labels(self) -> np.ndarray:
        """(n,) budget_flops rounded to six digits, so that 1e19 and 1.0000001e19 are equal."""
        return six_digits(self.budget_flops)

    @cached_property
    def n_runs(self) -> int:
        """Number of distinct run_ids."""
        return int(self.run_number.max(initial=-1)) + 1

    @property
    def has_curves(self) -> bool:
        """Whether some run has more than one row."""
        return self.n_runs < len(self)

    @property
    def epochs(self) -> np.ndarray:
        """(n,) epochs of the most repeated source, at least 1; NaN if not recorded.

        Without max_epochs, all sources count as one: D / unique_tokens.
        """
        return np.maximum(np.fmax(self.D / self.unique_tokens, self.max_epochs), 1.0)

    def most_epochs(self) -> str:
        """The largest number of epochs of any row, as text."""
        i = int(np.nanargmax(self.epochs))
        is_mixture = self.epochs[i] > SINGLE_EPOCH * np.fmax(self.D[i] / self.unique_tokens[i], 1.0)
        source = " of the most repeated source" if is_mixture else ""
        return f"{self.epochs[i]:.3g} epochs{source}"

    def finals(self) -> "Observations":
        """The last row of each run."""
        return self.where(self.is_final)

    def repeating(self) -> "Observations":
        """The last row of each run with more than one epoch."""
        finals = self.finals()
        return finals.where(finals.epochs > SINGLE_EPOCH)

    def check_distinct(self) -> None:
        """Refuse a run that is counted twice: two rows with one run_id and equal D.

        Equal numbers under two run_ids are two runs: losses are rounded, and seeds and learning
        rates are not columns of this table. InputError names both rows.
        """
        check_distinct(self.run_id, self.D, self.L, "", "row {}".format)

    def best(self) -> "Observations":
        """The run of the lowest final loss of each (N, D), with its curve; a note counts the others."""
        finals = self.finals()
        ids = np.stack([same_values(finals.N), same_values(finals.D)])
        order = np.argsort(finals.L, kind="stable")  # of equal losses the first row is kept
        first = np.unique(ids[:, order], axis=1, return_index=True)[1]
        is_best = np.isin(np.arange(len(finals)), order[first])
        notes = tuple(note for note in self.notes if BEST_ADVICE not in note)
        return replace(self, notes=notes)._runs(
            finals, is_best, "not the lowest loss of their (N, D)"
        )

    def within(self, tokens_per_param: Sequence[float]) -> "Observations":
        """The runs whose final D/N lies in a range (smallest, largest); a note counts the others.

        Raises:
            InputError: no run lies in the range.
        """
        (low, high), finals = tokens_per_param, self.finals()
        ratio = finals.D / finals.N
        inside = (low <= ratio) & (ratio <= high)
        if not inside.any():
            raise InputError(
                f"tokens_per_param=[{low:g},{high:g}] leaves no run: these have {ratio.min():.3g} to "
                f"{ratio.max():.3g} tokens per parameter. Give a range that contains some of them."
            )
        return self._runs(finals, inside, f"tokens per parameter outside [{low:g}, {high:g}]")

    def completed_by(self, curves: "Observations") -> "Observations":
        """These runs, and the last points of curves of runs that have no row here.

        Raises:
            InputError: the two tables share no run_id, a run has different N in them, or their
                conventions differ.
        """
        if len(self) and not np.isin(self.run_id, curves.run_id).any():
            raise InputError(
                f"observations and curves share no run_id ({self.run_id[0]}, ... and "
                f"{curves.run_id[0]}, ...), so a run under two names would be counted twice. Use one "
                "run_id per run in both tables, or give only one of the tables."
            )
        fields: dict[str, Any] = {}
        for name in CONVENTIONS:
            own, other = getattr(self, name), getattr(curves, name)
            if "unknown" not in (own, other) and own != other:
                raise InputError(
                    f"observations and curves differ in {name}: {own} and {other}. Give both tables in "
                    "one convention."
                )
            fields[name] = other if own == "unknown" else own
        finals = curves.finals()
        N = dict(zip(self.run_id.tolist(), self.N.tolist(), strict=True))
        for run_id, n in zip(finals.run_id.tolist(), finals.N.tolist(), strict=True):
            if N.get(run_id, n) != n:
                raise InputError(
                    f"run {run_id}: N={N[run_id]:.10g} in observations and {n:.10g} in curves. Check "
                    "whether two runs share this name."
                )
        notes = [*self.notes, *(note for note in curves.notes if note not in self.notes)]
        new = finals.where(~np.isin(finals.run_id, self.run_id))
        if len(new):
            notes.append(
                f"{len(new)} runs have no row in observations: the last point of their curve, unsmoothed, "
                "is used as their final loss."
            )
            for name in (*COLUMNS, *OPTIONAL):
                fields[name] = np.concatenate([getattr(self, name), getattr(new, name)])
        return replace(self, **fields, notes=tuple(notes))

    def _runs(self, finals: "Observations", keep: np.ndarray, reason: str) -> "Observations":
        """All rows of the runs selected among `finals`, and a note of how many are left out and why."""
        note = f"{np.count_nonzero(~keep)} of {len(finals)} runs left out: {reason}."
        rows = self.where(np.isin(self.run_id, finals.run_id[keep]))
        return replace(rows, notes=(*self.notes, note))

    def save(self, path: Path) -> None:
        """Write the CSV that `from_csv` reads: floats with all digits, notes as comments."""
        out = io.StringIO()
        out.writelines(f"# {comment_text(note)}\n" for note in self.notes)
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(ALL_COLUMNS)
        conventions = tuple(getattr(self, name) for name in CONVENTIONS)
        columns = [getattr(self, name).tolist() for name in (*COLUMNS, *OPTIONAL)]
        quoted = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for run_id, *row in zip(*columns, strict=True):
            # An unquoted run_id that starts with # would be read as a comment.
            (quoted if run_id.startswith("#") else writer).writerow(
                (cell_text(run_id), *("" if x != x else repr(x) for x in row), *conventions)
            )
        write_text(path, out.getvalue())

    @classmethod
    def from_csv(
        cls,
        path: Path,
        *,
        key: str = "observations",
        columns: Mapping[str, str] | None = None,
        duplicates: str = "drop",
        **conventions: str,
    ) -> "Observations":
        """Read a CSV of runs with the columns C, N, D, L and optional others.

        docs/observations.md describes names, units, numbers and files. Without run_id, every row is
        a run. Without budget_flops, runs of equal C form IsoFLOP budgets. Notes state what was left
        out or inferred.

        Args:
            path: the file.
            key: the setting that named the file, for error messages.
            columns: our column -> name in the file, such as {"N": "Model Size (M)"}.
            duplicates: "drop" or "refuse" exact copies of a run.
            **conventions: flop_convention, n_convention, loss_kind; they take precedence over
                columns of these names. With flop_convention="six_nd", one of C, N and D may be
                missing.

        Raises:
            InputError: naming file, line and column: a column is missing, a value is not a positive
                finite number, a row is too long or too short, a run occurs twice, or units are
                wrong.
        """
        return cls(**runs_of(read_csv(Path(path), key, columns), conventions, duplicates))

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        columns: Mapping[str, str] | None = None,
        duplicates: Duplicates = "drop",
        **conventions: str,
    ) -> "Observations":
        """Read anything with named columns: a pandas or polars frame, or a dict of arrays.

        Args:
            frame: columns N, D, L and optionally C, run_id and others, under any name that
                `from_csv` accepts. Without C, C = 6*N*D.
            columns: as in `from_csv`.
            duplicates: as in `from_csv`.
            **conventions: as in `from_csv`.

        Raises:
            InputError: as in `from_csv`, naming the row, counted from 0.
        """
        table = read_frame(frame, columns)
        if "C" not in table.columns and "flop_convention" not in table.columns:
            conventions = {"flop_convention": "six_nd", **conventions}
        return cls(**runs_of(table, conventions, duplicates))

    @classmethod
    def of(
        cls,
        *,
        N: Any,
        D: Any,
        L: Any,
        C: Any = None,
        budget_flops: Any = None,
        run_id: Any = None,
        unique_tokens: Any = None,
        max_epochs: Any = None,
        duplicates: Duplicates = "drop",
        **conventions: str,
    ) -> "Observations":
        """Make observations of arrays; a scalar applies to every row.

        Args:
            N: (n,) parameters.
            D: (n,) tokens.
            L: (n,) losses, nats per token.
            C: (n,) training FLOPs; None for 6*N*D.
            budget_flops: (n,) IsoFLOP budget of each run, NaN for none.
            run_id: (n,) names; rows of one name are points of one curve. None if every row is a
                run.
            unique_tokens: (n,) distinct tokens among D, NaN if unknown.
            max_epochs: (n,) epochs of the most repeated source, NaN if unknown.
            duplicates: as in `from_csv`.
            **conventions: as in `from_csv`.

        Raises:
            InputError: as in `from_csv`.
        """
        given = {"N": N, "D": D, "L": L, "C": C, "budget_flops": budget_flops, "run_id": run_id}
        given |= {"unique_tokens": unique_tokens, "max_epochs": max_epochs}
        arrays = {name: np.asarray(x) for name, x in given.items() if x is not None}
        if len({x.shape for x in arrays.values() if x.ndim}) > 1:
            shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
            raise InputError(f"arrays must be of equal length; the shapes are {shapes}.")
        columns = np.broadcast_arrays(*map(np.atleast_1d, arrays.values()))
        frame = dict(zip(arrays, columns, strict=True))
        return cls.from_frame(frame, duplicates=duplicates, columns=None, **conventions)

    @classmethod
    def from_results(cls, results: Sequence[RunResult], loss: str) -> "Observations":
        """One row per finished run: its smoothed final training loss, or its validation loss.

        Args:
            results: runs in any state; a note counts those that did not finish.
            loss: "train" or "validation".

        Raises:
            InputError: no run has finished, or their losses are not comparable.
        """
        return cls(**final_losses(results, loss))

    @classmethod
    def from_curves(
        cls, results: Sequence[RunResult], curves: Sequence[Curve], loss: str
    ) -> "Observations":
        """All measured points of every finished run, for approach 1.

        Args:
            results: runs in any state.
            curves: their curves, in the same order.
            loss: "train" for unsmoothed losses of every optimizer step, or "validation" for the
                evaluations during the run, of which the last is the final one.

        Raises:
            InputError: as in `from_results`.
        """
        return cls(**loss_curves(results, curves, loss))


def observations_of(table: Any) -> Observations:
    """`table` if it is Observations already, else `Observations.from_frame(table)`."""
    return table if isinstance(table, Observations) else Observations.from_frame(table)

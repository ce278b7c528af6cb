"""Observations: one row per loss measured, the waist between training and fitting.

Training writes into it (`from_results`, `from_curves`), every fit reads from it, and someone else's
runs enter at the same place: a CSV (`from_csv`), a frame (`from_frame`), arrays (`of`). Columns are
float64 throughout: 6*N*D overflows int64 silently. docs/observations.md describes the CSV. Floor 0:
NumPy only.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config.fit import Duplicates
from chinchilla.core.errors import InputError
from chinchilla.core.files import write_text
from chinchilla.observations.from_runs import along, ends
from chinchilla.observations.read_table import COLUMNS, CONVENTIONS, OPTIONAL, read_csv, read_frame
from chinchilla.observations.rows import best_of_each, check_distinct, final_rows
from chinchilla.observations.runs import ASK_BEST, runs_of
from chinchilla.plan.records import Curve, RunResult, count_label

SINGLE_EPOCH = 1.001  # epochs up to here count as one


@dataclass(frozen=True, repr=False)
class Observations:
    """Losses of runs, in arrays of equal length n.

    run_id (n,) str; budget_flops (n,) the isoFLOP budget asked for, NaN where a run belongs to
    none; C (n,) training FLOPs spent; N (n,) parameters; D (n,) tokens; L (n,) nats per token.
    Rows that share a run_id are points along one training curve; `is_final` marks each run's last.
    unique_tokens (n,) of the D tokens those that differ, max_epochs (n,) passes over the most repeated
    of several sources; NaN where not recorded; both may be left out.
    """

    run_id: np.ndarray
    budget_flops: np.ndarray
    C: np.ndarray
    N: np.ndarray
    D: np.ndarray
    L: np.ndarray
    flop_convention: str = "unknown"  # how C was counted: a key of shapes.FLOP_CONVENTIONS
    n_convention: str = "unknown"  # how N was counted: total, non_embedding
    loss_kind: str = "unknown"  # train, validation
    notes: tuple[str, ...] = ()  # what was derived or left out on the way in, for the record
    unique_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0))
    max_epochs: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for name in OPTIONAL:
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.full(len(self), np.nan))
        for name in ("N", "D", "C", "L"):
            values = getattr(self, name)
            if values.shape != (len(self),) or values.dtype != np.float64:
                raise InputError(f"Observations.{name} must be {len(self)} float64 values.")
            bad = ~np.isfinite(values) | (values <= 0)
            if bad.any():
                i = int(np.argmax(bad))
                raise InputError(
                    f"run {self.run_id[i]}: {name}={values[i]} is not a positive finite number."
                )

    def __len__(self) -> int:
        return len(self.run_id)

    def __str__(self) -> str:
        """A few lines for people: how many runs, what they cover, how they are counted."""
        if not len(self):
            return "no runs"
        finals = self.finals()
        budgets = np.unique(finals.budget_flops[np.isfinite(finals.budget_flops)])
        named = f"{len(budgets)} isoFLOP budgets" if len(budgets) else "no isoFLOP budget named"
        points = f" in {len(self)} points" if self.has_curves else ""

        def span(values: np.ndarray, form: Any) -> str:
            return f"{form(values.min())} to {form(values.max())}"

        lines = [
            f"{len(finals)} runs{points}, {named}",
            f"  C {span(finals.C, '{:.3g}'.format)} FLOPs ({self.flop_convention})",
            f"  N {span(finals.N, count_label)} parameters ({self.n_convention})",
            f"  D {span(finals.D, count_label)} tokens, "
            f"D/N {span(finals.D / finals.N, '{:.3g}'.format)}",
            f"  L {span(finals.L, '{:.3f}'.format)} nats per token ({self.loss_kind})",
        ]
        if len(repeat := self.repeating()):
            lines.append(f"  {len(repeat)} runs repeat data, up to {repeat.most_epochs()}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def __repr__(self) -> str:
        return f"<Observations: {len(self)} rows, {len(np.unique(self.run_id))} runs>"

    def where(self, keep: np.ndarray) -> "Observations":
        """The rows selected by a boolean mask or an index array; rows may repeat (bootstrap)."""
        return replace(self, **{name: getattr(self, name)[keep] for name in (*COLUMNS, *OPTIONAL)})

    @property
    def is_final(self) -> np.ndarray:
        """(n,) bool: the row with the most tokens of its run."""
        return final_rows(self.run_id, self.D)

    @property
    def budget_labels(self) -> np.ndarray:
        """(n,) budget_flops to six digits, so that 1e19 and 0.1e20 + 1 are one; NaN for none."""
        return np.array([float(f"{b:.6g}") for b in self.budget_flops])

    @property
    def has_curves(self) -> bool:
        """Whether some run has more than one point."""
        return len(np.unique(self.run_id)) < len(self)

    @property
    def epochs(self) -> np.ndarray:
        """(n,) passes over the most repeated source, at least 1; NaN where not recorded.

        Without max_epochs all sources count as one: tokens seen over those that differ.
        """
        return np.maximum(np.fmax(self.D / self.unique_tokens, self.max_epochs), 1.0)

    def most_epochs(self) -> str:
        """The most epochs of any row here, in words."""
        i = int(np.nanargmax(self.epochs))
        mixed = self.epochs[i] > SINGLE_EPOCH * np.fmax(self.D[i] / self.unique_tokens[i], 1.0)
        return f"{self.epochs[i]:.3g} epochs" + (" of the most repeated source" if mixed else "")

    def finals(self) -> "Observations":
        """One row per run: its last point."""
        return self.where(self.is_final)

    def repeating(self) -> "Observations":
        """One row per run that is known to have read more than one epoch."""
        ends = self.finals()
        return ends.where(ends.epochs > SINGLE_EPOCH)

    def check_distinct(self, table: str = "", row: Callable[[int], str] = "row {}".format) -> None:
        """Refuse a run that is counted twice: it would narrow every interval.

        Twice is the same run_id at the same D, to within 1e-9. Equal numbers under two names are two
        runs: losses are rounded, and seeds and learning rates stand in columns that are not ours.

        Args:
            table: what errors call the table.
            row: what errors call its i-th row.

        Raises:
            InputError: naming both rows.
        """
        check_distinct(self.run_id, self.D, self.L, table, row)

    def best(self) -> "Observations":
        """The run of the lowest final loss of each (N, D), with its curve, and a note of how many are not."""
        ends = self.finals()
        keep = best_of_each(ends.N, ends.D, ends.L)
        note = f"{np.count_nonzero(~keep)} of {len(ends)} runs left out: not the lowest loss of their (N, D)."
        kept = self.where(np.isin(self.run_id, ends.run_id[keep]))
        notes = [text for text in self.notes if ASK_BEST not in text]  # it has been done
        return replace(kept, notes=(*notes, note))

    def within(self, tokens_per_param: Sequence[float]) -> "Observations":
        """The runs whose D/N lies between two values at their end, and a note of how many do not.

        Args:
            tokens_per_param: the smallest and the largest D/N to keep.

        Raises:
            InputError: no run does.
        """
        low, high = tokens_per_param
        ends = self.finals()
        ratio = ends.D / ends.N
        inside = (low <= ratio) & (ratio <= high)
        if not inside.any():
            raise InputError(
                f"tokens_per_param=[{low:g},{high:g}] leaves no run: these have {ratio.min():.3g} "
                f"to {ratio.max():.3g} tokens per parameter."
            )
        note = (
            f"{np.count_nonzero(~inside)} of {len(ends)} runs left out: tokens per parameter outside "
            f"[{low:g}, {high:g}]."
        )
        kept = self.where(np.isin(self.run_id, ends.run_id[inside]))
        return replace(kept, notes=(*self.notes, note))

    def completed_by(self, curves: "Observations") -> "Observations":
        """These runs, and the last points of curves whose run has no row here.

        Raises:
            InputError: the two share no run_id, a run has another N there, or they are counted in
                different ways.
        """
        if len(self) and not np.isin(self.run_id, curves.run_id).any():
            raise InputError(
                f"observations and curves share no run_id ({self.run_id[0]}, ... and "
                f"{curves.run_id[0]}, ...): one run under two names would count twice. Give each "
                "run one run_id in both, or give one of the two tables."
            )
        told = (note for note in curves.notes if note not in self.notes)
        said: dict[str, Any] = {"notes": (*self.notes, *told)}
        for name in CONVENTIONS:
            ours, theirs = getattr(self, name), getattr(curves, name)
            if "unknown" not in (ours, theirs) and ours != theirs:
                raise InputError(
                    f"observations and curves were counted in two ways: {name}={ours} and {theirs}."
                )
            said[name] = theirs if ours == "unknown" else ours
        N = dict(zip(self.run_id.tolist(), self.N.tolist(), strict=True))
        ends = curves.finals()
        for run_id, n in zip(ends.run_id.tolist(), ends.N.tolist(), strict=True):
            if N.get(run_id, n) != n:
                raise InputError(
                    f"run {run_id}: N={N[run_id]:.10g} in observations and {n:.10g} in curves. Are "
                    "these two runs of one name?"
                )
        new = ends.where(~np.isin(ends.run_id, self.run_id))
        if not len(new):
            return replace(self, **said)
        note = (
            f"{len(new)} runs are known by their curve alone: its last point stands for the final "
            "loss, unsmoothed."
        )
        said |= {
            n: np.concatenate([getattr(self, n), getattr(new, n)]) for n in (*COLUMNS, *OPTIONAL)
        }
        return replace(self, **{**said, "notes": (*said["notes"], note)})

    def save(self, path: Path) -> None:
        """Write the CSV that `from_csv` reads: floats keep every digit, notes become comments."""
        out = io.StringIO()
        out.writelines(f"# {note}\n" for note in self.notes)
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow((*COLUMNS, *OPTIONAL, *CONVENTIONS))
        tail = tuple(getattr(self, name) for name in CONVENTIONS)
        columns = [getattr(self, name).tolist() for name in (*COLUMNS, *OPTIONAL)]
        quoted = csv.writer(
            out, lineterminator="\n", quoting=csv.QUOTE_ALL
        )  # a # marks no comment there
        for run_id, *row in zip(*columns, strict=True):
            (quoted if run_id.startswith("#") else writer).writerow(
                (run_id, *("" if x != x else repr(x) for x in row), *tail)
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
        **said: str,
    ) -> "Observations":
        """Read a CSV of runs: C, N, D, L; run_id, budget_flops, unique_tokens, max_epochs if there.

        Names of columns, numbers and files are read as docs/observations.md says; other columns only
        tell copies from runs. Without run_id every row is a run. Equal C gives budgets where the
        table names none. Notes say what was left out or inferred. The conventions are
        read from columns of those names (files written by `save`) unless said here; of C, N and D
        one may be missing where flop_convention is six_nd.

        Args:
            path: the file.
            key: what the person gave it as, for errors.
            columns: our column -> theirs, such as {"N": "Model Size (M)"}; the unit multiplies.
            duplicates: what is done with exact copies of a run: drop or refuse.
            **said: flop_convention, n_convention, loss_kind.

        Raises:
            InputError: naming file, line and column: missing column, not a number, NaN, not
                positive, a row too long or too short, a run given twice, units that cannot be.
        """
        return cls(**runs_of(read_csv(Path(path), key, columns), said, duplicates))

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        columns: Mapping[str, str] | None = None,
        duplicates: Duplicates = "drop",
        **said: str,
    ) -> "Observations":
        """The same of anything with named columns: a pandas or polars frame, a dict of arrays.

        Args:
            frame: columns N, D, L, and where there are any C, run_id and budget_flops, or aliases;
                without C, C = 6*N*D.
            columns: our column -> theirs, as in `from_csv`.
            duplicates: drop or refuse, as in `from_csv`.
            **said: flop_convention, n_convention, loss_kind.

        Raises:
            InputError: as `from_csv`, naming the row counted from 0.
        """
        table = read_frame(frame, columns)
        if "C" not in table.columns and "flop_convention" not in table.columns:
            said = {"flop_convention": "six_nd", **said}
        return cls(**runs_of(table, said, duplicates))

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
        **said: str,
    ) -> "Observations":
        """The same of arrays; a single value counts for every row.

        Args:
            N: (n,) parameters.
            D: (n,) tokens.
            L: (n,) losses, nats per token.
            C: (n,) training FLOPs; None = 6*N*D.
            budget_flops: (n,) the isoFLOP budget of each run, NaN for none; None = none.
            run_id: (n,) names; rows of one name are points along one curve; None = each its own.
            unique_tokens: (n,) of D those that differ, NaN for unknown; None = unknown.
            max_epochs: (n,) passes over the most repeated of several sources, as unique_tokens.
            duplicates: drop or refuse, as in `from_csv`.
            **said: flop_convention, n_convention, loss_kind.

        Raises:
            InputError: as `from_csv`.
        """
        given = {"N": N, "D": D, "L": L, "C": C, "budget_flops": budget_flops, "run_id": run_id}
        given |= {"unique_tokens": unique_tokens, "max_epochs": max_epochs}
        given = {name: np.asarray(x) for name, x in given.items() if x is not None}
        if len({x.shape for x in given.values() if x.ndim}) > 1:
            told = ", ".join(f"{name} {x.shape}" for name, x in given.items())
            raise InputError(f"arrays must be of equal length; these are {told}.")
        columns = np.broadcast_arrays(*map(np.atleast_1d, given.values()))
        return cls.from_frame(
            dict(zip(given, columns, strict=True)), duplicates=duplicates, columns=None, **said
        )

    @classmethod
    def from_results(cls, results: Sequence[RunResult], loss: str) -> "Observations":
        """One row per finished run: its smoothed final training loss, or its validation loss.

        Args:
            results: any states; only finished runs become rows, a note counts the others.
            loss: "train" or "validation".
        """
        rows = cls(**ends(results, loss))
        out = Counter(r.status for r in results if r.status != "finished")
        if not out:
            return rows
        told = ", ".join(f"{n} {status}" for status, n in sorted(out.items()))
        note = f"{out.total()} of {len(results)} runs left out, which did not finish: {told}."
        return replace(rows, notes=(*rows.notes, note))

    @classmethod
    def from_curves(
        cls, results: Sequence[RunResult], curves: Sequence[Curve], loss: str
    ) -> "Observations":
        """Every measured point of every finished run: approach 1's input.

        With loss="train" a point per optimizer step, unsmoothed; with "validation" the held-out
        evaluations along the run, which end with the final one.
        """
        return cls(**along(results, curves, loss))


def observations_of(table: Any) -> Observations:
    """Observations as they are; a pandas or polars frame or a dict of arrays by `from_frame`."""
    return table if isinstance(table, Observations) else Observations.from_frame(table)

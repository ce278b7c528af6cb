"""Observations: one row per loss measured, the waist between training and fitting.

Training writes into it (`from_results`, `from_curves`), every fit reads from it, and a CSV of
someone else's runs enters at the same place (`from_csv`). Columns are float64 throughout: 6*N*D
overflows int64 silently. Floor 0: NumPy only.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.errors import InputError
from chinchilla.files import write_text
from chinchilla.plan import check_comparable
from chinchilla.records import Curve, RunResult
from chinchilla.shapes import flops_per_token

COLUMNS = ("run_id", "budget_flops", "C", "N", "D", "L")
LOSSES = ("train", "heldout")


@dataclass(frozen=True)
class Observations:
    """Losses of runs, in arrays of equal length n.

    run_id (n,) str; budget_flops (n,) the isoFLOP budget asked for, NaN where a run belongs to
    none; C (n,) training FLOPs spent; N (n,) parameters; D (n,) tokens; L (n,) nats per token.
    Rows that share a run_id are points along one training curve; `is_final` marks each run's last.
    """

    run_id: np.ndarray
    budget_flops: np.ndarray
    C: np.ndarray
    N: np.ndarray
    D: np.ndarray
    L: np.ndarray
    flop_convention: str = "unknown"  # how C was counted: a key of shapes.FLOP_CONVENTIONS
    params_convention: str = "unknown"  # how N was counted: total, or as the CSV's owner says
    loss_kind: str = "unknown"  # train, heldout

    def __post_init__(self) -> None:
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

    def where(self, keep: np.ndarray) -> "Observations":
        """The rows selected by a boolean mask or an index array; rows may repeat (bootstrap)."""
        return replace(self, **{name: getattr(self, name)[keep] for name in COLUMNS})

    @property
    def is_final(self) -> np.ndarray:
        """(n,) bool: the row with the most tokens of its run."""
        order = np.lexsort((self.D, self.run_id))
        runs = self.run_id[order]
        final = np.zeros(len(self), bool)
        final[order] = np.append(runs[1:] != runs[:-1], True)[: len(self)]
        return final

    @property
    def has_curves(self) -> bool:
        """Whether some run has more than one point."""
        return len(np.unique(self.run_id)) < len(self)

    def finals(self) -> "Observations":
        """One row per run: its last point."""
        return self.where(self.is_final)

    def save(self, path: Path) -> None:
        """Write the CSV that `from_csv` reads; floats keep every digit."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow((*COLUMNS, "flop_convention", "params_convention", "loss_kind"))
        tail = (self.flop_convention, self.params_convention, self.loss_kind)
        for row in zip(*(getattr(self, name) for name in COLUMNS), strict=True):
            numbers = ["" if np.isnan(x) else repr(float(x)) for x in row[1:]]
            writer.writerow((row[0], *numbers, *tail))
        write_text(path, out.getvalue())

    @classmethod
    def from_csv(
        cls,
        path: Path,
        *,
        flop_convention: str = "unknown",
        params_convention: str = "unknown",
        loss_kind: str = "unknown",
    ) -> "Observations":
        """Read a CSV with columns run_id, budget_flops (may be empty), C, N, D, L; others ignored.

        Lines starting with # are comments. The conventions are read from columns of those names
        when the file has them (files written by `save`).

        Raises:
            InputError: naming file, line and column: missing column, not a number, NaN, not
                positive, the same run_id twice at the same D, the same C, N, D, L twice, more
                values than columns (a thousands separator would shift the numbers).
        """
        try:
            with open(path, newline="", encoding="utf-8-sig") as f:
                numbered = [
                    (i, line)
                    for i, line in enumerate(f, 1)
                    if line.strip() and not line.startswith("#")
                ]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"observations={path} cannot be read ({error}).") from None
        reader = csv.DictReader(line for _, line in numbered)
        try:
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            table = list(reader)
        except csv.Error as error:
            raise InputError(f"{path} is not a CSV ({error}).") from None
        if missing := [c for c in COLUMNS if c not in header]:
            raise InputError(
                f"{path}: no column {', '.join(missing)} (found {', '.join(header) or 'none'}). "
                f"A CSV of runs has the columns {','.join(COLUMNS)}; budget_flops may be empty."
            )
        if twice := [c for c in COLUMNS if header.count(c) > 1]:
            raise InputError(f"{path}: the column {', '.join(twice)} occurs twice. Rename one.")
        rows: dict[str, list] = {c: [] for c in COLUMNS}
        said = {
            "flop_convention": flop_convention,
            "params_convention": params_convention,
            "loss_kind": loss_kind,
        }
        unsaid = [name for name, value in said.items() if value == "unknown"]
        seen: dict[tuple, int] = {}
        for (line_no, _), row in zip(numbered[1:], table, strict=False):
            where = f"{path} line {line_no}"
            run_id = (row["run_id"] or "").strip()
            if not run_id or run_id.startswith("#"):
                wrong = f"starts with #, which marks a comment: {run_id}" if run_id else "is empty"
                raise InputError(f"{where}: run_id {wrong}.")
            if any(value.strip() for value in row.get(None, ())):
                raise InputError(
                    f"{where}: more values than the {len(header)} columns of the header. "
                    "Write numbers without thousands separators."
                )
            rows["run_id"].append(run_id)
            for column in COLUMNS[1:]:
                rows[column].append(_number(row[column], column, where))
            for key in ((run_id, rows["D"][-1]), tuple(rows[c][-1] for c in ("C", "N", "D", "L"))):
                if key in seen:
                    raise InputError(
                        f"{where}: the same run as line {seen[key]} ({', '.join(map(str, key))}). "
                        "Counting one run twice would narrow every interval: remove one."
                    )
                seen[key] = line_no
            for name in unsaid:
                stated = (row.get(name) or "").strip() or said[name]
                if said[name] not in ("unknown", stated):
                    raise InputError(
                        f"{where}: {name}={stated}, but {said[name]} before: rows counted in two "
                        "ways do not compare. Fit them apart."
                    )
                said[name] = stated
        if not rows["run_id"]:
            raise InputError(f"{path}: no runs, only a header.")
        numbers = {c: np.array(rows[c], float) for c in COLUMNS[1:]}
        columns: dict[str, Any] = {**numbers, **said}
        return cls(np.array(rows["run_id"], dtype=str), **columns)

    @classmethod
    def from_results(cls, results: Sequence[RunResult], loss: str) -> "Observations":
        """One row per finished run: its smoothed final training loss, or its held-out loss.

        Args:
            results: any states; only finished runs become rows.
            loss: "train" or "heldout".
        """
        _check_loss(loss)
        done = [r for r in results if r.status == "finished"]
        scored = {tuple(r.held_out_tokens.items()) for r in done}
        if loss == "heldout" and len(scored) > 1:
            raise InputError(
                "these runs were scored on different held-out tokens "
                f"({', '.join(sorted(str(dict(s)) for s in scored))}): their losses do not compare. "
                "Fit with loss=train, or train them again with one runtime.held_out_tokens."
            )
        return _rows(
            [
                (r, float(r.spec.D), r.final_loss if loss == "train" else _mean(r.held_out_loss))
                for r in done
            ],
            loss,
        )

    @classmethod
    def from_curves(
        cls, results: Sequence[RunResult], curves: Sequence[Curve], loss: str
    ) -> "Observations":
        """Every measured point of every finished run: approach 1's input.

        With loss="train" a point per optimizer step, unsmoothed; with "heldout" the held-out
        evaluations along the run, which end with the final one.
        """
        _check_loss(loss)
        points = []
        for r, curve in zip(results, curves, strict=True):
            if r.status != "finished":
                continue
            done = curve.step + 1 if loss == "train" else curve.held_out_step
            values = curve.loss if loss == "train" else curve.held_out_loss
            points += [
                (r, float(k * r.spec.batch_tokens), float(L))
                for k, L in zip(done, values, strict=True)
                if k > 0
            ]
        return _rows(points, loss)


def _rows(points: Sequence[tuple[RunResult, float, float | None]], loss: str) -> Observations:
    check_comparable([r.spec for r, _, _ in points])
    conventions = {r.spec.flop_convention for r, _, _ in points}
    if not points:
        raise InputError("no run has finished yet: nothing to fit. See `chinchilla status`.")
    specs = [r.spec for r, _, _ in points]
    D = np.array([D for _, D, _ in points], float)
    per_token = np.array([flops_per_token(s.model, s.flop_convention) for s in specs], float)
    return Observations(
        run_id=np.array([s.run_id for s in specs], dtype=str),
        budget_flops=np.array(
            [np.nan if s.budget_flops is None else s.budget_flops for s in specs], float
        ),
        C=per_token * D,
        N=np.array([s.N for s in specs], float),
        D=D,
        L=np.array([np.nan if L is None else L for _, _, L in points], float),
        flop_convention=conventions.pop(),
        params_convention="total",
        loss_kind=loss,
    )


def _mean(held_out: dict[str, float]) -> float:
    if not held_out:
        raise InputError("these runs have no held-out loss. Fit with loss=train.")
    return float(np.mean(list(held_out.values())))


def _check_loss(loss: str) -> None:
    if loss not in LOSSES:
        raise InputError(f"loss={loss!r}: choose one of {', '.join(LOSSES)}.")


def _number(text: str | None, column: str, where: str) -> float:
    text = (text or "").strip()
    if not text and column == "budget_flops":
        return float("nan")
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {column}={text!r} is not a number.") from None
    if column == "budget_flops" and np.isnan(value):
        return value
    if not np.isfinite(value) or value <= 0:
        raise InputError(f"{where}: {column}={text} is not a positive finite number.")
    return value

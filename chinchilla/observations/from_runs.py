"""What trained runs measured, as the columns of Observations: ends of runs, or points along them.

RunResult and Curve in, a dict of columns and conventions out. Floor 0: NumPy only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from chinchilla.config.fit import LOSSES
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import flops_per_token
from chinchilla.plan.grid import check_comparable
from chinchilla.plan.records import Curve, RunResult


def ends(results: Sequence[RunResult], loss: str) -> dict[str, Any]:
    """A row per finished run: its smoothed final training loss, or its validation loss.

    Args:
        results: runs in any state.
        loss: "train" or "validation".

    Raises:
        InputError: no run has finished, or their losses do not compare.
    """
    _check_loss(loss)
    done = [r for r in results if r.status == "finished"]
    scored = {tuple(r.validation_tokens.items()) for r in done}
    if loss == "validation" and len(scored) > 1:
        raise InputError(
            "these runs were scored on different validation tokens "
            f"({', '.join(sorted(str(dict(s)) for s in scored))}): their losses do not compare. "
            "Fit with loss=train, or train them again with one runtime.validation_tokens."
        )
    points = [
        (r, float(r.spec.D), r.final_loss if loss == "train" else _mean(r.validation_loss))
        for r in done
    ]
    return _columns(points, loss)


def along(results: Sequence[RunResult], curves: Sequence[Curve], loss: str) -> dict[str, Any]:
    """A row per measured point of every finished run.

    Args:
        results: runs in any state.
        curves: their curves, in the same order.
        loss: "train", a point per optimizer step, or "validation", a point per evaluation.

    Raises:
        InputError: no run has finished, or they do not compare.
    """
    _check_loss(loss)
    points: list[tuple[RunResult, float, float | None]] = []
    for r, curve in zip(results, curves, strict=True):
        if r.status != "finished":
            continue
        done = curve.step + 1 if loss == "train" else curve.validation_step
        values = curve.loss if loss == "train" else curve.validation_loss
        points += [
            (r, float(k * r.spec.batch_tokens), float(L))
            for k, L in zip(done, values, strict=True)
            if k > 0
        ]
    return _columns(points, loss)


def _columns(points: Sequence[tuple[RunResult, float, float | None]], loss: str) -> dict[str, Any]:
    """Of (run, tokens seen, loss): what Observations is made of."""
    check_comparable([r.spec for r, _, _ in points])
    if not points:
        raise InputError("no run has finished yet: nothing to fit. See `chinchilla status`.")
    specs = [r.spec for r, _, _ in points]
    D = np.array([D for _, D, _ in points], float)
    per_token = np.array([flops_per_token(s.model, s.flop_convention) for s in specs], float)
    unique = [np.nan if r.unique_tokens is None else r.unique_tokens for r, _, _ in points]
    # A mixture's sources are all read evenly, so that epochs grow as D does.
    share = [D / (r.steps_done * r.spec.batch_tokens) if r.steps_done else 1 for r, D, _ in points]
    passes = [max(r.epochs.values(), default=np.nan) for r, _, _ in points]
    return {
        "run_id": np.array([s.run_id for s in specs], dtype=str),
        "budget_flops": np.array(
            [np.nan if s.budget_flops is None else s.budget_flops for s in specs], float
        ),
        "C": per_token * D,
        "N": np.array([s.N for s in specs], float),
        "D": D,
        "L": np.array([np.nan if L is None else L for _, _, L in points], float),
        "flop_convention": specs[0].flop_convention,
        "n_convention": "total",
        "loss_kind": loss,
        # In mid-run exact for one source: of several, each is read through before it repeats.
        "unique_tokens": np.minimum(np.array(unique, float), D),
        "max_epochs": np.maximum(np.array(passes, float) * np.array(share, float), 1.0),
    }


def _mean(held_out: dict[str, float]) -> float:
    if not held_out:
        raise InputError("these runs have no validation loss. Fit with loss=train.")
    return float(np.mean(list(held_out.values())))


def _check_loss(loss: str) -> None:
    if loss not in LOSSES:
        raise InputError(f"loss={loss!r}: choose one of {', '.join(LOSSES)}.")

"""Make observations of finished runs: their final losses, or all points of their training curves."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from chinchilla.config.checks import require_choice
from chinchilla.config.fit import LOSSES
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import flops_per_token
from chinchilla.plan.grid import check_comparable
from chinchilla.plan.records import Curve, RunResult


def final_losses(results: Sequence[RunResult], loss: str) -> dict[str, Any]:
    """The fields of `Observations.from_results`."""
    require_choice("loss", loss, LOSSES)
    finished = [r for r in results if r.status == "finished"]
    tokens = {tuple(r.validation_tokens.items()) for r in finished}
    if loss == "validation" and len(tokens) > 1:
        raise InputError(
            "these runs were evaluated on different validation tokens "
            f"({', '.join(sorted(str(dict(t)) for t in tokens))}), so their losses are not comparable. "
            "Fit with loss=train, or train them again with one runtime.validation_tokens."
        )
    if loss == "validation" and not all(r.validation_loss for r in finished):
        raise InputError("these runs have no validation loss. Fit with loss=train.")
    points = []
    for r in finished:
        L = r.final_loss if loss == "train" else np.mean([*r.validation_loss.values()])
        points.append((r, float(r.spec.D), L))
    fields = _fields(points, loss)
    if unfinished := Counter(r.status for r in results if r.status != "finished"):
        states = ", ".join(f"{n} {status}" for status, n in sorted(unfinished.items()))
        n = unfinished.total()
        fields["notes"] = (f"{n} of {len(results)} runs left out: not finished ({states}).",)
    return fields


def loss_curves(results: Sequence[RunResult], curves: Sequence[Curve], loss: str) -> dict[str, Any]:
    """The fields of `Observations.from_curves`."""
    require_choice("loss", loss, LOSSES)
    points: list[tuple[RunResult, float, float | None]] = []
    for r, curve in zip(results, curves, strict=True):
        if r.status != "finished":
            continue
        steps = curve.step + 1 if loss == "train" else curve.validation_step
        values = curve.loss if loss == "train" else curve.validation_loss
        points += [
            (r, float(step * r.spec.batch_tokens), float(L))
            for step, L in zip(steps, values, strict=True)
            if step > 0
        ]
    return _fields(points, loss)


def _fields(points: Sequence[tuple[RunResult, float, Any]], loss: str) -> dict[str, Any]:
    """The fields of `Observations` from (run, tokens seen, loss)."""
    specs = [r.spec for r, _, _ in points]
    check_comparable(specs)
    if not points:
        raise InputError(
            "no run has finished yet, so there is nothing to fit. See `chinchilla status`."
        )
    D = np.array([D for _, D, _ in points], float)
    per_token = np.array([flops_per_token(s.model, s.flop_convention) for s in specs], float)
    unique = np.array([r.unique_tokens for r, _, _ in points], float)  # None becomes NaN
    # All sources of a mixture are read at constant rates, so epochs are proportional to D.
    share = [D / (r.steps_done * r.spec.batch_tokens) if r.steps_done else 1 for r, D, _ in points]
    epochs = [max(r.epochs.values(), default=np.nan) for r, _, _ in points]
    return {
        "run_id": np.array([s.run_id for s in specs], dtype=str),
        "budget_flops": np.array([s.budget_flops for s in specs], float),
        "C": per_token * D,
        "N": np.array([s.N for s in specs], float),
        "D": D,
        "L": np.array([L for _, _, L in points], float),
        "flop_convention": specs[0].flop_convention,
        "n_convention": "total",
        "loss_kind": loss,
        # Exact for a single source: each source is read to its end before it repeats.
        "unique_tokens": np.minimum(unique, D),
        "max_epochs": np.maximum(np.array(epochs, float) * np.array(share, float), 1.0),
    }

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
    L = [
        r.final_loss if loss == "train" else np.mean([*r.validation_loss.values()])
        for r in finished
    ]
    fields = _fields(finished, [np.array([r.spec.D], float) for r in finished], L, loss)
    fields["run_id"] = fields["run_id"].astype(str)
    if unfinished := Counter(r.status for r in results if r.status != "finished"):
        states = ", ".join(f"{n} {status}" for status, n in sorted(unfinished.items()))
        n = unfinished.total()
        fields["notes"] = (f"{n} of {len(results)} runs left out: not finished ({states}).",)
    return fields


def loss_curves(results: Sequence[RunResult], curves: Sequence[Curve], loss: str) -> dict[str, Any]:
    """The fields of `Observations.from_curves`."""
    require_choice("loss", loss, LOSSES)
    runs, D, L = [], [], []
    for r, curve in zip(results, curves, strict=True):
        if r.status != "finished":
            continue
        steps = curve.step + 1 if loss == "train" else curve.validation_step
        values = curve.loss if loss == "train" else curve.validation_loss
        if (steps > 0).any():
            runs.append(r)
            D.append((steps[steps > 0] * r.spec.batch_tokens).astype(float))
            L.append(values[steps > 0])
    return _fields(runs, D, L, loss)


def _fields(
    runs: Sequence[RunResult], tokens: Sequence[np.ndarray], losses: Sequence[Any], loss: str
) -> dict[str, Any]:
    """The fields of `Observations` from the tokens seen and the losses at k points of each run."""
    specs = [r.spec for r in runs]
    check_comparable(specs)
    if not runs:
        raise InputError(
            "no run has finished yet, so there is nothing to fit. See `chinchilla status`."
        )
    n_points = [len(x) for x in tokens]

    def of_run(values: Sequence[Any], kind: type = float) -> np.ndarray:
        """(n,) the value of its run in every row."""
        return np.repeat(np.array(values, kind), n_points)

    D = np.concatenate(tokens)
    fields: dict[str, Any] = {
        # References to one string per run: a sweep has millions of points.
        "run_id": of_run([s.run_id for s in specs], object),
        "budget_flops": of_run([s.budget_flops for s in specs]),
        "C": of_run([flops_per_token(s.model, s.flop_convention) for s in specs]) * D,
        "N": of_run([s.N for s in specs]),
        "D": D,
        "L": np.hstack(losses).astype(float),
        "flop_convention": specs[0].flop_convention,
        "n_convention": "total",
        "loss_kind": loss,
    }
    if any(r.unique_tokens is not None for r in runs):  # None becomes NaN
        # Exact for a single source: each source is read to its end before it repeats.
        fields["unique_tokens"] = np.minimum(of_run([r.unique_tokens for r in runs]), D)
    if any(r.epochs for r in runs):
        # All sources of a mixture are read at constant rates, so epochs are proportional to D.
        share = [
            x / (r.steps_done * r.spec.batch_tokens) if r.steps_done else np.ones(len(x))
            for r, x in zip(runs, tokens, strict=True)
        ]
        epochs = of_run([max(r.epochs.values(), default=np.nan) for r in runs])
        fields["max_epochs"] = np.maximum(epochs * np.concatenate(share), 1.0)
    return fields

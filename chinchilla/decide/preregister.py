"""Predictions written down before the run: dated, hashed, and later held against the result.

The file carries all that a comparison needs (predictions, the law with its resamples, the runs'
residuals) and the SHA-256 of everything else in it, over its canonical JSON: keys sorted, no spaces.
The hash shows that the file was not changed since; that it is older than the run, only whoever keeps
it can show (commit it, or mail it). NumPy only.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla import __version__
from chinchilla.decide.options import allocate
from chinchilla.decide.predict import Prediction
from chinchilla.decide.resampled import Percentiles, ResampledLaws
from chinchilla.errors import InputError
from chinchilla.files import pretty_json, read_json, sha256_file
from chinchilla.fit.frontier import LossLaw
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.observations import Observations

SCHEMA = 1
CONSTANTS = ("E", "A", "B", "alpha", "beta")


@dataclass(frozen=True)
class Score:
    """One measured run beside what was predicted for its own N and D."""

    run_id: str
    N: float
    D: float
    C: float
    measured: float  # nats per token
    predicted: float
    difference: float  # measured - predicted, nats per token
    percent: float  # of the predicted loss
    ci95: list[float] | None  # where 95% of such runs were expected
    inside: bool | None  # None: nothing was said about the spread
    N_over_best: float  # N over the predicted best N at this run's C


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a record without its own hash."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def record_of(
    predictions: Sequence[Prediction],
    law: LossLaw | None,
    law_name: str,
    resampled: ResampledLaws | None,
    cost: FlopsPerToken | None,
    frontier_file: Path | None,
    loss_kind: str,
    told: Mapping[str, Any],
) -> dict[str, Any]:
    """The record that is written, with its date and hash.

    Args:
        predictions: what was answered.
        law: what the loss of a run is predicted with; None where none was fitted or named.
        law_name: where the law comes from.
        resampled: its resamples, for intervals; None without.
        cost: FLOPs per token of the fitted runs; None is C = 6*N*D.
        frontier_file: frontier.json, whose own hash is kept; None without one.
        loss_kind: train, heldout or unknown: which loss is meant.
        told: the command's settings.
    """
    constants = None if law is None else {name: getattr(law, name) for name in CONSTANTS}
    theta = [] if resampled is None else resampled.theta.tolist()
    residuals = [] if resampled is None else resampled.residuals.tolist()
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "made_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": {
            "chinchilla": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "frontier_sha256": None if frontier_file is None else sha256_file(frontier_file),
        "loss_kind": loss_kind,
        "told": dict(told),
        "predictions": [asdict(row) for row in predictions],
        "law_name": law_name,
        "law": constants,
        "flops_per_token": None if cost is None else asdict(cost),
        "resampled_laws": [[float(f"{x:.10g}") for x in row] for row in theta],
        "log_residuals": [float(f"{x:.6g}") for x in residuals],
    }
    record = json.loads(json.dumps(record))  # as it will be read: tuples are lists
    record["sha256"] = digest(record)
    return record


def save(record: Mapping[str, Any], path: Path | None, folder: Path) -> Path:
    """Write a record under its own name, or the one given; an existing file is never replaced.

    Args:
        record: from `record_of`.
        path: the file; None = <folder>/preregistered/<date>-<first 8 of the hash>.json.
        folder: of the frontier.

    Raises:
        InputError: the file exists.
    """
    if path is None:
        name = f"{record['made_utc'][:10]}-{record['sha256'][:8]}.json"
        path = folder / "preregistered" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "x", encoding="utf-8") as f:
            f.write(pretty_json(record) + "\n")
    except FileExistsError:
        raise InputError(
            f"preregister_file={path} exists, and a prediction is never overwritten. Name another."
        ) from None
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a record and prove that nothing in it was changed.

    Raises:
        InputError: not such a file, or its hash is not that of its contents.
    """
    record = read_json(path, "prediction")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or "sha256" not in record:
        raise InputError(
            f"prediction={path} was not written by this version's `chinchilla predict "
            "preregister=true`."
        )
    try:
        found = digest(record)
    except ValueError as error:
        raise InputError(f"prediction={path} holds a value no prediction has ({error}).") from None
    if found != record["sha256"]:
        raise InputError(
            f"prediction={path} was changed after it was written: its contents have SHA-256 "
            f"{found[:8]}..., and it says {str(record['sha256'])[:8]}.... Take the copy that was not."
        )
    return record


def score(record: Mapping[str, Any], obs: Observations) -> list[Score]:
    """Each run's loss beside the one predicted for the N and D it really had.

    The interval is that of a new run: the resampled laws, times a residual of the fitted runs.

    Args:
        record: from `load`.
        obs: the results; of curves only the last points are used.

    Raises:
        InputError: the record has no law, or its loss is another one (train against heldout).
    """
    if record["law"] is None:
        raise InputError(
            "this prediction has N and D but no law, so no loss was predicted. Predict with approach "
            "3 fitted, or with law=NAME."
        )
    kinds = (record["loss_kind"], obs.loss_kind)
    if "unknown" not in kinds and kinds[0] != kinds[1]:
        raise InputError(
            f"the prediction is of the {kinds[0]} loss and the result is a {kinds[1]} loss: they do "
            "not compare. Give the other loss of the result, loss=train or loss=heldout."
        )
    law = LossLaw(**record["law"])
    theta = np.array(record["resampled_laws"], float).reshape(-1, len(CONSTANTS))
    resampled = ResampledLaws(theta, np.array(record["log_residuals"], float))
    obs = obs.finals()
    rows = []
    for run_id, C, N, D, L in zip(obs.run_id, obs.C, obs.N, obs.D, obs.L, strict=True):
        predicted = float(law(N, D))
        spread = Percentiles.of(resampled.measured(N, D)) if len(theta) else None
        inside = None if spread is None else bool(spread.ci95[0] <= L <= spread.ci95[1])
        rows.append(
            Score(
                str(run_id), float(N), float(D), float(C), float(L), predicted,
                float(L - predicted), float(100 * (L / predicted - 1)),
                None if spread is None else spread.ci95, inside,
                float(N / _best_size(record, law, float(C))),
            )
        )  # fmt: skip
    return rows


def _best_size(record: Mapping[str, Any], law: LossLaw, C: float) -> float:
    cost = record["flops_per_token"]
    if cost is not None:
        lists = {k: tuple(v) for k, v in cost.items() if isinstance(v, list)}
        cost = FlopsPerToken(**{**cost, **lists})
    return allocate(law, C, cost).N

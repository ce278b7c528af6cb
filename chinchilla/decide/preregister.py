"""Predictions written down before the run: dated, hashed, and later held against the result.

The file holds everything that a comparison needs: the recommended answers, the predictions of each
approach, the law with its resamples, the runs' residuals and marks of the runs that were fitted. It
also holds the SHA-256 of all of this as canonical JSON (keys sorted, no spaces). The hash shows that
the file has not changed since it was written. It cannot show that the file is older than the run: for
that, commit the file or mail it before the run starts. A run that was fitted, or that finished before
the prediction was made, does not test the prediction and is refused. NumPy only.
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
from chinchilla.core.errors import InputError
from chinchilla.core.files import create_once, make_dirs, pretty_json, read_json, sha256_file
from chinchilla.decide.allocation import allocate
from chinchilla.decide.bootstrap_laws import Percentiles, ResampledLaws
from chinchilla.decide.predict import Prediction
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.result import LossLaw
from chinchilla.fit.results import RUNS
from chinchilla.observations.table import Observations
from chinchilla.recommend import Recommendation

SCHEMA = 3
READABLE = (2, 3)  # schema 2 holds no recommended answers: its runs are held against the law
SAME_BUDGET = 1.1  # factor in C up to which a run belongs to a budget that was predicted
MARK = 12  # hexadecimal digits of a fitted run's mark: 48 bits
CONSTANTS = ("E", "A", "B", "alpha", "beta")
CONVENTIONS = ("flop_convention", "n_convention", "loss_kind")
NO_TIMES = (
    "no time recorded, so it was not checked that the runs finished after the prediction was made; "
    "none of them was part of the fit."
)


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
    ci95: list[float] | None  # where 95% of such runs were expected, by the law
    inside: bool | None  # of the interval that is not None; None: nothing was said about the spread
    N_over_best: float  # N over the predicted best N at this run's C
    by: str = ""  # what predicted it: "the recommended answer at ... FLOPs", or the law
    interval80: list[float] | None = None  # of the recommended loss, moved to this N and D


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a record without its own hash."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def marks_of(obs: Observations) -> list[str]:
    """One mark a run, in the order of the rows: a hash of N, D and the final loss to nine digits."""
    return [
        hashlib.sha256(f"{N:.9g},{D:.9g},{L:.9g}".encode()).hexdigest()[:MARK]
        for N, D, L in zip(obs.N, obs.D, obs.L, strict=True)
    ]


def record_of(
    predictions: Sequence[Prediction],
    law: LossLaw | None,
    law_name: str,
    resampled: ResampledLaws | None,
    cost: FlopsPerToken | None,
    frontier_file: Path | None,
    conventions: Mapping[str, str],
    told: Mapping[str, Any],
    fitted: Observations | None = None,
    recommended: Sequence[tuple[Recommendation, LossLaw | None]] = (),
) -> dict[str, Any]:
    """The record that is written, with its date and hash.

    Args:
        predictions: what was answered.
        law: what the loss of a run is predicted with; None where none was fitted or named.
        law_name: where the law comes from.
        resampled: its resamples, for intervals; None without.
        cost: FLOPs per token of the fitted runs; None is C = 6*N*D.
        frontier_file: frontier.json, whose own hash is kept; None without one.
        conventions: flop_convention, n_convention and loss_kind of the fitted runs; what is not
            said is unknown.
        told: the command's settings.
        fitted: the final losses that the frontier was fitted to, as read from the table beside it;
            None without a frontier.
        recommended: the recommended answer at each budget, and the law that has its N, D, L there;
            None where no such law exists.
    """
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
        **{name: conventions.get(name, "unknown") for name in CONVENTIONS},
        "observations_sha256": None
        if frontier_file is None or fitted is None
        else sha256_file(frontier_file.parent / RUNS),
        "fitted_runs": [] if fitted is None else sorted(set(marks_of(fitted.finals()))),
        "told": dict(told),
        "recommended": [{**r.to_dict(), "law": _constants(local)} for r, local in recommended],
        "predictions": [asdict(row) for row in predictions],
        "law_name": law_name,
        "law": _constants(law),
        "flops_per_token": None if cost is None else asdict(cost),
        "resampled_laws": [[float(f"{x:.10g}") for x in row] for row in theta],
        "log_residuals": [float(f"{x:.6g}") for x in residuals],
    }
    record = json.loads(json.dumps(record))  # as it will be read: tuples are lists
    record["sha256"] = digest(record)
    return record


def _constants(law: LossLaw | None) -> dict[str, float] | None:
    return None if law is None else {name: getattr(law, name) for name in CONSTANTS}


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
    make_dirs(path.parent)
    if not create_once(path, pretty_json(record) + "\n"):
        raise InputError(
            f"preregister_file={path} exists, and a prediction is never overwritten. Name another."
        )
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a record and prove that nothing in it was changed.

    Raises:
        InputError: not such a file, or its hash is not that of its contents.
    """
    record = read_json(path, "prediction")
    if isinstance(record, dict) and record.get("schema") == 1 and "sha256" in record:
        raise InputError(
            f"prediction={path} has schema 1, which does not hold the runs that were fitted, and this "
            f"version scores schema {SCHEMA}. Predict again with preregister=true, before the next run."
        )
    if (
        not isinstance(record, dict)
        or record.get("schema") not in READABLE
        or "sha256" not in record
    ):
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
    if wrong := _wrong_field(record):
        raise InputError(
            f"prediction={path}: {wrong} is missing or not what `chinchilla predict "
            "preregister=true` writes there, though the hash is right. Take the file that it wrote."
        )
    return record


def _wrong_field(record: Mapping[str, Any]) -> str:
    """The first field that a score reads and cannot use; empty where all is well."""
    said = ("made_utc", "sha256", "law_name", "loss_kind")
    if wrong := [name for name in said if not isinstance(record.get(name), str)]:
        return wrong[0]
    if moment(record["made_utc"]) is None:
        return "made_utc"
    marks = record.get("fitted_runs")
    if not isinstance(marks, list) or not all(isinstance(mark, str) for mark in marks):
        return "fitted_runs"
    if not _is_law(record.get("law", "missing")):
        return "law"
    if record["schema"] != 2 and not _are_recommended(record.get("recommended")):
        return "recommended"
    laws = record.get("resampled_laws")
    if not isinstance(laws, list) or not all(_numbers(x) and len(x) == 5 for x in laws):
        return "resampled_laws"
    if not _numbers(record.get("log_residuals")):
        return "log_residuals"
    try:
        _cost_of(record)
    except (KeyError, InputError):
        return "flops_per_token"
    return ""


def _is_law(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and set(value) == set(CONSTANTS) and _numbers(list(value.values()))
    )


def _are_recommended(value: Any) -> bool:
    """Whether these are answers with C, and with L, its interval and a law where L is known."""
    if not isinstance(value, list) or not all(isinstance(r, dict) for r in value):
        return False
    return all(
        _numbers([r.get("C")])
        and r["C"] > 0
        and _is_law(r.get("law", "missing"))
        and (r["law"] is None or (_numbers([r.get("L")]) and r["L"] > 0))
        and (r["law"] is None or (_numbers(x := r.get("L_interval80")) and len(x) == 2))
        for r in value
    )


def _numbers(value: Any) -> bool:
    """Whether this is a list of numbers."""
    return isinstance(value, list) and all(type(x) in (int, float) for x in value)


def _cost_of(record: Mapping[str, Any]) -> FlopsPerToken | None:
    cost = record["flops_per_token"]
    return None if cost is None else FlopsPerToken.from_dict(cost, "prediction")


def moment(text: str) -> datetime | None:
    """A time in ISO 8601; without an offset it is UTC. None where the text is no time."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def refuse_known(
    record: Mapping[str, Any], obs: Observations, times: Sequence[tuple[str, str]] | None = None
) -> list[str]:
    """Refuse results that could be known when the prediction was made.

    Args:
        record: from `load`.
        obs: the results; of curves only the last points are looked at.
        times: started_utc and finished_utc of each row of `obs.finals()`; None where a time was
            not recorded.

    Returns:
        What could not be checked, or what a reader should know, a sentence each.

    Raises:
        InputError: a run was part of the fit (same N, D and final loss), or finished before the
            prediction was made.
    """
    obs = obs.finals()
    made, fitted = moment(record["made_utc"]), set(record["fitted_runs"])
    assert made is not None
    known = [mark in fitted for mark in marks_of(obs)]
    if any(known):
        first = int(np.argmax(known))
        raise InputError(
            f"{sum(known)} of {len(obs)} runs ({obs.run_id[first]}"
            f"{', ...' if sum(known) > 1 else ''}) were part of the fit that made this prediction "
            "(same N, D and loss), so they are no test of it. Score runs that were not fitted."
        )
    if times is None:
        return [f"these results have {NO_TIMES}"]
    notes = []
    for run_id, (started, finished) in zip(obs.run_id, times, strict=True):
        begin, end = moment(started), moment(finished)
        if end is None:
            notes.append(f"run {run_id} has {NO_TIMES}")
        elif end <= made:
            raise InputError(
                f"run {run_id} finished at {finished}, before this prediction was made "
                f"({record['made_utc']}), so it is no test of it. Score a run that finished later."
            )
        elif begin is not None and begin < made:
            notes.append(f"run {run_id} had started ({started}) when the prediction was made.")
    return notes


def unsaid(record: Mapping[str, Any], obs: Observations) -> list[str]:
    """The conventions that prediction or result do not state, so that nobody can compare them."""
    sides = ((name, record.get(name, "unknown"), getattr(obs, name)) for name in CONVENTIONS)
    return [name for name, *both in sides if "unknown" in both]


def score(record: Mapping[str, Any], obs: Observations) -> list[Score]:
    """Each run's loss beside the one predicted for the N and D it really had.

    A run whose C is within SAME_BUDGET of a budget that was predicted is held against the recommended
    answer there: the law with its N, D and L gives the loss at the run's own N and D, and the 80%
    interval of L is scaled by the same factor. For other runs the law of the record predicts, and
    the interval is that of a new run: the resampled laws, times a residual of the fitted runs.

    Args:
        record: from `load`.
        obs: the results; of curves only the last points are used.

    Raises:
        InputError: the record has no law for a run, or was made of another loss (train against
            validation) or by another count of N or C.
    """
    for name in CONVENTIONS:
        ours, theirs = record.get(name, "unknown"), getattr(obs, name)
        if "unknown" in (ours, theirs) or ours == theirs:
            continue
        cure = "Score a result that is counted alike."
        if name == "loss_kind":
            cure = "Give the other loss of the result, loss=train or loss=validation."
        raise InputError(
            f"the prediction has {name}={ours} and the result {name}={theirs}: they do not "
            f"compare. {cure}"
        )
    cost = _cost_of(record)
    obs = obs.finals()
    rows = []
    for run_id, C, N, D, L in zip(obs.run_id, obs.C, obs.N, obs.D, obs.L, strict=True):
        run = (float(C), float(N), float(D))
        by, law, predicted, ci95, interval80 = _recommended_loss(record, *run) or _law_loss(
            record, *run
        )
        interval = interval80 or ci95
        rows.append(
            Score(
                str(run_id), float(N), float(D), float(C), float(L), predicted,
                float(L - predicted), float(100 * (L / predicted - 1)), ci95,
                None if interval is None else bool(interval[0] <= L <= interval[1]),
                float(N / allocate(law, float(C), cost).N), by, interval80,
            )
        )  # fmt: skip
    return rows


# Who predicted, its law, the loss at a run's N and D, its 95% interval, its 80% interval.
_Predicted = tuple[str, LossLaw, float, list[float] | None, list[float] | None]


def _recommended_loss(record: Mapping[str, Any], C: float, N: float, D: float) -> _Predicted | None:
    """What the recommended answer at the nearest budget predicted; None where no budget is near."""
    answers = [r for r in record.get("recommended", []) if r["law"] is not None]
    if not answers:
        return None
    r = min(answers, key=lambda r: abs(np.log(r["C"] / C)))
    if abs(np.log(r["C"] / C)) > np.log(SAME_BUDGET):
        return None
    law = LossLaw(**r["law"])
    L = float(law(N, D))
    interval = [L * end / r["L"] for end in r["L_interval80"]]
    return f"the recommended answer at {r['C']:.3g} FLOPs", law, L, None, interval


def _law_loss(record: Mapping[str, Any], C: float, N: float, D: float) -> _Predicted:
    """What the law of the record predicted."""
    if record["law"] is None:
        raise InputError(
            f"this prediction has no law, so no loss was predicted for a run of {C:.3g} FLOPs. Score a "
            "run of a budget that was predicted, or predict with approach 3 fitted or with law=NAME."
        )
    law = LossLaw(**record["law"])
    theta = np.array(record["resampled_laws"], float).reshape(-1, len(CONSTANTS))
    resampled = ResampledLaws(theta, np.array(record["log_residuals"], float))
    spread = Percentiles.of(resampled.measured(N, D)) if len(theta) else None
    return record["law_name"], law, float(law(N, D)), None if spread is None else spread.ci95, None

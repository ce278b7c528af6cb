"""Preregistered predictions: written before a run with a date and a hash, and later scored.

The file holds everything that scoring needs: the recommended answers, the predictions of each approach,
the law with its resamples, the residuals of the runs, and a fingerprint of every fitted run. It also
holds the SHA-256 of its contents as canonical JSON (keys sorted, no spaces). The hash shows that the file
has not changed since it was written. It does not show that the file is older than the run: for that,
commit the file or mail it before the run starts. A run that was fitted, or that finished before the
prediction was made, is not a test of the prediction and is refused. NumPy only.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla import __version__
from chinchilla.core.errors import InputError
from chinchilla.core.files import create_once, make_dirs, pretty_json, read_json, sha256_file
from chinchilla.core.json_codec import decode
from chinchilla.decide.allocation import allocate
from chinchilla.decide.decision import DecisionModel, constants
from chinchilla.decide.predictions import Percentiles, Prediction, ResampledLaws
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.result import LossLaw
from chinchilla.fit.results import RUNS
from chinchilla.observations.table import Observations
from chinchilla.recommend import Recommendation

SCHEMA = 4
SAME_BUDGET = 1.1  # factor in C up to which a run belongs to a predicted budget
FINGERPRINT = 12  # hexadecimal digits (48 bits)
CONVENTIONS = ("flop_convention", "n_convention", "loss_kind")
NO_TIMES = (
    "no recorded time, so it was not checked that the runs finished after the prediction was made; none "
    "of them was part of the fit."
)


@dataclass(frozen=True, kw_only=True)
class RecommendedAnswer(Recommendation):
    """A recommended answer and the law that has its N, D and L; None if no such law exists."""

    law: LossLaw | None


@dataclass(frozen=True, kw_only=True)
class Preregistration:
    """A prediction as it is written to its file."""

    schema: int = SCHEMA
    made_utc: str
    versions: dict[str, str]
    frontier_sha256: str | None
    observations_sha256: str | None
    flop_convention: str
    n_convention: str
    loss_kind: str
    fitted_runs: list[str]  # fingerprints
    settings: dict[str, Any]  # of the command
    recommended: list[RecommendedAnswer]
    predictions: list[Prediction]
    law_name: str  # origin of `law`
    law: LossLaw | None  # predicts the loss of runs at other budgets than `recommended`
    flops_per_token: FlopsPerToken | None  # None: C = 6*N*D
    resampled_laws: list[list[float]]  # rows E, A, B, alpha, beta
    log_residuals: list[float]
    sha256: str = ""


@dataclass(frozen=True)
class Score:
    """One measured run compared with the prediction for its own N and D."""

    run_id: str
    N: float
    D: float
    C: float
    measured: float  # nats per token
    predicted: float
    difference: float  # measured - predicted, nats per token
    percent: float  # of the predicted loss
    ci95: list[float] | None  # 95% interval of a new run, by the law
    inside: bool | None  # of the interval that is given; None without an interval
    N_over_best: float  # N over the predicted best N at this run's C
    by: str = ""  # source: "the recommended answer at ... FLOPs", or the law
    interval80: list[float] | None = None  # of the recommended loss, moved to this N and D


# ------------------------------------------------------------------ writing


def preregister(
    predictions: Sequence[Prediction],
    recommended: Sequence[tuple[Recommendation, LossLaw | None]],
    model: DecisionModel | None,
    law_name: str,
    settings: Mapping[str, Any],
    frontier_file: Path | None = None,
    fitted: Observations | None = None,
) -> Preregistration:
    """The record with its date and hash.

    Args:
        predictions: by approach and published law.
        recommended: the recommended answer at each budget, and the law that has its N, D, L there.
        model: the law that predicts the loss of other runs; None if none was fitted or named.
        law_name: the origin of that law.
        settings: of the command.
        frontier_file: frontier.json, if there is one.
        fitted: the runs that it was fitted to.
    """
    resampled = None if model is None else model.resampled
    conventions = {} if model is None else model.conventions
    observations_file = None
    if frontier_file is not None and fitted is not None:
        observations_file = frontier_file.parent / RUNS
    values = {
        "made_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": {
            "chinchilla": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "frontier_sha256": None if frontier_file is None else sha256_file(frontier_file),
        "observations_sha256": None
        if observations_file is None
        else sha256_file(observations_file),
        **{name: conventions.get(name, "unknown") for name in CONVENTIONS},
        "fitted_runs": [] if fitted is None else sorted(set(fingerprints(fitted.finals()))),
        "settings": dict(settings),
        "recommended": [
            {**r.to_dict(), "law": None if law is None else constants(law)}
            for r, law in recommended
        ],
        "predictions": [asdict(row) for row in predictions],
        "law_name": law_name,
        "law": None if model is None else constants(model.law),
        "flops_per_token": None if model is None or model.cost is None else asdict(model.cost),
        "resampled_laws": []
        if resampled is None
        else [[float(f"{x:.10g}") for x in row] for row in resampled.theta.tolist()],
        "log_residuals": []
        if resampled is None
        else [float(f"{x:.6g}") for x in resampled.residuals],
    }
    record = _typed(json.loads(json.dumps(values)), "prediction")
    return replace(record, sha256=digest(asdict(record)))


def fingerprints(obs: Observations) -> list[str]:
    """A fingerprint of each run: a hash of N, D and the final loss to nine digits."""
    return [
        hashlib.sha256(f"{N:.9g},{D:.9g},{L:.9g}".encode()).hexdigest()[:FINGERPRINT]
        for N, D, L in zip(obs.N, obs.D, obs.L, strict=True)
    ]


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a record without its own hash."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def save(record: Preregistration, path: Path | None, folder: Path) -> Path:
    """Write a record; an existing file is never overwritten.

    Args:
        record: from `preregister`.
        path: the file; None = <folder>/preregistered/<date>-<first 8 digits of the hash>.json.
        folder: of the frontier.

    Raises:
        InputError: the file exists.
    """
    if path is None:
        path = folder / "preregistered" / f"{record.made_utc[:10]}-{record.sha256[:8]}.json"
    make_dirs(path.parent)
    if not create_once(path, pretty_json(asdict(record)) + "\n"):
        raise InputError(
            f"preregister_file={path} exists, and a prediction is never overwritten. Give another name."
        )
    return path


# ------------------------------------------------------------------ reading


def load(path: Path) -> Preregistration:
    """Read a record and verify that its contents were not changed.

    Raises:
        InputError: it is another kind of file, or its hash is not that of its contents.
    """
    value = read_json(path, "prediction")
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or "sha256" not in value:
        schema = value.get("schema") if isinstance(value, dict) else None
        raise InputError(
            f"prediction={path} has schema {schema!r}, and this version scores schema {SCHEMA} of `chinchilla "
            "predict preregister=true`. Score an older record with the version of chinchilla that wrote it."
        )
    try:
        sha256 = digest(value)
    except ValueError as error:
        raise InputError(f"prediction={path} contains an invalid value ({error}).") from None
    if sha256 != value["sha256"]:
        raise InputError(
            f"prediction={path} was changed after it was written: its contents have SHA-256 "
            f"{sha256[:8]}..., but it states {str(value['sha256'])[:8]}.... Use the unchanged file."
        )
    record = _typed(value, f"prediction={path}")
    if _time(record.made_utc) is None:
        raise InputError(f"prediction={path}: made_utc={record.made_utc!r} is not a time.")
    if any(len(row) != 5 for row in record.resampled_laws):
        raise InputError(f"prediction={path}: resampled_laws must have rows of five constants.")
    for r in record.recommended:
        ends = r.L_interval80
        if not r.C > 0 or (r.law is not None and (not r.L or ends is None or len(ends) != 2)):
            raise InputError(f"prediction={path}: recommended lacks C, L or its interval.")
    return record


def _typed(value: Any, where: str) -> Preregistration:
    record: Preregistration = decode(Preregistration, value, where)
    return record


def _time(text: str) -> datetime | None:
    """A time in ISO 8601, in UTC if it has no offset; None if the text is not a time."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


# ------------------------------------------------------------------ scoring


def refuse_known(
    record: Preregistration, obs: Observations, times: Sequence[tuple[str, str]] | None = None
) -> list[str]:
    """Refuse results that could be known when the prediction was made.

    Args:
        record: from `load`.
        obs: the results; only the last points of curves are used.
        times: started_utc and finished_utc of each row of `obs.finals()`; None if not recorded.

    Returns:
        Notes on what could not be checked, and on runs that had started before the prediction.

    Raises:
        InputError: a run was part of the fit (same N, D and final loss), or finished before the
            prediction was made.
    """
    obs = obs.finals()
    made, fitted = _time(record.made_utc), set(record.fitted_runs)
    assert made is not None
    known = [fingerprint in fitted for fingerprint in fingerprints(obs)]
    if any(known):
        first = obs.run_id[int(np.argmax(known))]
        raise InputError(
            f"{sum(known)} of {len(obs)} runs ({first}{', ...' if sum(known) > 1 else ''}) were part of the "
            "fit that made this prediction (same N, D and loss), so they do not test it. Score runs that "
            "were not fitted."
        )
    if times is None:
        return [f"these results have {NO_TIMES}"]
    notes = []
    for run_id, (started, finished) in zip(obs.run_id, times, strict=True):
        begin, end = _time(started), _time(finished)
        if end is None:
            notes.append(f"run {run_id} has {NO_TIMES}")
        elif end <= made:
            raise InputError(
                f"run {run_id} finished at {finished}, before this prediction was made "
                f"({record.made_utc}), so it does not test it. Score a run that finished later."
            )
        elif begin is not None and begin < made:
            notes.append(f"run {run_id} had started ({started}) when the prediction was made.")
    return notes


def not_compared(record: Preregistration, obs: Observations) -> list[str]:
    """The conventions that the prediction or the result does not state."""
    return [n for n in CONVENTIONS if "unknown" in (getattr(record, n), getattr(obs, n))]


def score(record: Preregistration, obs: Observations) -> list[Score]:
    """Each run's loss compared with the prediction for its own N and D.

    A run whose C is within SAME_BUDGET of a predicted budget is compared with the recommended answer
    there: the law with its N, D and L gives the loss at the run's N and D, and the 80% interval of L is
    scaled by the same factor. Other runs are compared with the law of the record and the 95% interval of
    a new run: the resampled laws, with the residual of a fitted run.

    Args:
        record: from `load`.
        obs: the results; only the last points of curves are used.

    Raises:
        InputError: the record has no law for a run, or it predicts another loss (train or validation) or
            another count of N or C.
    """
    for name in CONVENTIONS:
        predicted, measured = getattr(record, name), getattr(obs, name)
        if "unknown" in (predicted, measured) or predicted == measured:
            continue
        advice = "Score a result that is counted in the same way."
        if name == "loss_kind":
            advice = "Give the other loss of the result, loss=train or loss=validation."
        raise InputError(
            f"the prediction has {name}={predicted} and the result {name}={measured}: they are not "
            f"comparable. {advice}"
        )
    obs = obs.finals()
    columns = zip(obs.run_id, obs.C, obs.N, obs.D, obs.L, strict=True)
    return [_score_run(record, str(run_id), *map(float, run)) for run_id, *run in columns]


def _score_run(
    record: Preregistration, run_id: str, C: float, N: float, D: float, measured: float
) -> Score:
    answers = [r for r in record.recommended if r.law is not None]
    nearest = min(answers, key=lambda r: abs(np.log(r.C / C)), default=None)
    ci95 = interval80 = None
    if nearest is not None and abs(np.log(nearest.C / C)) <= np.log(SAME_BUDGET):
        law, by = nearest.law, f"the recommended answer at {nearest.C:.3g} FLOPs"
        assert law is not None
        assert nearest.L is not None
        interval80 = [float(law(N, D)) * end / nearest.L for end in nearest.L_interval80 or []]
    elif record.law is not None:
        law, by = record.law, record.law_name
        if record.resampled_laws:
            theta, residuals = np.array(record.resampled_laws), np.array(record.log_residuals)
            new_runs = Percentiles.of(ResampledLaws(theta, residuals).measured(N, D))
            ci95 = None if new_runs is None else new_runs.ci95
    else:
        raise InputError(
            f"this prediction has no law, so no loss was predicted for a run of {C:.3g} FLOPs. Score a "
            "run at a predicted budget, or predict with approach 3 fitted or with law=NAME."
        )
    predicted = float(law(N, D))
    interval = interval80 or ci95
    return Score(
        run_id=run_id,
        N=N,
        D=D,
        C=C,
        measured=measured,
        predicted=predicted,
        difference=measured - predicted,
        percent=100 * (measured / predicted - 1),
        ci95=ci95,
        inside=None if interval is None else interval[0] <= measured <= interval[1],
        N_over_best=N / allocate(law, C, record.flops_per_token).N,
        by=by,
        interval80=interval80,
    )

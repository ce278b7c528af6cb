"""Preregistered predictions: written before a run with a date and a hash, and later scored.

The file holds everything that scoring needs: the recommended answers, the predictions of each approach,
the law with its resamples, the residuals of the runs, and a fingerprint of every fitted run. It also
holds the SHA-256 of its contents as canonical JSON (keys sorted, no spaces). The hash shows that the file
has not changed since it was written. It does not show that the file is older than the run: for that,
commit the file or mail it before the run starts. A run that was fitted, or that finished before the
prediction was made, is not a test of the prediction and is refused.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla import __version__
from chinchilla.core.errors import InputError
from chinchilla.core.files.json_codec import decode
from chinchilla.core.files.reading import TEXT_BYTES, read_json, sha256_file
from chinchilla.core.files.writing import create_once, make_dirs, pretty_json
from chinchilla.decide.allocation import best_sizes
from chinchilla.decide.decision import FITTED, DecisionModel
from chinchilla.decide.predictions import Prediction, interval, resampled_losses
from chinchilla.fit.loss_law import FlopsPerToken
from chinchilla.fit.result import LossLaw, approach_label
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations
from chinchilla.recommend import Recommendation
from chinchilla.recommend.evaluate import default_budget, local_law

SCHEMA = 5
SAME_BUDGET = 1.1  # factor in C up to which a run belongs to a predicted budget
FINGERPRINT = 12  # hexadecimal digits (48 bits)
CONVENTIONS = ("flop_convention", "n_convention", "loss_kind")


@dataclass(frozen=True, kw_only=True)
class RecommendedAnswer(Recommendation):
    """A recommended answer and the law that has its N, D and L; None if no such law exists."""

    law: LossLaw | None


@dataclass(frozen=True, kw_only=True)
class Preregistration:
    """A prediction as it is written to its file."""

    schema: int = SCHEMA
    made_utc: str
    version: str  # of chinchilla
    frontier_sha256: str | None
    conventions: dict[str, str]  # of the fitted runs, by CONVENTIONS; unknown if not stated
    fitted_runs: list[str]  # fingerprints
    settings: dict[str, Any]  # of the command
    recommended: list[RecommendedAnswer]
    predictions: list[Prediction]
    law_name: str  # origin of `law`
    law: LossLaw | None  # predicts the loss of runs at other budgets than `recommended`
    flops_per_token: FlopsPerToken | None  # None: C = 6*N*D
    law_samples: list[list[float]]  # its resamples, five rows E, A, B, alpha, beta
    log_residuals: list[float]  # ln L - ln L_hat of each fitted run
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
    level: int  # of the interval: 80 of the recommended loss, 95 of a new run by the law
    interval: list[float] | None
    inside: bool | None  # of the interval; None without one
    N_over_best: float  # N over the predicted best N at this run's C
    by: str  # source: "the recommended answer at ... FLOPs", or the law


# ------------------------------------------------------------------ writing


def preregister(
    fits: FitResults | None,
    model: DecisionModel | None,
    predictions: Sequence[Prediction],
    recommended: Sequence[Recommendation],
    settings: Mapping[str, Any],
    frontier_file: Path | None = None,
) -> Preregistration:
    """The record with its date and hash.

    Args:
        fits: the fits, if any.
        model: the law that predicts the loss of other runs; None if none was fitted or named.
        predictions: by approach and published law.
        recommended: the recommended answer at each budget; empty if a published law decides.
        settings: of the command.
        frontier_file: frontier.json of the fits, with the fitted runs beside it.
    """
    law_name, samples, residuals = "" if model is None else model.name, [], []
    if fits is not None and law_name == FITTED:  # the law for runs at other budgets
        law_name = f"{FITTED} at {default_budget(fits):.3g} FLOPs"
        if "parametric" in fits.fitted:
            parametric = fits.fitted["parametric"]
            law_name, samples = approach_label("parametric"), parametric.law_samples
            residuals = parametric.log_residuals
    runs = None
    if fits is not None and frontier_file is not None:
        runs = fits.observations().finals()
    conventions = {} if model is None else model.conventions
    record = Preregistration(
        made_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        frontier_sha256=None if frontier_file is None else sha256_file(frontier_file),
        conventions={name: conventions.get(name, "unknown") for name in CONVENTIONS},
        fitted_runs=[] if runs is None else sorted(set(fingerprints(runs))),
        settings=dict(settings),
        recommended=[
            RecommendedAnswer(**vars(r), law=local_law(fits, r.C))
            for r in recommended
            if fits is not None
        ],
        predictions=list(predictions),
        law_name=law_name,
        law=None if model is None else model.law,
        flops_per_token=None if model is None else model.cost,
        law_samples=samples,
        log_residuals=residuals,
    )
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


# ------------------------------------------------------------------ reading and scoring


def load(path: Path) -> Preregistration:
    """Read a record and verify that its contents were not changed.

    Raises:
        InputError: it is another kind of file, or its hash is not that of its contents.
    """
    value = read_json(path, "prediction", TEXT_BYTES)
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
    record: Preregistration = decode(Preregistration, value, f"prediction={path}")
    return record


def score(
    record: Preregistration, obs: Observations, finished_utc: str = ""
) -> tuple[list[Score], list[str]]:
    """Each run's loss compared with the prediction for its own N and D.

    A run whose C is within SAME_BUDGET of a predicted budget is compared with the recommended answer
    there: the law with its N, D and L gives the loss at the run's N and D, and the 80% interval of L is
    scaled by the same factor. Other runs are compared with the law of the record and the 95% interval of
    a new run: the resampled laws, with the residual of a fitted run.

    Args:
        record: from `load`.
        obs: the results; only the last points of curves are used.
        finished_utc: when the run finished, ISO 8601 in UTC; empty if not recorded.

    Returns:
        Scores, and notes on what could not be compared or checked.

    Raises:
        InputError: the record has no law for a run, it predicts another loss (train or validation) or
            another count of N or C, or a run was part of the fit or finished before the prediction.
    """
    obs = obs.finals()
    notes = _check_conventions(record, obs) + _check_known(record, obs, finished_utc)
    columns = zip(obs.run_id, obs.C, obs.N, obs.D, obs.L, strict=True)
    return [_score_run(record, str(run_id), *map(float, run)) for run_id, *run in columns], notes


def _check_conventions(record: Preregistration, obs: Observations) -> list[str]:
    """Refuse results with other conventions; a note on those that are not stated."""
    unknown = []
    for name in CONVENTIONS:
        predicted, measured = record.conventions.get(name, "unknown"), getattr(obs, name)
        if "unknown" in (predicted, measured):
            unknown.append(name)
        elif predicted != measured:
            advice = "Score a result that is counted in the same way."
            if name == "loss_kind":
                advice = "Give the other loss of the result, loss=train or loss=validation."
            raise InputError(
                f"the prediction has {name}={predicted} and the result {name}={measured}: they are not "
                f"comparable. {advice}"
            )
    if not unknown:
        return []
    names = ", ".join(unknown)
    return [f"{names} not compared: the prediction or the result does not state it."]


def _check_known(record: Preregistration, obs: Observations, finished_utc: str) -> list[str]:
    """Refuse runs that were fitted or finished before the prediction; a note if the time is not known."""
    known = np.isin(fingerprints(obs), record.fitted_runs)
    if known.any():
        first = obs.run_id[int(np.argmax(known))]
        raise InputError(
            f"{known.sum()} of {len(obs)} runs ({first}{', ...' if known.sum() > 1 else ''}) were part of the "
            "fit that made this prediction (same N, D and loss), so they do not test it. Score runs that "
            "were not fitted."
        )
    if not finished_utc:
        return [
            "no time is recorded for these results, so it was not checked that the runs finished after the "
            "prediction was made; none of them was part of the fit."
        ]
    if datetime.fromisoformat(finished_utc) <= datetime.fromisoformat(record.made_utc):
        raise InputError(
            f"run {obs.run_id[0]} finished at {finished_utc}, before this prediction was made "
            f"({record.made_utc}), so it does not test it. Score a run that finished later."
        )
    return []


def losses_of_new_run(record: Preregistration, N: float, D: float) -> np.ndarray:
    """(20*k,) losses that a run may measure: those of the k resampled laws, each with the residual of a run."""
    losses = np.repeat(resampled_losses(record.law_samples, N, D), 20)
    n = len(record.log_residuals)
    residuals = np.array(record.log_residuals) * np.sqrt(
        n / max(n - 5, 1)
    )  # five fitted parameters
    return np.asarray(losses * np.exp(np.random.default_rng(0).choice(residuals, len(losses))))


def _score_run(
    record: Preregistration, run_id: str, C: float, N: float, D: float, measured: float
) -> Score:
    answers = [r for r in record.recommended if r.law is not None]
    nearest = min(answers, key=lambda r: abs(np.log(r.C / C)), default=None)
    ends, law, level = None, record.law, 95
    if nearest is not None and abs(np.log(nearest.C / C)) <= np.log(SAME_BUDGET):
        law, level, by = nearest.law, 80, f"the recommended answer at {nearest.C:.3g} FLOPs"
        assert law is not None
        if nearest.L and nearest.L_interval80:
            ends = [float(law(N, D)) * end / nearest.L for end in nearest.L_interval80]
    elif law is not None:
        by = record.law_name
        if record.law_samples:
            ends = interval(losses_of_new_run(record, N, D), level)
    else:
        raise InputError(
            f"this prediction has no law, so no loss was predicted for a run of {C:.3g} FLOPs. Score a "
            "run at a predicted budget, or predict with approach 3 fitted or with law=NAME."
        )
    predicted = float(law(N, D))
    return Score(
        run_id=run_id,
        N=N,
        D=D,
        C=C,
        measured=measured,
        predicted=predicted,
        level=level,
        interval=ends,
        inside=None if ends is None else ends[0] <= measured <= ends[1],
        N_over_best=N / float(best_sizes(law, np.array([C]), record.flops_per_token)[0]),
        by=by,
    )

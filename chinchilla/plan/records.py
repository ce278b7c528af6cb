"""The records of a run and their files: RunSpec, RunResult, Curve.

    RunSpec (plan.jsonl, spec.json) -> RunResult (result.json, curve.npz)
    -> Observations (observations.csv, `observations`) -> FitResult (frontier.json, `fit`)

Each record is a frozen dataclass that reads and writes its own file. NumPy only: this module must
import without torch.
"""

import dataclasses
import functools
import hashlib
import io
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config.groups import OPTIMIZERS, PRECISIONS, SCHEDULES
from chinchilla.core.errors import InputError
from chinchilla.core.files.json_codec import OtherVersion, check_fields, decode, field_names
from chinchilla.core.files.npz import read_npz
from chinchilla.core.files.reading import RefusedFile, UnreadableFile, read_json, sha256_file
from chinchilla.core.files.sealed import DamagedRecord, sealed, unsealed
from chinchilla.core.files.writing import atomic_write, write_json
from chinchilla.core.parametrization import PARAMETRIZATIONS, Multipliers, multipliers
from chinchilla.core.provenance import Code
from chinchilla.core.shapes import FLOP_CONVENTIONS, ModelShape, flops_per_token, n_params

_AGAIN = "launch the sweep again: the run continues from its checkpoint."
CURVE_REMEDY = f"Restore it from a copy, or move result.json beside it away and {_AGAIN}"
STATES = ("finished", "diverged", "failed")
SPEC_SCHEMA = 4
LABELS = ("sweep", "recipe")  # fields of a RunSpec that change nothing
RESULT_SCHEMA = 3
RUN_ID_DIGITS = 12  # hexadecimal; 48 bits: among 20,000 runs, 1e-6 is the chance of two equal ids
MAX_STEPS = 5_000_000  # more are a mistake: GPT-3 had 300,000, and a step has an overhead


def count_label(x: float) -> str:
    """A count with two or three digits and k, m, b or t: 41.5m, 1.3b."""
    for unit, size in (("t", 1e12), ("b", 1e9), ("m", 1e6), ("k", 1e3)):
        if x >= 0.9995 * size:
            return f"{x / size:.3g}{unit}"
    return f"{x:.3g}"


_CHOICES = {
    "flop_convention": tuple(FLOP_CONVENTIONS),
    "precision": PRECISIONS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "parametrization": PARAMETRIZATIONS,
}


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines a run's losses. Equal specs have the same `run_id`."""

    sweep: str  # name of the sweep; not part of run_id
    budget_flops: float | None  # the planned C; None for a run of approach 1, planned by tokens
    flop_convention: str
    model: ModelShape
    data_id: str  # hash of the token manifest
    batch_tokens: int  # tokens per optimizer step, over all devices
    steps: int
    cosine_steps: int  # length of the cosine; equal to `steps` if matched to the run
    warmup_steps: int
    peak_lr: float
    final_lr_ratio: float
    weight_decay: float
    beta1: float
    beta2: float
    adam_eps: float
    grad_clip: float  # maximum global norm; 0 = no clipping
    precision: str  # bf16 (fp32 master weights), fp32, or bf16_weights (no fp32 copy)
    seed: int  # initial weights and token order
    optimizer: str = "adamw"  # decoupled weight decay; adam adds the decay to the gradient
    schedule: str = "cosine"  # after the warm-up: cosine, cooldown, multistep (`train.schedule`)
    cooldown_steps: int = 0  # last steps, in which the rate of a cooldown falls; 0 for the others
    parametrization: str = "standard"  # standard, mup, completep (`core.parametrization`)
    base_width: int = 0  # d_model that peak_lr was tuned for; 0 for standard
    base_layers: int = 0  # n_layers that peak_lr was tuned for; 0 except for completep
    recipe: str = ""  # name of the recipe; not part of run_id
    schema: int = SPEC_SCHEMA

    def __post_init__(self) -> None:
        for name in ("steps", "cosine_steps", "batch_tokens"):
            if not 1 <= (value := getattr(self, name)) < 2**62:
                raise InputError(f"{name}={value} is not a whole number from 1 to 2^62.")
        if self.budget_flops is not None and not 0 < self.budget_flops < math.inf:
            raise InputError(f"budget_flops={self.budget_flops} is not a positive number.")
        if self.schedule == "cooldown" and not 1 <= self.cooldown_steps <= self.steps:
            raise InputError(
                f"cooldown_steps={self.cooldown_steps} is not from 1 to steps={self.steps}."
            )
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise InputError(f"{name}={value!r}: choose one of {', '.join(known)}.")

    @property
    def N(self) -> int:
        """Parameters including the embedding (`shapes.n_params`)."""
        return n_params(self.model)

    @property
    def D(self) -> int:
        """Training tokens: steps * batch_tokens."""
        return self.steps * self.batch_tokens

    @property
    def multipliers(self) -> Multipliers:
        """Factors of the parametrization for initial weights, activations and rates."""
        return multipliers(self.model, self.parametrization, self.base_width, self.base_layers)

    @property
    def stable_steps(self) -> int:
        """Steps before the cool-down, which runs of other lengths share; 0 for other schedules."""
        return self.steps - self.cooldown_steps if self.schedule == "cooldown" else 0

    @functools.cached_property
    def stable_phase(self) -> "RunSpec | None":
        """The stable phase as a spec, equal for runs of all lengths; None for other schedules.

        It identifies the shared checkpoint and is not trained itself: the fields that depend on the
        length have their smallest values.
        """
        if self.schedule != "cooldown":
            return None
        return dataclasses.replace(
            self, sweep="", recipe="", budget_flops=None, flop_convention="six_nd", steps=1, cosine_steps=1,
            cooldown_steps=1, final_lr_ratio=1.0,
        )  # fmt: skip

    @property
    def stable_phase_id(self) -> str:
        """Folder name of the stable phase, such as n42m-s0-2dd5d86a3f1c; "" if there is none."""
        return self.stable_phase.run_id.partition("-")[2] if self.stable_phase else ""

    @property
    def C(self) -> float:
        """Training FLOPs of `steps` steps under `flop_convention`."""
        return flops_per_token(self.model, self.flop_convention) * self.D

    @functools.cached_property  # `status` needs it several times for thousands of runs
    def run_id(self) -> str:
        """Budget or tokens, N, seed and a hash of all fields, such as c6e18-n42m-s0-2dd5d86a3f1c."""
        identity = {k: v for k, v in self.to_dict().items() if k not in LABELS}
        text = json.dumps(identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:RUN_ID_DIGITS]
        head = f"d{count_label(self.D)}"
        if self.budget_flops is not None:
            head = f"c{self.budget_flops:.3g}".replace("+", "")
        return f"{head}-n{count_label(self.N)}-s{self.seed}-{digest}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        # Not asdict, whose deep copies take seconds for the runs of a large sweep.
        return {f: getattr(self, f) for f in field_names(RunSpec)[0]} | {
            "model": {**vars(self.model)}
        }

    def differences(self, other: "RunSpec") -> str:
        """The fields in which `other` differs, with both values; LABELS are ignored."""
        a, b = ({**vars(s), **vars(s.model)} for s in (self, other))
        names = [f.name for f in (*dataclasses.fields(self), *dataclasses.fields(self.model))]
        compared = [n for n in names if n not in (*LABELS, "model")]
        return ", ".join(f"{n} {a[n]} -> {b[n]}" for n in compared if a[n] != b[n])

    @classmethod
    def from_dict(cls, value: dict[str, Any], where: str) -> "RunSpec":
        spec: RunSpec = decode(cls, value, where, SPEC_SCHEMA)
        return spec

    def to_record(self) -> dict[str, Any]:
        """What spec.json and a line of plan.jsonl contain: all fields and a hash of them."""
        return sealed(self.to_dict())

    @classmethod
    def from_record(cls, value: Any, where: str) -> "RunSpec":
        """A spec as `to_record` made it.

        Raises:
            DamagedRecord: its content is not what was written.
            OtherVersion: another version wrote it.
        """
        return cls.from_dict(unsealed(value, where, SPEC_SCHEMA), where)


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run. Losses are nats per token; times are UTC, ISO 8601.

    D, C and `flops_spent` are those of the whole run, as fits need them, even if another run trained
    its first `reused_tokens` (`train.schedule`). `train_seconds` and `tokens_per_second` refer to its
    own `trained_tokens`.
    """

    spec: RunSpec
    status: str  # finished, diverged, failed
    reason: str  # why it did not finish
    final_loss: float | None  # mean training loss over the last `final_loss_steps` steps
    final_loss_se: float | None  # its standard error
    final_loss_steps: int
    validation_loss: dict[str, float]  # validation set -> mean over its tokens after the last step
    validation_tokens: dict[str, int]
    bits_per_byte: dict[str, float]  # validation_loss / ln(2) * tokens / bytes
    n_params: int  # counted in the trained model
    n_params_non_embedding: int
    steps_done: int
    flops_spent: float  # C of all steps done, under the spec's convention
    train_seconds: float  # without checkpoints, evaluation and compilation; over all starts
    tokens_per_second: float
    mfu: float | None  # model FLOPs utilization of the data-sheet peak; None if that is unknown
    peak_memory_bytes: int
    device: str
    versions: dict[str, str]
    code: Code  # that trained it, or that found it failed
    started_utc: str
    finished_utc: str
    attempts: int = 1  # how often it was started; failed attempts have records of their own
    failure: str = ""  # kind of failure: oom, data, error, lost
    unique_tokens: int | None = None  # distinct tokens among those read; None if not recorded
    epochs: dict[str, float] = field(default_factory=dict)  # source -> passes over its tokens
    reused_tokens: int = 0  # tokens of a stable phase that another run trained
    seconds: dict[str, float] = field(default_factory=dict)  # train, save, evaluate, compile
    execution: dict[str, Any] = field(default_factory=dict)  # how it ran last (`train.result`)
    curve_sha256: str = ""  # of the bytes of curve.npz; "" without a curve
    curve_bytes: int = 0  # size of curve.npz
    schema: int = RESULT_SCHEMA

    def __post_init__(self) -> None:
        if self.status not in STATES:
            raise InputError(f"status={self.status!r} is none of {', '.join(STATES)}.")

    @property
    def trained_tokens(self) -> int:
        """Tokens that this run trained itself."""
        return self.steps_done * self.spec.batch_tokens - self.reused_tokens

    def to_record(self) -> dict[str, Any]:
        """What result.json contains: all fields and a hash of them."""
        return sealed(dataclasses.asdict(self))

    def save(self, run_dir: Path) -> None:
        write_json(run_dir / "result.json", self.to_record())

    @classmethod
    def load(cls, run_dir: Path) -> "RunResult":
        """Read result.json from the folder of its run.

        Raises:
            DamagedRecord: its content is not what was written, or it is another run's.
            OtherVersion: another version wrote it.
            UnreadableFile: the system does not let this process read it.
            InputError: missing, or not JSON.
        """
        result, folder = cls.read(run_dir / "result.json"), Path(os.path.abspath(run_dir)).name
        if result.spec.run_id != folder:
            problem = f"belongs to run {result.spec.run_id}, not {folder}"
            raise DamagedRecord(
                str(run_dir / "result.json"), problem, f"To train it again, {_AGAIN}"
            )
        return result

    @classmethod
    def read(cls, path: Path) -> "RunResult":
        """Read a result from a file in any folder; errors as of `load`."""
        try:
            value = unsealed(read_json(path, "run result"), str(path), RESULT_SCHEMA)
            check_fields(value, cls, str(path), RESULT_SCHEMA)
            check_fields(value["spec"], RunSpec, str(path), SPEC_SCHEMA)
            result: RunResult = decode(cls, value, str(path))
        except (OtherVersion, UnreadableFile):
            raise
        except DamagedRecord as error:
            raise DamagedRecord(
                error.where, error.problem, f"To train it again, {_AGAIN}"
            ) from None
        except InputError as error:
            raise InputError(f"{error} If it is damaged, {_AGAIN}") from None
        return result


@dataclass(frozen=True)
class Curve:
    """The loss of every step of a run, and validation losses after some steps.

    Args:
        step: (n,) number of the update, from 0.
        loss: (n,) loss[i] is measured before update step[i].
        validation_step: (m,) updates done.
        validation_loss: (m,) nats per token.
    """

    step: np.ndarray
    loss: np.ndarray
    validation_step: np.ndarray = field(default_factory=lambda: np.zeros(0))
    validation_loss: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def save(self, run_dir: Path) -> dict[str, Any]:
        """Write curve.npz; returns `file_fields()`."""
        with atomic_write(run_dir / "curve.npz", "wb") as f:
            f.write(self.packed)
        return self.file_fields()

    def file_fields(self) -> dict[str, Any]:
        """The fields by which the run's RunResult names the file."""
        digest = hashlib.sha256(self.packed).hexdigest()
        return {"curve_sha256": digest, "curve_bytes": len(self.packed)}

    @functools.cached_property
    def packed(self) -> bytes:
        """Content of curve.npz."""
        packed = io.BytesIO()
        np.savez_compressed(packed, **dataclasses.asdict(self))
        return packed.getvalue()

    @classmethod
    def load(cls, run_dir: Path, sha256: str = "") -> "Curve":
        """Read curve.npz; `run_folder.load_curve` also checks that it is the curve of a result.

        Args:
            run_dir: folder of the run.
            sha256: that the file must have; "" accepts any.

        Raises:
            DamagedRecord: missing, damaged, or with another hash.
            UnreadableFile: the system does not let this process read it.
        """
        path = run_dir / "curve.npz"
        try:
            if sha256 and sha256_file(path) != sha256:
                raise DamagedRecord(
                    f"training curve {path}", "is not the one that result.json names", CURVE_REMEDY
                )
            names = [each.name for each in dataclasses.fields(cls)]
            curve = cls(**read_npz(path, names, max_values=MAX_STEPS + 1))
            pairs = ((curve.step, curve.loss), (curve.validation_step, curve.validation_loss))
            if any(len(x) != len(y) or (x < 0).any() or (np.diff(x) <= 0).any() for x, y in pairs):
                raise ValueError("steps do not increase from 0")
            return curve
        except DamagedRecord:
            raise
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            problem = f"is damaged ({why})"
            if isinstance(error, FileNotFoundError):
                problem = "is missing"
            elif isinstance(error, OSError) and not isinstance(error, RefusedFile):
                raise UnreadableFile(
                    f"training curve {path} cannot be read ({why}).", error
                ) from None
            raise DamagedRecord(f"training curve {path}", problem, CURVE_REMEDY) from None

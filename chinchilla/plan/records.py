"""The records that flow from stage to stage, and their files.

    RunSpec (plan.jsonl, spec.json) -> RunResult (result.json, curve.npz)
    -> Observations (observations.csv, `observations.py`) -> FitResult (frontier.json, `fit`)

Each is a frozen dataclass with a `schema` number that owns its JSON. Floor 0: NumPy only.
"""

import dataclasses
import functools
import hashlib
import json
import math
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.core.errors import InputError
from chinchilla.core.files import atomic_write, read_json, write_json
from chinchilla.core.json_codec import built, checked, fields_of
from chinchilla.core.parametrization import PARAMETRIZATIONS, Multipliers, multipliers
from chinchilla.core.shapes import FLOP_CONVENTIONS, ModelShape, flops_per_token, n_params

PRECISIONS = ("bf16", "fp32", "bf16_weights")
OPTIMIZERS = ("adamw", "adam")
SCHEDULES = ("cosine", "cooldown", "multistep")
STATES = ("finished", "diverged", "failed")
SPEC_SCHEMA = 2
RESULT_SCHEMA = 2


def count_label(x: float) -> str:
    """A count in two or three digits with k, m, b, t: 41.5m, 1.3b."""
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


_SORTED = json.JSONEncoder(sort_keys=True)


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run's losses, and nothing else: same spec, same `run_id`."""

    sweep: str  # name of the sweep; not part of the identity
    budget_flops: float | None  # C asked for, kept as given; None for a horizon run of approach 1
    flop_convention: str
    model: ModelShape
    data_id: str  # hash of the token manifest
    batch_tokens: int  # tokens per optimizer step, over all devices
    steps: int
    cosine_steps: int  # length of the cosine; equal to `steps` when matched
    warmup_steps: int
    peak_lr: float
    final_lr_ratio: float
    weight_decay: float
    beta1: float
    beta2: float
    adam_eps: float
    grad_clip: float  # global norm; 0 for none
    precision: str  # bf16 (fp32 master weights), fp32, or bf16_weights (no fp32 copy)
    seed: int  # initial weights and token order
    # At their defaults the fields from here on are not written, and are no part of the identity: runs
    # that were planned before there was a choice keep their files and their run_id.
    optimizer: str = (
        "adamw"  # adamw (decoupled weight decay), or adam (decay added to the gradient)
    )
    schedule: str = "cosine"  # after the warm-up: cosine, cooldown, multistep (`train.schedule`)
    cooldown_steps: int = 0  # last steps of a cooldown, in which the rate falls; 0 for the others
    parametrization: str = "standard"  # standard, mup, completep (`parametrization`)
    base_width: int = 0  # d_model whose rate peak_lr is; 0 for standard
    base_layers: int = 0  # n_layers whose rate it is; 0 but for completep
    schema: int = SPEC_SCHEMA

    def __post_init__(self) -> None:
        for name in ("steps", "cosine_steps", "batch_tokens"):
            if not 1 <= getattr(self, name) < 2**62:
                raise InputError(
                    f"{name}={getattr(self, name)} is not a whole number from 1 to 2^62."
                )
        if self.budget_flops is not None and not 0 < self.budget_flops < math.inf:
            raise InputError(f"budget_flops={self.budget_flops} is not a positive number.")
        if self.schedule == "cooldown" and not 1 <= self.cooldown_steps <= self.steps:
            raise InputError(
                f"cooldown_steps={self.cooldown_steps} is not from 1 to steps={self.steps}."
            )
        based = {"base_width": self.parametrization != "standard",
                 "base_layers": self.parametrization == "completep"}  # fmt: skip
        for name, needed in based.items():
            if (getattr(self, name) > 0) != needed or getattr(self, name) < 0:
                raise InputError(
                    f"{name}={getattr(self, name)} does not go with parametrization={self.parametrization!r}."
                )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                told = f"{name}={getattr(self, name)!r}"
                raise InputError(f"{told}: choose one of {', '.join(known)}.")

    @property
    def N(self) -> int:
        """Parameters, embedding included (`shapes.n_params`)."""
        return n_params(self.model)

    @property
    def D(self) -> int:
        """Training tokens: steps * batch_tokens."""
        return self.steps * self.batch_tokens

    @property
    def multipliers(self) -> Multipliers:
        """Factors of its parametrisation on initial weights, activations, rates."""
        return multipliers(self.model, self.parametrization, self.base_width, self.base_layers)

    @property
    def stable_steps(self) -> int:
        """Steps before its cool-down, that longer and shorter runs share; 0 for other schedules."""
        return self.steps - self.cooldown_steps if self.schedule == "cooldown" else 0

    @functools.cached_property
    def stable_phase(self) -> "RunSpec | None":
        """What its steps before the cool-down depend on: equal for all horizons; None without one.

        A name and not a run: of what belongs to a horizon it has the least.
        """
        if self.schedule != "cooldown":
            return None
        return dataclasses.replace(
            self, sweep="", budget_flops=None, flop_convention="six_nd", steps=1, cosine_steps=1,
            cooldown_steps=1, final_lr_ratio=1.0,
        )  # fmt: skip

    @property
    def stable_phase_id(self) -> str:
        """Folder of its stable phase, such as n42m-s0-2dd5d8; "" without one."""
        return self.stable_phase.run_id.partition("-")[2] if self.stable_phase else ""

    @property
    def C(self) -> float:
        """Achieved training FLOPs under `flop_convention`."""
        return flops_per_token(self.model, self.flop_convention) * self.D

    @functools.cached_property  # a status asks each of thousands of runs several times
    def run_id(self) -> str:
        """Readable head plus hash of the spec, such as c6e18-n42m-s0-2dd5d8."""
        identity = {k: v for k, v in self.to_dict().items() if k != "sweep"}
        digest = hashlib.sha256(_SORTED.encode(identity).encode()).hexdigest()[:6]
        head = (
            f"d{count_label(self.D)}"
            if self.budget_flops is None
            else f"c{self.budget_flops:.3g}".replace("+", "")
        )
        return f"{head}-n{count_label(self.N)}-s{self.seed}-{digest}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the later fields that are at their defaults."""
        later, own, model = _later(RunSpec), vars(self), vars(self.model)
        value = {
            name: x for name in fields_of(RunSpec)[0] if (x := own[name]) != later.get(name, ...)
        }
        return {**value, "model": {name: model[name] for name in fields_of(ModelShape)[0]}}

    @classmethod
    def from_dict(cls, value: dict[str, Any], where: str) -> "RunSpec":
        spec: RunSpec = built(cls, checked(value, cls, SPEC_SCHEMA, where), where)
        return spec


@dataclass(frozen=True)
class RunResult:
    """What became of one spec. Losses are nats per token; times are UTC, ISO 8601.

    D, C and `flops_spent` are those of the whole run, as every fit wants them, also where its first
    `reused_tokens` were trained by another run (`train.stable_phases`). `trained_tokens` is what it cost;
    `train_seconds` and `tokens_per_second` are about these.
    """

    spec: RunSpec
    status: str  # finished, diverged, failed
    reason: str  # why, when not finished
    final_loss: float | None  # mean training loss over the last `final_loss_steps` steps
    final_loss_se: float | None  # its standard error
    final_loss_steps: int
    validation_loss: dict[str, float]  # validation set -> mean over its tokens, at the last step
    validation_tokens: dict[str, int]
    bits_per_byte: dict[str, float]  # validation loss / ln 2 * tokens / bytes
    n_params: int  # counted on the built model
    n_params_non_embedding: int
    steps_done: int
    flops_spent: float  # C of the steps done, whoever did them, under the spec's convention
    train_seconds: float  # training only, over all attempts
    tokens_per_second: float
    mfu: float | None  # model FLOPs utilisation against the device's stated peak; None if unknown
    peak_memory_bytes: int
    device: str
    versions: dict[str, str]
    git: str  # commit, "+dirty" when the tree had changes, "" outside a checkout
    started_utc: str
    finished_utc: str
    attempts: int = 1
    failure: str = ""  # what ended a failed run: oom, data, error, lost
    unique_tokens: int | None = None  # of the tokens read, those that differ; None if not recorded
    epochs: dict[str, float] = field(default_factory=dict)  # source -> passes over its tokens
    reused_tokens: int = (
        0  # of its tokens, those that came from a stable phase that another run trained
    )
    schema: int = RESULT_SCHEMA

    def __post_init__(self) -> None:
        if self.status not in STATES:
            raise InputError(f"status={self.status!r} is none of {', '.join(STATES)}.")

    @property
    def trained_tokens(self) -> int:
        """Tokens that this run itself went through."""
        return self.steps_done * self.spec.batch_tokens - self.reused_tokens

    def save(self, run_dir: Path) -> None:
        write_json(run_dir / "result.json", dataclasses.asdict(self))

    @classmethod
    def load(cls, run_dir: Path) -> "RunResult":
        path = run_dir / "result.json"
        try:
            value = checked(read_json(path, "run result"), cls, RESULT_SCHEMA, str(path))
            checked(value["spec"], RunSpec, SPEC_SCHEMA, str(path))
            result: RunResult = built(cls, value, str(path))
            return result
        except InputError as error:
            raise InputError(
                f"{error} If it is damaged, launch the sweep again: the run goes on from its "
                "checkpoint."
            ) from None


@dataclass(frozen=True)
class Curve:
    """One run's training: the loss of every step, and validation losses at some steps.

    Arrays: step (n,) and loss (n,) with loss[i] measured before update step[i]; validation_step
    (m,) updates done, validation_loss (m,).
    """

    step: np.ndarray
    loss: np.ndarray
    validation_step: np.ndarray = field(default_factory=lambda: np.zeros(0))
    validation_loss: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def save(self, run_dir: Path) -> None:
        with atomic_write(run_dir / "curve.npz", "wb") as f:
            np.savez_compressed(f, **dataclasses.asdict(self))

    @classmethod
    def load(cls, run_dir: Path) -> "Curve":
        try:
            with np.load(run_dir / "curve.npz", allow_pickle=False) as z:
                arrays = {k: z[k] for k in ("step", "loss", "validation_step", "validation_loss")}
            # NumPy gives a member that is no array as its bytes.
            if any(
                getattr(a, "ndim", 0) != 1 or a.dtype.kind not in "fiu" for a in arrays.values()
            ):
                raise ValueError("not four arrays of numbers")
            curve = cls(**arrays)
            pairs = ((curve.step, curve.loss), (curve.validation_step, curve.validation_loss))
            if any(len(x) != len(y) or (x < 0).any() or (np.diff(x) <= 0).any() for x, y in pairs):
                raise ValueError("not losses at steps that rise from 0")
            return curve
        except (
            OSError, EOFError, ValueError, TypeError, KeyError, MemoryError,
            zipfile.BadZipFile, zlib.error,
        ) as error:  # fmt: skip
            what = "missing" if isinstance(error, FileNotFoundError) else "damaged"
            lacks = f", {error.args[0]}" if isinstance(error, KeyError) else ""
            raise InputError(
                f"training curve {run_dir / 'curve.npz'} is {what}{lacks}. Delete result.json beside it "
                "and launch the sweep again: the run goes on from its checkpoint."
            ) from None


@functools.cache
def _later(cls: type) -> dict[str, Any]:
    """Fields that records of the same schema have not always had, with what was understood then."""
    fields = dataclasses.fields(cls)
    return {
        f.name: f.default
        for f in fields
        if f.default is not dataclasses.MISSING and f.name != "schema"
    }


def save_plan(specs: list[RunSpec], path: Path) -> None:
    """Write plan.jsonl: one spec a line."""
    with atomic_write(path) as f:
        f.writelines(json.dumps(s.to_dict(), allow_nan=False) + "\n" for s in specs)


_PLAN_ADVICE = (
    "If it is damaged, move it away and give the same sweep command again: the plan is written anew, "
    "and runs that were trained are kept."
)


def load_plan(path: Path) -> list[RunSpec]:
    """Read plan.jsonl.

    Raises:
        InputError: missing, not JSON lines, without runs, another schema.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"plan {path} cannot be read ({why}). Give a folder that `chinchilla sweep` made."
        ) from None
    specs: dict[str, RunSpec] = {}  # a run counts once, however often its line stands there
    for i, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} line {i} is not JSON ({error}). {_PLAN_ADVICE}") from None
        spec = RunSpec.from_dict(value, f"{path} line {i}")
        specs[spec.run_id] = spec
    if not specs:
        raise InputError(f"plan {path} has no runs in it. {_PLAN_ADVICE}")
    return list(specs.values())

"""The records of a run and their files: RunSpec, RunResult, Curve.

    RunSpec (plan.jsonl, spec.json) -> RunResult (result.json, curve.npz)
    -> Observations (observations.csv, `observations`) -> FitResult (frontier.json, `fit`)

Each record is a frozen dataclass that reads and writes its own file. NumPy only: this module must
import without torch.
"""

import dataclasses
import errno
import functools
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config.groups import OPTIMIZERS, PRECISIONS, SCHEDULES
from chinchilla.core.errors import InputError, nearest_path
from chinchilla.core.files import atomic_write, write_json
from chinchilla.core.json_codec import check_fields, decode
from chinchilla.core.parametrization import PARAMETRIZATIONS, Multipliers, multipliers
from chinchilla.core.reading import read_json
from chinchilla.core.shapes import FLOP_CONVENTIONS, ModelShape, flops_per_token, n_params

STATES = ("finished", "diverged", "failed")
SPEC_SCHEMA = 3
LABELS = ("sweep", "recipe")  # fields of a RunSpec that change nothing
RESULT_SCHEMA = 2


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
        """Folder name of the stable phase, such as n42m-s0-2dd5d8; "" if there is none."""
        return self.stable_phase.run_id.partition("-")[2] if self.stable_phase else ""

    @property
    def C(self) -> float:
        """Training FLOPs of `steps` steps under `flop_convention`."""
        return flops_per_token(self.model, self.flop_convention) * self.D

    @functools.cached_property  # `status` needs it several times for thousands of runs
    def run_id(self) -> str:
        """Budget or tokens, N, seed and a hash of all fields, such as c6e18-n42m-s0-2dd5d8."""
        identity = {k: v for k, v in self.to_dict().items() if k not in LABELS}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:6]
        head = f"d{count_label(self.D)}"
        if self.budget_flops is not None:
            head = f"c{self.budget_flops:.3g}".replace("+", "")
        return f"{head}-n{count_label(self.N)}-s{self.seed}-{digest}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return dataclasses.asdict(self)

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
    git: str  # commit, "+dirty" if the tree had changes, "" outside a checkout
    started_utc: str
    finished_utc: str
    attempts: int = 1  # how often it was started; failed attempts have records of their own
    failure: str = ""  # kind of failure: oom, data, error, lost
    unique_tokens: int | None = None  # distinct tokens among those read; None if not recorded
    epochs: dict[str, float] = field(default_factory=dict)  # source -> passes over its tokens
    reused_tokens: int = 0  # tokens of a stable phase that another run trained
    seconds: dict[str, float] = field(default_factory=dict)  # train, save, evaluate, compile
    execution: dict[str, Any] = field(default_factory=dict)  # how it ran last (`train.result`)
    schema: int = RESULT_SCHEMA

    def __post_init__(self) -> None:
        if self.status not in STATES:
            raise InputError(f"status={self.status!r} is none of {', '.join(STATES)}.")

    @property
    def trained_tokens(self) -> int:
        """Tokens that this run trained itself."""
        return self.steps_done * self.spec.batch_tokens - self.reused_tokens

    def save(self, run_dir: Path) -> None:
        write_json(run_dir / "result.json", dataclasses.asdict(self))

    @classmethod
    def load(cls, run_dir: Path) -> "RunResult":
        path = run_dir / "result.json"
        try:
            value = check_fields(read_json(path, "run result"), cls, str(path), RESULT_SCHEMA)
            check_fields(value["spec"], RunSpec, str(path), SPEC_SCHEMA)
            result: RunResult = decode(cls, value, str(path))
            return result
        except InputError as error:
            raise InputError(
                f"{error} If it is damaged, launch the sweep again: the run continues from its "
                "checkpoint."
            ) from None


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

    def save(self, run_dir: Path) -> None:
        with atomic_write(run_dir / "curve.npz", "wb") as f:
            np.savez_compressed(f, **dataclasses.asdict(self))

    @classmethod
    def load(cls, run_dir: Path) -> "Curve":
        try:
            with np.load(run_dir / "curve.npz", allow_pickle=False) as z:
                arrays = {k: z[k] for k in ("step", "loss", "validation_step", "validation_loss")}
            for a in arrays.values():  # a member that is not an array is bytes
                if getattr(a, "ndim", 0) != 1 or a.dtype.kind not in "fiu":
                    raise ValueError("not four arrays of numbers")
            curve = cls(**arrays)
            pairs = ((curve.step, curve.loss), (curve.validation_step, curve.validation_loss))
            if any(len(x) != len(y) or (x < 0).any() or (np.diff(x) <= 0).any() for x, y in pairs):
                raise ValueError("steps do not increase from 0")
            return curve
        except Exception as error:  # of a damaged file NumPy, zipfile and zlib raise a dozen types
            what = "missing" if isinstance(error, FileNotFoundError) else "damaged"
            lacks = f", {error.args[0]}" if isinstance(error, KeyError) else ""
            raise InputError(
                f"training curve {run_dir / 'curve.npz'} is {what}{lacks}. Delete result.json beside it "
                "and launch the sweep again: the run continues from its checkpoint."
            ) from None


def save_plan(specs: list[RunSpec], path: Path) -> None:
    """Write plan.jsonl, one spec per line."""
    with atomic_write(path) as f:
        f.writelines(json.dumps(s.to_dict(), allow_nan=False) + "\n" for s in specs)


def _no_sweep(folder: Path) -> str:
    """Why a folder is not that of a sweep, with the one that may be meant."""
    if not folder.exists():
        problem, hint = "does not exist", nearest_path(folder)
    else:
        problem, near = "is not the folder of a sweep: it has no plan.jsonl", [folder.parent]
        if folder.is_dir():
            near = [*folder.parents, *sorted(folder.iterdir())]
        sweeps = [each for each in near if (each / "plan.jsonl").is_file()]
        hint = f" Did you mean {sweeps[0]}?" if sweeps else ""
    return f"{folder} {problem}.{hint} Give a folder that `chinchilla sweep` made."


class DamagedPlan(InputError):
    """A plan.jsonl that cannot be read, completely or in part. Launching again writes it anew."""


_PLAN_ADVICE = (
    "Give the same sweep command again: the plan is written again, and trained runs are kept."
)


def load_plan(path: Path) -> list[RunSpec]:
    """Read plan.jsonl completely.

    Raises:
        InputError: the file is missing, not JSON lines, empty, or of another schema.
    """
    specs, problems = read_plan(path)
    if problems:
        raise DamagedPlan(problems[0])
    return specs


def read_plan(path: Path) -> tuple[list[RunSpec], list[str]]:
    """The runs of plan.jsonl, and a message for each line that cannot be read.

    Raises:
        DamagedPlan: no line can be read.
        InputError: the file is missing, of another schema, or its file system does not answer.
    """
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(_no_sweep(path.parent)) from None
    except OSError as error:
        why = f"plan {path} cannot be read ({error.strerror or error})."
        if error.errno in (errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM):
            raise DamagedPlan(f"{why} {_PLAN_ADVICE}") from None
        raise InputError(f"{why} Look at the disk or the file server.") from None
    specs: dict[str, RunSpec] = {}  # repeated lines count once
    problems, other_version = [], 0
    for i, line in enumerate(lines, 1):
        value = None
        try:
            value = json.loads(line.decode())
            spec = RunSpec.from_dict(value, f"{path} line {i}")
            specs[spec.run_id] = spec
        except InputError as error:
            schema = value.get("schema") if isinstance(value, dict) else None
            other_version += type(schema) is int and schema != SPEC_SCHEMA
            problems.append(f"{error} {_PLAN_ADVICE}")
        except (ValueError, RecursionError) as error:
            problems.append(f"{path} line {i} is not JSON ({error}). {_PLAN_ADVICE}")
    if not specs:
        if problems and other_version == len(problems):
            raise InputError(problems[0].removesuffix(f" {_PLAN_ADVICE}"))
        raise DamagedPlan(
            problems[0] if problems else f"plan {path} has no runs in it. {_PLAN_ADVICE}"
        )
    return list(specs.values()), problems

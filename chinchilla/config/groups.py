"""Knobs that several commands share: model, recipe, grid, cluster, runtime."""

import itertools
import math
import re
from dataclasses import dataclass, field

from chinchilla.config.checks import (
    require_choice,
    require_mfu,
    require_not_negative,
    require_positive,
)
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import FLOP_CONVENTIONS


@dataclass(kw_only=True)
class ModelConfig:
    """One shape, in Table A9's names. `model=44m` ... `model=16b` choose a row of the table."""

    d_model: int = 512  # width of the residual stream
    ffw_size: int = 0  # width of the feed-forward layer; 0 = 4 * d_model
    kv_size: int = 64  # width of one attention head
    n_heads: int = 0  # attention heads; 0 = d_model / kv_size
    n_layers: int = 8  # transformer blocks
    vocab_size: int = 0  # 0 = the tokenizer's
    seq_len: int = 2_048  # tokens a row predicts
    positions: str = "rope"  # rope, or relative (Transformer-XL, as the paper)


@dataclass(kw_only=True)
class RecipeConfig:
    """How to train, whatever the size; `train` and `sweep` share it. All of it enters run_id."""

    lr_batch_rule: str = (
        "none"  # law for what is 0 of peak_lr and batch_tokens: none, step_law, deepseek
    )
    peak_lr: float = 2e-4  # learning rate after warm-up, at d_model = lr_base_width; 0 = the rule's
    lr_base_width: int = (
        512  # width that peak_lr is stated for; of mup and completep the base width
    )
    lr_width_exponent: float = (
        0.0  # peak = peak_lr * (lr_base_width / d_model)^exponent; 0 = constant
    )
    parametrization: str = (
        "standard"  # standard, mup (rate for any width), completep (and any depth)
    )
    base_layers: int = 0  # parametrization=completep: layers that peak_lr is stated for
    schedule: str = (
        "cosine"  # after warm-up: cosine, cooldown (constant, then 1-sqrt), multistep (DeepSeek)
    )
    final_lr_ratio: float = 0.1  # last learning rate / peak (section 3: decay by 10x); 0 with a cooldown = to nothing, with step_law = 1e-5 / peak
    cosine_cycle: float = 1.0  # length of the cosine / length of the run; above 1 shows figure A1
    cooldown_fraction: float = (
        0.2  # schedule=cooldown: last share of a run, in which the rate falls
    )
    warmup_steps: int = (
        1_500  # linear warm-up, optimizer steps, at most; schedule=cooldown: exactly
    )
    warmup_fraction: float = (
        0.05  # ... and at most this share of the run; schedule=cooldown: unused
    )
    batch_tokens: int = 524_288  # tokens per optimizer step, over all devices; 0 = the rule's
    batch_multiple_rows: int = (
        1  # rows that a rule's batch is a multiple of, such as the ranks of a run
    )
    optimizer: str = (
        "adamw"  # adamw (decoupled decay), adam (decay added to the gradient: figure A7)
    )
    weight_decay: float = 0.1  # on matrices only
    beta1: float = 0.9  # Adam's, of the gradient's mean
    beta2: float = 0.95  # Adam's, of its square's mean
    adam_eps: float = 1e-8  # Adam's
    grad_clip: float = 1.0  # global norm; 0 = no clipping
    precision: str = "auto"  # bf16 (fp32 master weights), fp32, bf16_weights (no fp32 copy: figure A6); auto = bf16 where there is a GPU
    seed: int = 0  # initial weights and token order

    def __post_init__(self) -> None:
        for key in ("cosine_cycle", "batch_multiple_rows", "lr_base_width", "adam_eps"):
            require_positive(f"recipe.{key}", getattr(self, key))
        require_choice("recipe.lr_batch_rule", self.lr_batch_rule, ("none", "step_law", "deepseek"))
        require_choice("recipe.schedule", self.schedule, ("cosine", "cooldown", "multistep"))
        for key in ("peak_lr", "batch_tokens"):
            (require_positive if self.lr_batch_rule == "none" else require_not_negative)(
                f"recipe.{key}", getattr(self, key)
            )
        require_choice(
            "recipe.parametrization", self.parametrization, ("standard", "mup", "completep")
        )
        require_not_negative("recipe.base_layers", self.base_layers)
        self._check_parametrization()
        if self.lr_batch_rule != "none":
            self._check_rule()
        if self.schedule == "cooldown":
            self._check_cooldown()
        require_choice("recipe.precision", self.precision, ("auto", "bf16", "fp32", "bf16_weights"))
        require_choice("recipe.optimizer", self.optimizer, ("adamw", "adam"))
        to_nothing = self.schedule == "cooldown" or (self.schedule, self.lr_batch_rule) == (
            "cosine",
            "step_law",
        )
        if not (0 < self.final_lr_ratio <= 1 or (to_nothing and self.final_lr_ratio == 0)):
            raise InputError(f"recipe.final_lr_ratio={self.final_lr_ratio} is not in (0, 1].")
        if not 0 <= self.warmup_fraction < 1:
            raise InputError(f"recipe.warmup_fraction={self.warmup_fraction} is not in [0, 1).")
        if self.cosine_cycle < 1:
            raise InputError(
                f"recipe.cosine_cycle={self.cosine_cycle} is below 1: the cosine would end before the run does."
            )
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise InputError(f"recipe.{key}={getattr(self, key)} is not in [0, 1).")
        for key in ("warmup_steps", "weight_decay", "grad_clip", "seed"):
            require_not_negative(f"recipe.{key}", getattr(self, key))

    def _check_parametrization(self) -> None:
        kind = f"recipe.parametrization={self.parametrization}"
        if (self.base_layers > 0) != (self.parametrization == "completep"):
            raise InputError(
                f"{kind} with recipe.base_layers={self.base_layers}: completep needs the layers that "
                "recipe.peak_lr is stated for, and nothing else does."
            )
        if self.parametrization == "standard":
            return
        if self.lr_width_exponent:
            raise InputError(
                f"{kind} scales the rate with the width by itself: recipe.lr_width_exponent="
                f"{self.lr_width_exponent} would scale it twice. Give 0."
            )
        if self.lr_batch_rule != "none" and not self.peak_lr:
            raise InputError(
                f"recipe.lr_batch_rule={self.lr_batch_rule} states rates of the standard parametrisation. Give "
                f"recipe.peak_lr with {kind}."
            )
        if self.parametrization == "completep" and self.optimizer != "adamw":
            raise InputError(
                f"{kind} states the decay of AdamW, not of recipe.optimizer={self.optimizer}."
            )

    def _check_rule(self) -> None:
        if self.peak_lr and self.batch_tokens:
            raise InputError(
                f"recipe.lr_batch_rule={self.lr_batch_rule} has nothing to decide beside recipe.peak_lr={self.peak_lr} and "
                f"recipe.batch_tokens={self.batch_tokens}. Give 0 for what it should, as recipe={self.lr_batch_rule} does."
            )
        if not self.peak_lr and self.lr_width_exponent:
            raise InputError(
                f"recipe.lr_batch_rule={self.lr_batch_rule} gives every run its own peak rate: "
                f"recipe.lr_width_exponent={self.lr_width_exponent} would scale it twice. Give 0."
            )
        if self.schedule == "cooldown":
            raise InputError(
                f"recipe.lr_batch_rule={self.lr_batch_rule} gives every horizon another rate or batch, and "
                "recipe.schedule=cooldown is for horizons that share one. Choose one of the two."
            )

    def _check_cooldown(self) -> None:
        if not 0 < self.cooldown_fraction < 1:
            raise InputError(f"recipe.cooldown_fraction={self.cooldown_fraction} is not in (0, 1).")
        if self.cosine_cycle != 1:
            raise InputError(
                f"recipe.cosine_cycle={self.cosine_cycle} is for recipe.schedule=cosine, not cooldown."
            )


@dataclass(kw_only=True)
class GridConfig:
    """Which runs make a sweep: isoFLOP profiles (approach 2) and fixed sizes at several horizons (1)."""

    name: str = "custom"  # names the sweep
    budgets: list[float] = field(default_factory=list)  # FLOPs of each isoFLOP profile
    models: list[str] = field(default_factory=list)  # candidates: Table A9 names, or WIDTHxLAYERS
    kv_size: int = 64  # head width of WIDTHxLAYERS shapes
    seq_len: int = 2_048  # tokens a row predicts
    vocab_size: int = 0  # 0 = the tokenizer's; needed when planning without data
    positions: str = "rope"  # rope, or relative (Transformer-XL, as the paper)
    flop_convention: str = "with_head"  # with_head, paper, appendix_f, six_nd
    sizes_per_budget: int = 0  # so many candidates, log-spaced around the expected optimum; 0 = all
    span: float = 4.0  # ... from expected / span to expected * span
    expected_coefficient: float = 0.14488  # expected N_opt = coefficient * C^exponent (Table A3)
    expected_exponent: float = 0.4899  # by approach 2 of the paper (Table A3)
    min_sizes: int = 5  # fewer sizes at a budget are refused
    min_side: int = 2  # fewer sizes on a side of the expected optimum are refused
    min_steps: int = 100  # a run with fewer optimizer steps is refused
    horizon_models: list[str] = field(default_factory=list)  # sizes trained at several horizons
    horizon_tokens_per_param: list[float] = field(default_factory=list)  # D/N of those runs

    def __post_init__(self) -> None:
        for budget in self.budgets:
            require_positive("grid.budgets", budget)
        require_positive("grid.kv_size", self.kv_size)
        require_choice("grid.flop_convention", self.flop_convention, tuple(FLOP_CONVENTIONS))
        if bool(self.horizon_models) != bool(self.horizon_tokens_per_param):
            raise InputError(
                "grid.horizon_models and grid.horizon_tokens_per_param make runs only together: give both."
            )
        for key in ("sizes_per_budget", "vocab_size", "min_sizes", "min_side", "min_steps"):
            require_not_negative(f"grid.{key}", getattr(self, key))
        if not self.span > 1:
            raise InputError(
                f"grid.span={self.span} must be above 1: sizes lie in expected/span..expected*span."
            )
        for ratio in self.horizon_tokens_per_param:
            require_positive("grid.horizon_tokens_per_param", ratio)
        if not self.models or not self.budgets:
            raise InputError(
                "the grid has no models or no budgets. Choose one with grid=NAME, or give both."
            )


@dataclass(kw_only=True)
class ResourceConfig:
    """Slurm jobs for the models of a sweep up to a size; what is null is the cluster's own."""

    name: str  # names these jobs in what is said about them
    max_params: float = 0.0  # largest N that takes them; 0 = any
    n_workers: int | None = None  # jobs of this shape
    nodes: int | None = None  # nodes of one job
    ranks_per_node: int | None = None  # ranks of a run on each node
    gpus_per_node: int | None = None  # GPUs of one job on each node
    cpus_per_task: int | None = None  # cores of one job, or of one rank
    host_memory_gb: int | None = None  # host memory on each node
    timeout_min: int | None = None  # time limit, minutes
    partition: str | None = None  # slurm partition
    account: str | None = None  # slurm account
    qos: str | None = None  # slurm QOS
    constraint: str | None = None  # node features
    peak_flops: float | None = None  # of one device, FLOP/s
    mfu: float | None = None  # expected model FLOPs utilisation
    gpu_memory_gb: float | None = None  # of one device, 1e9 bytes
    price_per_device_hour: float | None = None  # in your currency

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise InputError(
                f"cluster.resources: name={self.name!r} must be one word, such as small."
            )
        require_not_negative(f"cluster.resources, {self.name}: max_params", self.max_params)
        if self.mfu is not None:
            require_mfu(f"cluster.resources, {self.name}: mfu", self.mfu)


@dataclass(kw_only=True)
class ClusterConfig:
    """Where runs are trained, and what that costs."""

    kind: str = "local"  # debug (in this process), local (processes here, one per GPU), slurm, torchrun (starts nothing, says how)
    n_workers: int = 0  # processes, 0 = one per GPU or core; on slurm the size of the job array
    threads_per_worker: int = 0  # CPU threads of one worker; 0 = cores / workers
    peak_flops: float = 989e12  # of one device, FLOP/s, dense bf16 (H100 SXM data sheet)
    mfu: float = 0.4  # expected model FLOPs utilisation, for estimates only
    gpu_memory_gb: float = 80.0  # of one device, 1e9 bytes
    price_per_device_hour: float = 2.5  # in your currency
    partition: str = ""  # slurm
    account: str = ""  # slurm
    qos: str = ""  # slurm
    constraint: str = ""  # slurm
    max_queued_jobs: int = (
        0  # slurm: most jobs of yours in the queue at once, as a QOS may limit; 0 = any
    )
    timeout_min: int = 240  # slurm: time limit of one worker, minutes
    nodes: int = 1  # slurm, torchrun: nodes of one job
    ranks_per_node: int = (
        1  # slurm, torchrun: ranks of a run on each node; 1 on 1 node = a worker per GPU
    )
    cpus_per_task: int = 8  # slurm: cores of one job, or of one rank where a job has several
    gpus_per_node: int = 1  # slurm: GPUs of one job on each node
    host_memory_gb: int = 64  # slurm: host memory of one job on each node
    setup_lines: list[str] = field(default_factory=list)  # slurm: shell lines before Python starts
    resources: list[ResourceConfig] = field(default_factory=list)  # slurm: jobs by model size

    def __post_init__(self) -> None:
        require_choice("cluster.kind", self.kind, ("debug", "local", "slurm", "torchrun"))
        for key in ("peak_flops", "gpu_memory_gb", "timeout_min", "nodes", "ranks_per_node"):
            require_positive(f"cluster.{key}", getattr(self, key))
        require_mfu("cluster.mfu", self.mfu)
        for key in ("n_workers", "max_queued_jobs", "threads_per_worker", "gpus_per_node"):
            require_not_negative(f"cluster.{key}", getattr(self, key))
        require_not_negative("cluster.price_per_device_hour", self.price_per_device_hour)
        if len(names := [r.name for r in self.resources]) > len(set(names)):
            raise InputError(f"cluster.resources: names {', '.join(names)} must all differ.")
        limits = [r.max_params or math.inf for r in self.resources]
        if any(a >= b for a, b in itertools.pairwise(limits)):
            raise InputError(
                "cluster.resources must go from small to large: each max_params above the one "
                "before, and only the last may be 0 (any size)."
            )


@dataclass(kw_only=True)
class RuntimeConfig:
    """How a run is executed; none of it may change its losses, so none of it enters run_id."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1
    micro_batch_tokens: int = 0  # tokens per forward pass; 0 = the whole batch if it fits
    checkpoint_minutes: float = 10.0  # time between checkpoints
    log_every_steps: int = 10  # optimizer steps between metrics lines
    validation_tokens: int = 65_536  # tokens of the validation set that every run is scored on
    validation_evals: int = 24  # validation evaluations, geometric over the last 8x of a run
    wandb: str = "disabled"  # disabled, offline, online: mirror metrics to Weights & Biases
    wandb_project: str = "chinchilla"  # project there
    tensorboard: bool = False  # event files in <run>/tensorboard; needs the package tensorboard
    activation_checkpointing: bool = False  # recompute blocks for the backward pass, to save memory
    compile_blocks: str = (
        "auto"  # auto (on a GPU), always, never: torch.compile each block, once per width
    )
    cuda_graphs: bool = True  # on a GPU, replay a micro-batch's passes as one graph
    shard_ranks: int = 0  # ranks of a run that hold one copy of its weights together; 0 = all

    def __post_init__(self) -> None:
        require_not_negative("runtime.shard_ranks", self.shard_ranks)
        require_choice("runtime.compile_blocks", self.compile_blocks, ("auto", "always", "never"))
        require_choice("runtime.wandb", self.wandb, ("disabled", "offline", "online"))
        require_not_negative("runtime.micro_batch_tokens", self.micro_batch_tokens)
        for key in (
            "checkpoint_minutes",
            "log_every_steps",
            "validation_tokens",
            "validation_evals",
        ):
            require_positive(f"runtime.{key}", getattr(self, key))

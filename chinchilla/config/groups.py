"""Settings that several commands share: model, recipe, grid, cluster, runtime."""

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

from chinchilla.config.setting import REQUIRED, Config, setting
from chinchilla.core.errors import InputError
from chinchilla.core.parametrization import PARAMETRIZATIONS
from chinchilla.core.shapes import FLOP_CONVENTIONS, POSITIONS

MFU_HELP = "Expected model FLOPs utilisation, the share of peak_flops that is used."
SHARE: dict[str, Any] = {"above": 0, "at_most": 1, "hint": "Give 0.4 for 40%."}
POSITIONS_HELP = "Position encoding; relative: Transformer-XL's, as in the paper."
SLURM_OR_TORCHRUN = "Slurm and torchrun:"
SCHEDULES = ("cosine", "cooldown", "multistep")
OPTIMIZERS = ("adamw", "adam")
PRECISIONS = ("bf16", "fp32", "bf16_weights")


@dataclass(kw_only=True)
class ModelConfig(Config, prefix="model."):
    """One shape, in Table A9's names. `model=44m` ... `model=16b` choose a row of the table."""

    d_model: int = setting(512, "Width of the residual stream.")
    ffw_size: int = setting(0, "Width of the feed-forward layer; 0 = 4 * d_model.")
    kv_size: int = setting(64, "Width of one attention head.")
    n_heads: int = setting(0, "Attention heads; 0 = d_model / kv_size.")
    n_layers: int = setting(8, "Transformer blocks.")
    vocab_size: int = setting(0, "Tokens of the vocabulary; 0 = the tokenizer's.")
    seq_len: int = setting(2_048, "Tokens of one sequence.", unit="tokens")
    positions: str = setting("rope", POSITIONS_HELP, choices=POSITIONS)


@dataclass(kw_only=True)
class RecipeConfig(Config, prefix="recipe."):
    """How to train models of every size. All of these settings are part of run_id."""

    lr_batch_rule: str = setting(
        "none",
        "Published law that sets peak_lr and batch_tokens where these are 0.",
        choices=("none", "step_law", "deepseek"),
    )
    peak_lr: float = setting(
        2e-4,
        "Learning rate after warm-up, for d_model = lr_base_width; 0 = set by lr_batch_rule.",
        at_least=0,
    )
    lr_base_width: int = setting(
        512, "d_model that peak_lr is given for; base width of mup and completep.", above=0
    )
    lr_width_exponent: float = setting(
        0.0,
        "Peak rate = peak_lr * (lr_base_width / d_model)^exponent; 0 = the same at any width. "
        "recipe=paper has 0.2041.",
    )
    parametrization: str = setting(
        "standard",
        "mup transfers the learning rate to other widths, completep to other widths and depths.",
        choices=PARAMETRIZATIONS,
    )
    base_layers: int = setting(
        0, "parametrization=completep: number of layers that peak_lr is given for.", at_least=0
    )
    schedule: str = setting(
        "cosine",
        "Learning rate after warm-up. cooldown: constant, then 1 - sqrt. multistep: DeepSeek's.",
        choices=SCHEDULES,
    )
    final_lr_ratio: float = setting(
        0.1,
        "Final learning rate / peak (section 3 of the paper: 0.1). 0 is possible with "
        "schedule=cooldown (decay to zero) and lr_batch_rule=step_law (decay to 1e-5).",
        at_least=0,
        at_most=1,
    )
    cosine_cycle: float = setting(
        1.0,
        "Length of the cosine / length of the run; above 1 the cosine does not finish (figure A1).",
        at_least=1,
    )
    cooldown_fraction: float = setting(
        0.2,
        "schedule=cooldown: share of the run, at its end, over which the rate decays.",
        above=0,
        below=1,
    )
    warmup_steps: int = setting(
        1_500,
        "Upper limit of the steps of linear warm-up; with schedule=cooldown the exact number of steps.",
        at_least=0,
    )
    warmup_fraction: float = setting(
        0.05,
        "Upper limit of the warm-up as a share of the run; not used with schedule=cooldown.",
        at_least=0,
        below=1,
    )
    batch_tokens: int = setting(
        524_288,
        "Tokens per optimizer step, over all devices; 0 = set by lr_batch_rule.",
        unit="tokens",
        at_least=0,
    )
    batch_multiple_rows: int = setting(
        1, "The batch of lr_batch_rule is a multiple of this many rows, such as the ranks.", above=0
    )
    optimizer: str = setting(
        "adamw",
        "adamw: decoupled weight decay. adam: decay added to the gradient (figure A7).",
        choices=OPTIMIZERS,
    )
    weight_decay: float = setting(0.1, "Weight decay, on matrices only.", at_least=0)
    beta1: float = setting(0.9, "Decay rate of Adam's first moment.", at_least=0, below=1)
    beta2: float = setting(0.95, "Decay rate of Adam's second moment.", at_least=0, below=1)
    adam_eps: float = setting(1e-8, "Adam's epsilon.", above=0)
    grad_clip: float = setting(
        1.0, "Global gradient norm at which gradients are clipped; 0 = no clipping.", at_least=0
    )
    precision: str = setting(
        "auto",
        "bf16: bf16 compute, fp32 weights. bf16_weights: no fp32 weights (figure A6). "
        "auto: bf16 on a GPU, else fp32.",
        choices=("auto", *PRECISIONS),
    )
    seed: int = setting(0, "Seed of the initial weights and the token order.", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_parametrization()
        if self.lr_batch_rule == "none":
            for key in ("peak_lr", "batch_tokens"):
                if not getattr(self, key):
                    raise InputError(
                        f"recipe.{key}={getattr(self, key)} must be above 0, because no "
                        "recipe.lr_batch_rule sets it."
                    )
        else:
            self._check_rule()
        decays_to_zero = self.schedule == "cooldown" or (
            self.schedule == "cosine" and self.lr_batch_rule == "step_law"
        )
        if not self.final_lr_ratio and not decays_to_zero:
            raise InputError(
                f"recipe.final_lr_ratio={self.final_lr_ratio} must be above 0 and at most 1. 0 is possible "
                "with recipe.schedule=cooldown or recipe.lr_batch_rule=step_law."
            )
        if self.schedule == "cooldown" and self.cosine_cycle != 1:
            raise InputError(
                f"recipe.cosine_cycle={self.cosine_cycle} has no effect with recipe.schedule=cooldown. "
                "Give recipe.cosine_cycle=1, or recipe.schedule=cosine."
            )

    def _check_parametrization(self) -> None:
        kind = f"recipe.parametrization={self.parametrization}"
        if (self.base_layers > 0) != (self.parametrization == "completep"):
            raise InputError(
                f"{kind} does not accept recipe.base_layers={self.base_layers}. With completep, give the "
                "number of layers for which recipe.peak_lr was tuned; otherwise give 0."
            )
        if self.parametrization == "standard":
            return
        if self.lr_width_exponent:
            raise InputError(
                f"{kind} already scales the learning rate with the width. Give recipe.lr_width_exponent=0 "
                f"instead of {self.lr_width_exponent}."
            )
        if self.lr_batch_rule != "none" and not self.peak_lr:
            raise InputError(
                f"recipe.lr_batch_rule={self.lr_batch_rule} gives learning rates for the standard "
                f"parametrization. Give recipe.peak_lr with {kind}."
            )
        if self.parametrization == "completep" and self.optimizer != "adamw":
            raise InputError(
                f"{kind} is defined for the weight decay of AdamW only. Give recipe.optimizer=adamw instead "
                f"of {self.optimizer}."
            )

    def _check_rule(self) -> None:
        rule = f"recipe.lr_batch_rule={self.lr_batch_rule}"
        if self.peak_lr and self.batch_tokens:
            raise InputError(
                f"{rule} has no effect: recipe.peak_lr={self.peak_lr} and "
                f"recipe.batch_tokens={self.batch_tokens} are both given. Give 0 for the one that the "
                f"rule should set, as recipe={self.lr_batch_rule} does."
            )
        if not self.peak_lr and self.lr_width_exponent:
            raise InputError(
                f"{rule} already sets the learning rate of each size. Give recipe.lr_width_exponent=0 "
                f"instead of {self.lr_width_exponent}."
            )
        if self.schedule == "cooldown":
            raise InputError(
                f"{rule} depends on the length of a run, and with recipe.schedule=cooldown all lengths of a "
                "model have one learning rate and batch size. Give recipe.lr_batch_rule=none or another "
                "schedule."
            )


@dataclass(kw_only=True)
class GridConfig(Config, prefix="grid."):
    """The runs of a sweep: IsoFLOP curves (approach 2) and fixed sizes at several horizons (1)."""

    name: str = setting("custom", "Name of the sweep.")
    budgets: list[float] = setting([], "Compute of each IsoFLOP curve.", unit="FLOPs", above=0)
    models: list[str] = setting([], "Candidate sizes: names of Table A9, or WIDTHxLAYERS.")
    kv_size: int = setting(64, "Width of one attention head of WIDTHxLAYERS shapes.", above=0)
    seq_len: int = setting(2_048, "Tokens of one sequence.", unit="tokens")
    vocab_size: int = setting(
        0, "Tokens of the vocabulary; 0 = the tokenizer's, so needed without data.", at_least=0
    )
    positions: str = setting("rope", POSITIONS_HELP, choices=POSITIONS)
    flop_convention: str = setting(
        "with_head", "How training FLOPs are counted.", choices=tuple(FLOP_CONVENTIONS)
    )
    sizes_per_budget: int = setting(
        0,
        "Sizes of each budget, spaced evenly in log N around the expected optimum; 0 = all.",
        at_least=0,
    )
    span: float = setting(
        4.0, "Sizes lie from the expected optimum / span to the optimum * span.", above=1
    )
    expected_coefficient: float = setting(
        0.14488, "Coefficient k of the expected N_opt = k * C^a (Table A3, approach 2).", above=0
    )
    expected_exponent: float = setting(
        0.4899, "Exponent a of the expected N_opt = k * C^a (Table A3, approach 2)."
    )
    min_sizes: int = setting(5, "A budget with fewer sizes is refused.", at_least=0)
    min_side: int = setting(
        2, "A budget with fewer sizes on one side of the expected optimum is refused.", at_least=0
    )
    min_steps: int = setting(100, "A run with fewer optimizer steps is refused.", at_least=0)
    horizon_models: list[str] = setting([], "Sizes trained at several horizons.")
    horizon_tokens_per_param: list[float] = setting([], "D/N of the horizons.", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.horizon_models) != bool(self.horizon_tokens_per_param):
            raise InputError(
                "only one of grid.horizon_models and grid.horizon_tokens_per_param is given. Give both, or none."
            )
        if not self.models or not self.budgets:
            raise InputError(
                "the grid has no models or no budgets. Choose one with grid=NAME, or give both."
            )


@dataclass(kw_only=True)
class ResourceConfig(Config):
    """Slurm jobs for the models of a sweep up to a size; null takes the value of the cluster."""

    name: str = setting(REQUIRED, "Name of these jobs in messages.")
    max_params: float = setting(0.0, "Largest N trained in these jobs; 0 = any.", at_least=0)
    n_workers: int | None = setting(None, "Jobs of this kind.")
    nodes: int | None = setting(None, "Nodes of one job.")
    ranks_per_node: int | None = setting(None, "Ranks of a run on each node.")
    gpus_per_node: int | None = setting(None, "GPUs of one job on each node.")
    cpus_per_task: int | None = setting(None, "Cores of one job, or of one rank.")
    host_memory_gb: int | None = setting(None, "Host memory on each node.", unit="GB")
    timeout_min: int | None = setting(None, "Time limit.", unit="minutes")
    partition: str | None = setting(None, "Slurm partition.")
    account: str | None = setting(None, "Slurm account.")
    qos: str | None = setting(None, "Slurm QOS.")
    constraint: str | None = setting(None, "Node features.")
    peak_flops: float | None = setting(None, "Peak of one device.", unit="FLOP/s")
    mfu: float | None = setting(None, MFU_HELP, **SHARE, optional=True)
    gpu_memory_gb: float | None = setting(
        None, "Memory of one device, 1 GB = 1e9 bytes.", unit="GB"
    )
    price_per_device_hour: float | None = setting(None, "Price in your currency.")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise InputError(
                f"cluster.resources: name={self.name!r} must be one word. Give a name such as small."
            )
        self.check_values(f"cluster.resources, {self.name}: ")


@dataclass(kw_only=True)
class ClusterConfig(Config, prefix="cluster."):
    """Where runs are trained, and the cost of a device."""

    kind: str = setting(
        "local",
        "debug: in this process. local: processes on this machine. torchrun: prints the command.",
        choices=("debug", "local", "slurm", "torchrun"),
    )
    n_workers: int = setting(
        0,
        "Processes, 0 = one per GPU or core; on Slurm the jobs of the job array.",
        at_least=0,
    )
    threads_per_worker: int = setting(
        0, "CPU threads of one worker; 0 = cores / workers.", at_least=0
    )
    peak_flops: float = setting(
        989e12,
        "Peak of one device in dense bf16 (default: data sheet of the H100 SXM).",
        unit="FLOP/s",
        above=0,
    )
    mfu: float = setting(0.4, f"{MFU_HELP} Only for estimates.", **SHARE)
    gpu_memory_gb: float = setting(
        80.0, "Memory of one device, 1 GB = 1e9 bytes.", unit="GB", above=0
    )
    price_per_device_hour: float = setting(2.5, "Price in your currency.", at_least=0)
    partition: str = setting("", "Slurm: partition; empty = the cluster's default.")
    account: str = setting("", "Slurm: account; empty = your default account.")
    qos: str = setting("", "Slurm: QOS; empty = the default.")
    constraint: str = setting("", "Slurm: node features, such as h100.")
    max_queued_jobs: int = setting(
        0,
        "Slurm: most jobs of yours in the queue, for a site that limits them; 0 = no limit.",
        at_least=0,
    )
    timeout_min: int = setting(240, "Slurm: time limit of one job.", unit="minutes", above=0)
    nodes: int = setting(1, f"{SLURM_OR_TORCHRUN} nodes of one job.", above=0)
    ranks_per_node: int = setting(
        1,
        f"{SLURM_OR_TORCHRUN} ranks of a run on each node; 1 on 1 node = one worker per GPU.",
        above=0,
    )
    cpus_per_task: int = setting(8, "Slurm: cores of one job, or of each rank of a job.")
    gpus_per_node: int = setting(
        1, "Slurm: GPUs of one job on each node; 0 = CPU only.", at_least=0
    )
    host_memory_gb: int = setting(64, "Slurm: host memory of one job on each node.", unit="GB")
    setup_lines: list[str] = setting([], "Slurm: shell lines to run before Python starts.")
    resources: list[ResourceConfig] = setting(
        [], "Slurm: jobs by model size, see slurm/README.md; empty = one kind for all sizes."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(names := [r.name for r in self.resources]) > len(set(names)):
            raise InputError(
                f"cluster.resources: the names {', '.join(names)} must differ. Rename one of them."
            )
        limits = [r.max_params or math.inf for r in self.resources]
        if any(a >= b for a, b in itertools.pairwise(limits)):
            raise InputError(
                "cluster.resources must be in ascending order of max_params; only the last may be 0 (any "
                "size). Sort them."
            )


@dataclass(kw_only=True)
class RuntimeConfig(Config, prefix="runtime."):
    """How a run is executed. These settings are not part of run_id.

    They change a training loss by rounding at most. validation_tokens selects the tokens of the
    validation loss and is the same for all runs of a sweep (`sweep.launch`).
    """

    device: str = setting("auto", "auto, cpu, cuda, or one GPU such as cuda:1.")
    micro_batch_tokens: int = setting(
        0, "Tokens per forward pass; 0 = the whole batch if it fits.", unit="tokens", at_least=0
    )
    checkpoint_minutes: float = setting(10.0, "Time between checkpoints.", unit="minutes", above=0)
    log_every_steps: int = setting(10, "Optimizer steps between lines of metrics.", above=0)
    validation_tokens: int = setting(
        65_536, "Tokens of the validation set used at each evaluation.", unit="tokens", above=0
    )
    validation_evals: int = setting(
        24, "Evaluations of a run, spaced evenly in log steps over its last 7/8.", above=0
    )
    wandb: str = setting(
        "disabled",
        "Copy metrics to Weights & Biases.",
        choices=("disabled", "offline", "online"),
    )
    wandb_project: str = setting("chinchilla", "Weights & Biases project.")
    tensorboard: bool = setting(
        False, "Write event files to <run>/tensorboard; needs the package tensorboard."
    )
    activation_checkpointing: bool = setting(
        False, "Recompute blocks in the backward pass to save memory."
    )
    compile_blocks: str = setting(
        "auto",
        "Apply torch.compile to each block, once per width. auto: on a GPU.",
        choices=("auto", "always", "never"),
    )
    cuda_graphs: bool = setting(
        True, "On a GPU, replay the passes of a micro-batch as one CUDA graph."
    )
    shard_ranks: int = setting(
        0, "Ranks that share one copy of the weights (FSDP); 0 = all ranks of a run.", at_least=0
    )

"""What the commands up to a trained sweep can be told."""

from dataclasses import dataclass, field

from chinchilla.config.checks import require_format, require_not_negative, require_positive
from chinchilla.config.groups import (
    ClusterConfig,
    GridConfig,
    ModelConfig,
    RecipeConfig,
    RuntimeConfig,
)
from chinchilla.core.errors import InputError


@dataclass(kw_only=True)
class TrainCommand:
    """`chinchilla train`: one model to its budget."""

    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    data_dir: str = "data"  # folder that `chinchilla data` wrote
    out_dir: str = "runs/single"  # folder that receives runs/<run_id>
    budget_flops: float = 0.0  # training FLOPs to spend; give this or tokens
    tokens: float = 0.0  # training tokens; give this or budget_flops
    flop_convention: str = "with_head"  # with_head, paper, appendix_f, six_nd
    epochs: float = 1.0  # passes over the data a run may make
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        for key in ("budget_flops", "tokens"):
            require_not_negative(key, getattr(self, key))
        require_positive("epochs", self.epochs)


@dataclass(kw_only=True)
class PlanCommand:
    """`chinchilla plan`: a grid of runs, its cost, its refusals; nothing is trained.

    With tokens= one model instead of a grid: `chinchilla plan model=chinchilla_70b tokens=1.4e12 gpus=512`.
    """

    grid: GridConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    data_dir: str = ""  # token folder; empty = plan without data (grid.vocab_size decides)
    out: str = "plan.jsonl"  # file to write; empty = only print
    epochs: float = 1.0  # passes over the data a run may make
    tokens: float = 0.0  # training tokens of one model, planned instead of a grid
    gpus: int = 1  # of one model: GPUs that train it together, each holding a share of its state
    micro_batch_tokens: int = 0  # of one model: tokens of a GPU's pass; 0 = the most that fit
    activation_checkpointing: bool = False  # of one model: recompute blocks for the backward pass
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        require_positive("epochs", self.epochs)
        require_positive("gpus", self.gpus)
        require_not_negative("tokens", self.tokens)
        require_not_negative("micro_batch_tokens", self.micro_batch_tokens)
        if not self.tokens and (self.gpus > 1 or self.micro_batch_tokens):
            raise InputError(
                "gpus= and micro_batch_tokens= are of one model. Give its tokens= too, above 0, or leave "
                "them."
            )
        if not self.tokens and self.model != ModelConfig():
            raise InputError(
                "model= is planned with tokens= above 0. Give them, or grid.models=[...] for a grid."
            )


@dataclass(kw_only=True)
class SweepCommand:
    """`chinchilla sweep`: plan a grid, show its cost, train what is missing."""

    grid: GridConfig
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    data_dir: str = "data"  # folder that `chinchilla data` wrote
    sweep_dir: str = ""  # folder of the sweep; empty = runs/<grid.name>
    epochs: float = 1.0  # passes over the data a run may make
    dry_run: bool = False  # show runs and cost, launch nothing
    max_gpu_hours: float = 0.0  # more device-hours expected are refused; 0 = no limit
    yes: bool = False  # launch above max_gpu_hours, too
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        require_positive("epochs", self.epochs)
        require_not_negative("max_gpu_hours", self.max_gpu_hours)


@dataclass(kw_only=True)
class FlopsCommand:
    """`chinchilla flops`: N and training FLOPs per token of a shape, by every convention."""

    model: ModelConfig = field(default_factory=ModelConfig)
    tokens: float = 0.0  # training tokens; above 0 also prints C
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        require_not_negative("tokens", self.tokens)

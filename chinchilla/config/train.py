"""Settings of the commands that plan and train: train, plan, sweep, flops."""

from dataclasses import dataclass, field

from chinchilla.config.checks import FORMATS
from chinchilla.config.execution import ClusterConfig, RuntimeConfig
from chinchilla.config.groups import GridConfig, ModelConfig, RecipeConfig
from chinchilla.config.setting import Config, setting
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import FLOP_CONVENTIONS

DATA_DIR_HELP = "Folder of tokens that `chinchilla data` wrote."
EPOCHS_HELP = "Most passes over the training data that a run may make."


@dataclass(kw_only=True)
class TrainCommand(Config, words=("model",)):
    """`chinchilla train`: train one model to its budget."""

    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    data_dir: str = setting("data", DATA_DIR_HELP)
    out_dir: str = setting("runs/single", "Folder that receives runs/<run_id>.")
    budget_flops: float = setting(
        0.0, "Training FLOPs to spend; give this or tokens.", unit="FLOPs", at_least=0
    )
    tokens: float = setting(
        0.0, "Training tokens; give this or budget_flops.", unit="tokens", at_least=0
    )
    flop_convention: str = setting(
        "with_head", "How training FLOPs are counted.", choices=tuple(FLOP_CONVENTIONS)
    )
    epochs: float = setting(1.0, EPOCHS_HELP, above=0)
    format: str = setting("text", "Output.", choices=FORMATS)


@dataclass(kw_only=True)
class PlanCommand(Config, words=("grid",)):
    """`chinchilla plan`: list the runs of a grid and their cost, or refuse it; trains nothing.

    With hours=, total_flops= or price= it proposes a grid: `chinchilla plan gpus=8 hours=12 data_dir=data`.

    With tokens= one model instead of a grid: `chinchilla plan model=chinchilla_70b tokens=1.4T gpus=512`.
    """

    grid: GridConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    data_dir: str = setting("", f"{DATA_DIR_HELP} Empty = plan without data, by grid.vocab_size.")
    out: str = setting("", "File for the runs, plan.jsonl; empty = only print.")
    epochs: float = setting(1.0, EPOCHS_HELP, above=0)
    tokens: float = setting(
        0.0, "Training tokens of one model, planned instead of a grid.", unit="tokens", at_least=0
    )
    gpus: int = setting(
        1,
        "With tokens=: GPUs that train the model together (FSDP). With hours=: devices.",
        above=0,
    )
    hours: float = setting(
        0.0, "Propose a grid for this time on gpus= devices.", unit="hours", at_least=0
    )
    total_flops: float = setting(
        0.0, "Propose a grid for this compute of all runs together.", unit="FLOPs", at_least=0
    )
    price: float = setting(
        0.0, "Propose a grid for this price, by cluster.price_per_device_hour.", at_least=0
    )
    save: str = setting(
        "", "File for the proposed grid, FOLDER/grid/NAME.yaml; empty = only print."
    )
    format: str = setting("text", "Output.", choices=FORMATS)

    @property
    def proposes(self) -> bool:
        """Whether a grid is to be proposed."""
        return bool(self.hours or self.total_flops or self.price)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [
            name for name in ("tokens", "hours", "total_flops", "price") if getattr(self, name)
        ]
        if len(given) > 1:
            raise InputError(f"{'= and '.join(given)}= exclude each other. Give one of them.")


@dataclass(kw_only=True)
class SweepCommand(Config, words=("grid",)):
    """`chinchilla sweep`: plan a grid, show its cost, train the runs that have no result."""

    grid: GridConfig
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    data_dir: str = setting("data", DATA_DIR_HELP)
    sweep_dir: str = setting("", "Folder of the sweep; empty = runs/<grid.name>.")
    epochs: float = setting(1.0, EPOCHS_HELP, above=0)
    dry_run: bool = setting(False, "Show the runs and their cost, and launch nothing.")
    max_gpu_hours: float = setting(
        0.0, "Refuse a sweep expected to take more device-hours; 0 = no limit.", at_least=0
    )
    format: str = setting("text", "Output.", choices=FORMATS)


@dataclass(kw_only=True)
class FlopsCommand(Config, words=("model", "tokens")):
    """`chinchilla flops`: count N and the training FLOPs per token of a shape by every convention."""

    model: ModelConfig = field(default_factory=ModelConfig)
    tokens: float = setting(
        0.0, "Training tokens; above 0 also prints C.", unit="tokens", at_least=0
    )
    format: str = setting("text", "Output.", choices=FORMATS)

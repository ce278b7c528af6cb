"""Settings that several commands share: model, recipe and grid."""

from dataclasses import dataclass

from chinchilla.config.checks import require_name
from chinchilla.config.setting import Config, setting
from chinchilla.core.errors import InputError, Problems
from chinchilla.core.parametrization import PARAMETRIZATIONS
from chinchilla.core.shapes import FLOP_CONVENTIONS, POSITIONS

POSITIONS_HELP = "Position encoding; relative: Transformer-XL's, as in the paper."
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
    """How to train models of every size. All settings except name and max_lr_ratio change run_id."""

    name: str = setting(
        "",
        "Name in plans and reports; empty = the chosen option and what differs.",
        check=require_name,
        optional=True,
    )
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
    max_lr_ratio: float = setting(
        10.0,
        "A peak rate is refused if it is outside of the published laws by more than this factor.",
        above=1,
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
        problems = Problems()
        for check in (self._check_parametrization, self._check_rule, self._check_schedule):
            with problems.collected():
                check()
        problems.raise_any()

    def _check_schedule(self) -> None:
        decays_to_zero = self.schedule == "cooldown" or (
            self.schedule == "cosine" and self.lr_batch_rule == "step_law"
        )
        if not self.final_lr_ratio and not decays_to_zero:
            raise InputError(
                f"recipe.final_lr_ratio={self.final_lr_ratio} must be above 0 and at most 1. 0 is possible "
                "with recipe.schedule=cooldown or recipe.lr_batch_rule=step_law."
            )
        if self.schedule != "cosine" and self.cosine_cycle != 1:  # it would change run_id
            raise InputError(
                f"recipe.cosine_cycle={self.cosine_cycle} has no effect with recipe.schedule={self.schedule}. "
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
        if self.lr_batch_rule == "none":
            unset = [key for key in ("peak_lr", "batch_tokens") if not getattr(self, key)]
            if unset:
                raise InputError(
                    *(
                        f"recipe.{key}={getattr(self, key)} must be above 0, because no recipe.lr_batch_rule "
                        "sets it."
                        for key in unset
                    )
                )
            return
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

    name: str = setting("custom", "Name of the sweep.", check=require_name)
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

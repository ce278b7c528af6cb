"""Settings of the commands that use fits: predict, design, score."""

from dataclasses import dataclass, field
from typing import Any

from chinchilla.config.checks import FORMATS
from chinchilla.config.execution import MFU_HELP, SHARE
from chinchilla.config.groups import POSITIONS_HELP
from chinchilla.config.setting import FITS_HELP, REQUIRED, Config, setting
from chinchilla.core.errors import InputError
from chinchilla.core.paper import LOSS_LAWS
from chinchilla.core.shapes import POSITIONS

FLOPS: dict[str, Any] = {
    "unit": "FLOPs", "at_least": 1e3, "at_most": 1e40, "hint": "Check the exponent.",
}  # fmt: skip
TOKENS: dict[str, Any] = {"unit": "tokens", "at_least": 1, "at_most": 1e30, "optional": True}
TOKENS_PER_PARAM: dict[str, Any] = {"at_least": 1e-3, "at_most": 1e6, "optional": True}
MAX_RUNS = 100  # proposed by design


@dataclass(kw_only=True)
class RatesConfig(Config, prefix="rates."):
    """The cost of FLOPs: speed, price and power of a device. 0 = not given and not printed."""

    peak_flops: float = setting(
        989e12,
        "Peak of one device in dense bf16 (default: data sheet of the H100 SXM).",
        unit="FLOP/s",
        above=0,
    )
    mfu: float = setting(0.4, MFU_HELP, **SHARE)
    price_per_device_hour: float = setting(
        0.0, "Price in your currency; 0 = not given.", at_least=0
    )
    device_watts: float = setting(
        0.0,
        "Electric power of one device with its share of host and cooling; 0 = not given.",
        unit="W",
        at_least=0,
    )


@dataclass(kw_only=True)
class ShapesConfig(Config):
    """Settings of the shapes that predict and design offer."""

    vocab_size: int = setting(32_000, "Vocabulary of the shapes.", unit="tokens", above=0)
    seq_len: int = setting(2_048, "Sequence length of the shapes.", unit="tokens", above=0)
    kv_size: int = setting(128, "Width of one attention head of WIDTHxLAYERS shapes.", above=0)
    positions: str = setting("relative", POSITIONS_HELP, choices=POSITIONS)


@dataclass(kw_only=True)
class PredictCommand(ShapesConfig, words=("fits", "budget_flops")):
    """`chinchilla predict`: N, D and loss for a budget, and the cost of other choices."""

    budget_flops: list[float] = setting(
        [], "Budgets; empty = ten times the C of the largest run.", **FLOPS
    )
    fits: str = setting("", f"{FITS_HELP} Empty = published laws.")
    law: str = setting(
        "",
        "Published law to use; empty = the recommendation of the fits, or besiroglu without fits.",
        choices=tuple(LOSS_LAWS),
        optional=True,
    )
    target_loss: float = setting(
        0.0, "Find the smallest budget that reaches this loss.", unit="nats per token", at_least=0
    )
    inference_tokens: float = setting(
        0.0, "Tokens to be served: find the size with the lowest total cost.", **TOKENS
    )
    unique_tokens: float = setting(
        0.0, "Tokens that exist: find N, D and epochs if they must repeat.", **TOKENS
    )
    repeated_runs: str = setting("", "CSV with N, D, L, unique_tokens (observations.csv).")
    shapes: list[str] = setting(
        [], "Available shapes: names or WIDTHxLAYERS; empty = Tables A9 and 4."
    )
    rates: RatesConfig = field(default_factory=RatesConfig)
    preregister: bool = setting(
        False, "Write the prediction to a dated, hashed file before the run."
    )
    preregister_file: str = setting(
        "",
        "File that preregister=true writes; empty = preregistered/<date>-<hash>.json in the folder of frontier.json.",
    )
    detail: bool = setting(False, "Also print the cost of other sizes and of shapes.")
    format: str = setting("text", "Output; json always has all tables.", choices=FORMATS)

    def __post_init__(self) -> None:
        if not self.budget_flops and not self.target_loss and not self.fits:
            raise InputError(
                "budget_flops is missing: give budget_flops=VALUE in FLOPs, such as 1e21, or "
                "target_loss=VALUE in nats per token. `chinchilla predict --help` lists the keys."
            )
        super().__post_init__()
        if self.preregister and not self.fits and not self.preregister_file:
            raise InputError("preregister=true without fits= needs preregister_file=FILE.json.")


@dataclass(kw_only=True)
class DesignCommand(ShapesConfig, words=("fits", "budget_flops")):
    """`chinchilla design`: propose runs that reduce the uncertainty of N_opt at a larger budget."""

    fits: str = setting(REQUIRED, f"{FITS_HELP} observations.csv is beside frontier.json.")
    budget_flops: float = setting(
        REQUIRED, "Budget C* at which the uncertainty of N_opt is reduced.", **FLOPS
    )
    n_runs: int = setting(4, "Runs to propose.", at_least=1, at_most=MAX_RUNS)
    spend: float = setting(
        0.0,
        "Compute of all proposed runs; 0 = n_runs times that of the largest run.",
        **FLOPS,
        optional=True,
    )
    min_ratio: float = setting(
        0.0,
        "Fewest tokens per parameter; 0 = half of the smallest D/N of the runs, at least 2.",
        **TOKENS_PER_PARAM,
    )
    max_ratio: float = setting(
        0.0,
        "Most tokens per parameter; 0 = twice the largest D/N of the runs, at most 200.",
        **TOKENS_PER_PARAM,
    )
    shapes: list[str] = setting([], "Shapes besides those of the runs; empty = Table A9.")
    rates: RatesConfig = field(default_factory=RatesConfig)
    format: str = setting("text", "Output.", choices=FORMATS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_ratio and self.max_ratio and self.min_ratio >= self.max_ratio:
            raise InputError(
                f"min_ratio={self.min_ratio:g} must be below max_ratio={self.max_ratio:g}."
            )


@dataclass(kw_only=True)
class ScoreCommand(Config, words=("prediction", "result|observations")):
    """`chinchilla score`: compare a preregistered prediction with measured losses."""

    prediction: str = setting(REQUIRED, "File that `chinchilla predict preregister=true` wrote.")
    result: str = setting("", "result.json of a run, or its folder; give this or observations.")
    observations: str = setting(
        "", "CSV with run_id, budget_flops, C, N, D, L; give this or result."
    )
    loss: str = setting(
        "",
        "Loss of the result to compare; empty = the predicted one.",
        choices=("train", "validation"),
        optional=True,
    )
    format: str = setting("text", "Output.", choices=FORMATS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prediction:
            raise InputError(
                "prediction is empty: give the file that `chinchilla predict preregister=true` wrote."
            )
        if bool(self.result) == bool(self.observations):
            raise InputError(
                "give one of result=FILE.json (a run) or observations=FILE.csv (a table of runs)."
            )

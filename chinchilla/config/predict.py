"""What the commands that use a fitted frontier can be told: predict, design, score."""

from dataclasses import dataclass, field

from chinchilla.config.checks import (
    require_choice,
    require_format,
    require_mfu,
    require_not_negative,
    require_positive,
)
from chinchilla.core.errors import InputError
from chinchilla.core.paper import LOSS_LAWS
from chinchilla.core.shapes import FLOP_CONVENTIONS, POSITIONS

FLOPS_RANGE = (1e3, 1e40)  # a budget outside of it is a slip of the hand
MOST_TOKENS = 1e30
MOST_RUNS = 100  # that design proposes at once
RATIO_RANGE = (1e-3, 1e6)  # tokens per parameter


@dataclass(kw_only=True)
class RatesConfig:
    """What FLOPs cost: speed, price and power of a device. 0 = not stated, not printed."""

    peak_flops: float = 989e12  # of one device, FLOP/s, dense bf16 (H100 SXM data sheet)
    mfu: float = 0.4  # expected model FLOPs utilisation, above 0 and at most 1
    price_per_device_hour: float = 0.0  # in your currency; 0 = unsaid
    device_watts: float = 0.0  # electric power of one device with its share of the host; 0 = unsaid
    pue: float = 1.0  # power of the whole site / power of its computers; needs device_watts
    co2_grams_per_kwh: float = 0.0  # of the site's electricity; needs device_watts; 0 = unsaid

    def __post_init__(self) -> None:
        require_positive("rates.peak_flops", self.peak_flops)
        require_mfu("rates.mfu", self.mfu)
        for key in ("price_per_device_hour", "device_watts", "co2_grams_per_kwh"):
            require_not_negative(f"rates.{key}", getattr(self, key))
        if not self.pue >= 1:
            raise InputError(
                f"rates.pue={self.pue} is below 1: a site uses at least what its computers use."
            )
        if not self.device_watts:
            for key, unsaid in (("pue", 1.0), ("co2_grams_per_kwh", 0.0)):
                if getattr(self, key) != unsaid:
                    raise InputError(
                        f"rates.{key}={getattr(self, key):g} says nothing without the power of a "
                        "device. Give rates.device_watts too."
                    )


def _within(key: str, value: float, low: float, high: float, unit: str) -> None:
    require_positive(key, value)
    if not low <= value <= high:
        raise InputError(
            f"{key}={value:g} is outside of {low:g} to {high:g} {unit}: no run is that small or "
            "large. Check its exponent."
        )


def _check_shapes(command: "PredictCommand | DesignCommand") -> None:
    for key in ("vocab_size", "seq_len", "kv_size"):
        require_positive(key, getattr(command, key))
    require_choice("positions", command.positions, POSITIONS)


@dataclass(kw_only=True)
class PredictCommand:
    """`chinchilla predict`: how to spend a budget: N, D, loss, and what departures cost."""

    budget_flops: list[float] = field(default_factory=list)  # FLOPs; empty = 10x the largest run's
    frontier: str = ""  # frontier.json of `chinchilla fit`, or its folder; empty = published laws
    law: str = ""  # decide by this published law; empty = what these runs recommend, else besiroglu
    target_loss: float = 0.0  # nats per token: the cheapest budget that reaches it
    inference_tokens: float = 0.0  # tokens to be served: the size cheapest to train and serve
    unique_tokens: float = 0.0  # tokens that exist: the best N, D and epochs when they must repeat
    repeated_runs: str = ""  # CSV with N, D, L, unique_tokens (observations.csv)
    shapes: list[str] = field(default_factory=list)  # names, WIDTHxLAYERS; empty = Tables A9, 4
    vocab_size: int = 32_000  # of shapes
    seq_len: int = 2_048  # of shapes, tokens
    kv_size: int = 128  # head width of WIDTHxLAYERS shapes
    positions: str = "relative"  # of shapes: relative (Table A9's counts) or rope
    flop_convention: str = ""  # with law=: how shapes count FLOPs; empty = 6*N*D
    rates: RatesConfig = field(default_factory=RatesConfig)
    preregister: bool = False  # write the answer to a dated, hashed file before the run
    preregister_file: str = ""  # empty = <frontier's folder>/preregistered/<date>-<hash>.json
    force: bool = False  # answer a million times beyond the runs, too
    detail: bool = False  # print the long tables too: wrong sizes, shapes, over-training
    format: str = "text"  # text, or json: always everything

    def __post_init__(self) -> None:
        require_format(self.format)
        if not self.budget_flops and not self.target_loss and not self.frontier:
            raise InputError(
                "budget_flops is missing: give budget_flops=VALUE in FLOPs, such as 1e21, or "
                "target_loss=VALUE in nats per token. `chinchilla predict --help` lists the keys."
            )
        for budget in self.budget_flops:
            _within("budget_flops", budget, *FLOPS_RANGE, "FLOPs")
        for key in ("target_loss", "inference_tokens", "unique_tokens"):
            require_not_negative(key, getattr(self, key))
        for key in ("inference_tokens", "unique_tokens"):
            if tokens := getattr(self, key):
                _within(key, tokens, 1, MOST_TOKENS, "tokens")
        if self.law:
            require_choice("law", self.law, tuple(LOSS_LAWS))
        _check_shapes(self)
        if self.flop_convention:
            require_choice("flop_convention", self.flop_convention, tuple(FLOP_CONVENTIONS))
            if self.frontier and not self.law:
                raise InputError(
                    "flop_convention says how shapes count beside law=NAME; with a frontier they count "
                    "as its runs do. Leave it out."
                )
        if self.repeated_runs and not self.unique_tokens:
            raise InputError(
                "repeated_runs says what repeats are worth; unique_tokens is missing: how many "
                "tokens exist. Give unique_tokens=VALUE."
            )
        if self.preregister_file and not self.preregister:
            raise InputError("preregister_file is given without preregister=true. Give both.")
        if self.preregister and not self.frontier and not self.preregister_file:
            raise InputError(
                "preregister=true without a frontier needs a place: preregister_file=FILE.json."
            )


@dataclass(kw_only=True)
class DesignCommand:
    """`chinchilla design`: the next runs that narrow N_opt at a larger budget most."""

    frontier: str  # frontier.json of `chinchilla fit`, or its folder, with observations.csv beside
    budget_flops: float  # C*, FLOPs: the budget whose N_opt should be known better
    n_runs: int = 4  # runs to propose, at most 100
    spend: float = 0.0  # FLOPs of all proposed runs together; 0 = n_runs times the dearest run
    min_ratio: float = 0.0  # fewest tokens per parameter; 0 = half of the runs' least, at least 2
    max_ratio: float = 0.0  # most tokens per parameter; 0 = twice the runs' most, at most 200
    shapes: list[str] = field(default_factory=list)  # beside the runs' own; empty = Table A9
    vocab_size: int = 32_000  # of shapes
    seq_len: int = 2_048  # of shapes, tokens
    kv_size: int = 128  # head width of WIDTHxLAYERS shapes
    positions: str = "relative"  # of shapes: relative (Table A9's counts) or rope
    out_dir: str = ""  # where design.csv goes; empty = the folder of the frontier
    rates: RatesConfig = field(default_factory=RatesConfig)
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        _within("budget_flops", self.budget_flops, *FLOPS_RANGE, "FLOPs")
        if not 1 <= self.n_runs <= MOST_RUNS:
            raise InputError(
                f"n_runs={self.n_runs} is not 1 to {MOST_RUNS}: train some, fit again, and ask again."
            )
        for key in ("spend", "min_ratio", "max_ratio"):
            require_not_negative(key, getattr(self, key))
        if self.spend:
            _within("spend", self.spend, *FLOPS_RANGE, "FLOPs")
        for key in ("min_ratio", "max_ratio"):
            if ratio := getattr(self, key):
                _within(key, ratio, *RATIO_RANGE, "tokens per parameter")
        _check_shapes(self)
        if self.min_ratio and self.max_ratio and self.min_ratio >= self.max_ratio:
            raise InputError(
                f"min_ratio={self.min_ratio:g} must be below max_ratio={self.max_ratio:g}."
            )


@dataclass(kw_only=True)
class ScoreCommand:
    """`chinchilla score`: hold a preregistered prediction against what was measured."""

    prediction: str  # file that `chinchilla predict preregister=true` wrote
    result: str = ""  # result.json of a run, or its folder; give this or observations
    observations: str = ""  # CSV with run_id, budget_flops, C, N, D, L; give this or result
    loss: str = ""  # which loss of a result: train or validation; empty = the predicted one
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        if bool(self.result) == bool(self.observations):
            raise InputError(
                "give one of result=FILE.json (a run) or observations=FILE.csv (a table of runs)."
            )
        if self.loss:
            require_choice("loss", self.loss, ("train", "validation"))

"""Settings of `chinchilla fit` and `chinchilla report`."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from chinchilla.config.checks import (
    check_format,
    check_n_bootstrap,
    choice,
    positive,
    whole,
)
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import FLOP_CONVENTIONS

# Types of the options of the notebook API. The records below hold text, because OmegaConf refuses Literal.
Approach = Literal["envelope", "isoflop", "parametric"]  # approaches 1, 2, 3 of section 3
Objective = Literal["huber", "lad", "least_squares"]  # of approach 3
EnvelopeSchedule = Literal["matched", "constant"]  # of the learning rate, along the curves
IsoflopProfile = Literal["exact", "parabola"]
IsoflopWindow = Literal["auto", "all"] | float  # a number: the width in ln N
Duplicates = Literal["drop", "refuse"]  # treatment of exact copies of a run
Approach3Law = Literal["auto", "power", "saturating"]  # of approach 3 in the recommendation
Resampling = Literal["bayesian", "pairs", "by_size"]

APPROACHES: tuple[str, ...] = get_args(Approach)
N_CONVENTIONS = ("unknown", "total", "non_embedding")  # how N is counted
LOSSES = ("train", "validation")
OBJECTIVES: tuple[str, ...] = get_args(Objective)
ENVELOPE_SCHEDULES: tuple[str, ...] = get_args(EnvelopeSchedule)
ISOFLOP_PROFILES: tuple[str, ...] = get_args(IsoflopProfile)
ISOFLOP_WINDOWS = ("auto", "all")  # or a width in ln N
DUPLICATES: tuple[str, ...] = get_args(Duplicates)
APPROACH3_LAWS: tuple[str, ...] = get_args(Approach3Law)
RESAMPLINGS: tuple[str, ...] = get_args(Resampling)

CHOICES = {  # setting of a fit -> its choices
    "schedule": ENVELOPE_SCHEDULES,
    "profile": ISOFLOP_PROFILES,
    "objective": OBJECTIVES,
    "resampling": RESAMPLINGS,
}
OF_MINIMA = (  # settings that can be combined with minima=
    "minima", "out_dir", "columns", "duplicates", "loss", "flop_convention", "n_convention", "format",
)  # fmt: skip
ABOVE_ZERO = ("huber_delta", "smooth_steps", "envelope_points")


def check_settings(prefix: str = "", **settings: Any) -> None:
    """Refuse invalid settings of a fit; shared by the command and the fit functions.

    Args:
        prefix: of the names of settings in errors, such as isoflop_.
        **settings: by the argument names of the fit functions.

    Raises:
        InputError: an invalid setting, with its valid values.
    """
    for name, value in settings.items():
        key = prefix + name
        if name in CHOICES:
            choice(key, value, CHOICES[name])
        elif name in ABOVE_ZERO:
            positive(key, value)
        elif name == "window":
            _check_window(key, value)
        elif name == "n_bootstrap":
            check_n_bootstrap(value)
        else:
            assert name == "seed"
            whole(key, value)


def _check_window(key: str, value: Any) -> None:
    """Accept auto, all, or a positive number of ln N as text."""
    if value in ISOFLOP_WINDOWS:
        return
    try:
        width = float(value)
    except (TypeError, ValueError):
        width = 0.0
    if not 0 < width < float("inf"):
        raise InputError(
            f"{key}={value}: give auto, all, or the distance in ln N on each side of a budget's lowest "
            "loss, such as 1.6 (a factor of 5)."
        )


@dataclass(kw_only=True)
class FitCommand:
    """`chinchilla fit`: fit the three approaches to a sweep or a CSV."""

    sweep_dir: str = ""  # folder of a sweep; give this or observations
    observations: str = ""  # CSV with run_id, budget_flops, C, N, D, L; give this or sweep_dir
    curves: str = ""  # CSV of points along runs (rows share a run_id), for approach 1
    minima: str = ""  # CSV of losses at IsoFLOP minima: C, L, optional N; without runs
    out_dir: str = ""  # where fits go; empty = <sweep_dir>/fits
    approaches: list[str] = field(default_factory=lambda: list(APPROACHES))  # the paper's 1, 2, 3
    loss: str = "train"  # which loss of a sweep: train (smoothed final) or validation
    n_bootstrap: int = 1_000  # resamples of runs for the intervals; 0 = no intervals
    seed: int = 0  # of the bootstrap
    huber_delta: float = 1e-3  # approach 3, on log-loss (section 3.3)
    objective: str = "huber"  # approach 3: huber (the paper's sum), lad, least_squares
    approach3_law: str = "auto"  # in the recommendation: auto (both), power, or saturating
    resampling: str = "bayesian"  # approach 3: bayesian, pairs, by_size
    smooth_steps: float = 10.0  # approach 1: Gaussian window over a training curve, in points
    envelope_points: int = 1_500  # approach 1: log-spaced FLOP values
    envelope_schedule: str = "matched"  # approach 1: matched (rates decay to each end) or constant
    isoflop_profile: str = "exact"  # approach 2: exact (no bias) or parabola (the paper's)
    isoflop_window: str = "auto"  # approach 2: sizes used: auto, all, or a width in ln N
    tokens_per_param: list[float] = field(default_factory=list)  # keep runs with D/N in [low,high]
    flop_convention: str = "unknown"  # how a CSV counts C: with_head, paper, appendix_f, six_nd
    n_convention: str = "unknown"  # how a CSV counts N: total, non_embedding
    columns: dict[str, str] = field(default_factory=dict)  # of a CSV: columns.N="Model Size (M)"
    duplicates: str = "drop"  # exact copies of a run in a CSV: drop (with a note) or refuse
    best: bool = False  # keep the lowest loss of each (N, D), as of a search over learning rates
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        check_format(self.format)
        choice("duplicates", self.duplicates, DUPLICATES)
        if not self.approaches:
            raise InputError(f"approaches=[] is empty. Choose from {', '.join(APPROACHES)}.")
        choice("flop_convention", self.flop_convention, ("unknown", *FLOP_CONVENTIONS))
        choice("n_convention", self.n_convention, N_CONVENTIONS)
        if self.minima:
            self._check_minima()
        elif bool(self.sweep_dir) == bool(self.observations or self.curves):
            raise InputError(
                "give one of sweep_dir=FOLDER (a sweep) or observations=FILE.csv (a table of runs; "
                "optionally curves=FILE.csv), or minima=FILE.csv (losses at IsoFLOP minima)."
            )
        if not self.sweep_dir and not self.out_dir:
            raise InputError(
                "out_dir is missing: give a folder for the fits of a CSV, out_dir=FOLDER."
            )
        window = self.tokens_per_param
        if window and not (len(window) == 2 and 0 < window[0] < window[1]):
            raise InputError(
                f"tokens_per_param={window}: give the smallest and the largest D/N to keep, such as "
                "[2,200]."
            )
        choice("loss", self.loss, LOSSES)
        choice("approach3_law", self.approach3_law, APPROACH3_LAWS)
        check_settings("envelope_", schedule=self.envelope_schedule)
        check_settings("isoflop_", profile=self.isoflop_profile, window=self.isoflop_window)
        names = ("n_bootstrap", "seed", "objective", "resampling")
        check_settings(**{name: getattr(self, name) for name in (*names, *ABOVE_ZERO)})
        for approach in self.approaches:
            choice("approaches", approach, APPROACHES)
        if len(set(self.approaches)) < len(self.approaches):
            raise InputError(
                f"approaches=[{','.join(self.approaches)}] contains an approach twice."
            )

    def _check_minima(self) -> None:
        """Refuse tables of runs and settings of approaches together with minima."""
        other = []
        for f in fields(self):
            default = f.default_factory() if callable(f.default_factory) else f.default
            if f.name not in OF_MINIMA and getattr(self, f.name) != default:
                other.append(f.name)
        if other:
            raise InputError(
                f"minima={self.minima} holds losses at minima and no runs, so no approach is fitted and "
                f"{', '.join(other)} cannot be used with it. Leave out one or the other."
            )


@dataclass(kw_only=True)
class ReportCommand:
    """`chinchilla report`: one HTML page and its figures."""

    sweep_dir: str = ""  # folder of a sweep
    fits: str = ""  # folder that `chinchilla fit` wrote; empty = <sweep_dir>/fits
    out_dir: str = ""  # empty = <sweep_dir>/report, or <fits>/report

    def __post_init__(self) -> None:
        if not self.sweep_dir and not self.fits:
            raise InputError("give sweep_dir=FOLDER (a sweep) or fits=FOLDER (fits of a CSV).")

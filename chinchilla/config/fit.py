"""Settings of `chinchilla fit`, `diagnose` and `report`."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from chinchilla.config.checks import FORMATS
from chinchilla.config.setting import BOOTSTRAP_LIMITS, FITS_HELP, Config, check_value, setting
from chinchilla.core.errors import InputError
from chinchilla.core.units import CONVENTIONS

# Types of the options for the notebook API; OmegaConf, which fills the dataclasses, refuses Literal.
Approach = Literal["envelope", "isoflop", "parametric"]  # approaches 1, 2, 3 of section 3
Objective = Literal["huber", "lad", "least_squares"]  # of approach 3
EnvelopeSchedule = Literal["matched", "constant"]  # of the learning rate, along the curves
IsoflopProfile = Literal["exact", "parabola"]
IsoflopWindow = Literal["auto", "all"]
Duplicates = Literal["drop", "refuse"]  # treatment of exact copies of a run

N_BOOTSTRAP = 1_000  # resamples of the runs for intervals, of every approach
APPROACHES: tuple[str, ...] = get_args(Approach)
N_CONVENTIONS = CONVENTIONS["n_convention"]
LOSSES = CONVENTIONS["loss_kind"][1:]  # without "unknown"
DUPLICATES: tuple[str, ...] = get_args(Duplicates)


@dataclass(kw_only=True)
class FitCommand(Config, words=("sweep_dir|observations",)):
    """`chinchilla fit`: fit the three approaches to a sweep or a CSV."""

    sweep_dir: str = setting("", "Folder of a sweep; give this or observations.")
    observations: str = setting(
        "", "CSV with run_id, budget_flops, C, N, D, L; give this or sweep_dir."
    )
    curves: str = setting("", "Approach 1: CSV of points along runs, whose rows share a run_id.")
    minima: str = setting(
        "", "CSV of losses at IsoFLOP minima (C, L, optional N), in place of runs."
    )
    out_dir: str = setting(
        "", "Folder for the fits; empty = <sweep_dir>/fits, and only print the fits of a CSV."
    )
    approaches: list[str] = setting(
        list(APPROACHES), "Approaches 1, 2, 3 of the paper.", choices=APPROACHES
    )
    loss: str = setting(
        "train",
        "Loss of a sweep to fit; train: final training loss, smoothed.",
        choices=LOSSES,
    )
    n_bootstrap: int = setting(
        N_BOOTSTRAP,
        "Bootstrap resamples of the runs for intervals; 0 = no intervals.",
        **BOOTSTRAP_LIMITS,
    )
    seed: int = setting(0, "Seed of the bootstrap.", at_least=0)
    huber_delta: float = setting(
        1e-3, "Approach 3: delta of the Huber loss of ln L (section 3.3).", above=0
    )
    objective: str = setting(
        "huber",
        "Approach 3: objective; huber: the paper's sum of Huber losses; lad: least absolute deviations.",
        choices=get_args(Objective),
    )
    envelope_schedule: str = setting(
        "matched",
        "Approach 1: learning rate of the curves; matched: decays to the end of each run.",
        choices=get_args(EnvelopeSchedule),
    )
    isoflop_profile: str = setting(
        "exact",
        "Approach 2: shape of a curve; exact is unbiased, parabola is the paper's.",
        choices=get_args(IsoflopProfile),
    )
    isoflop_window: str = setting(
        "auto",
        "Approach 2: sizes used; auto: near the lowest loss of each budget.",
        choices=get_args(IsoflopWindow),
    )
    tokens_per_param: list[float] = setting([], "Use only runs with D/N in [LOW,HIGH].")
    flop_convention: str = setting(
        "unknown", "How C of the CSV is counted.", choices=CONVENTIONS["flop_convention"]
    )
    n_convention: str = setting("unknown", "How N of the CSV is counted.", choices=N_CONVENTIONS)
    columns: dict[str, str] = setting({}, 'Columns of a CSV, such as columns.N="Model Size (M)".')
    duplicates: str = setting(
        "drop", "Action for exact copies of a run in a CSV; drop prints a note.", choices=DUPLICATES
    )
    best: bool = setting(
        False, "Use only the lowest loss of each (N, D), as after a search over learning rates."
    )
    format: str = setting("text", "Output.", choices=FORMATS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.approaches:
            raise InputError(f"approaches=[] is empty. Choose from {', '.join(APPROACHES)}.")
        if not self.minima and bool(self.sweep_dir) == bool(self.observations or self.curves):
            raise InputError(
                "give one of sweep_dir=FOLDER (a sweep) or observations=FILE.csv (a table of runs; "
                "optionally curves=FILE.csv), or minima=FILE.csv (losses at IsoFLOP minima)."
            )
        window = self.tokens_per_param
        if window and not (len(window) == 2 and 0 < window[0] < window[1]):
            raise InputError(
                f"tokens_per_param={window}: give the smallest and the largest D/N to keep, such as "
                "tokens_per_param=2,200."
            )


def check_settings(**settings: Any) -> None:
    """Check arguments of the fit functions against the settings of FitCommand.

    Args:
        **settings: by the argument names; `window` is the setting isoflop_window.

    Raises:
        InputError: an invalid setting, with its valid values.
    """
    known = {f.name: f.metadata for f in fields(FitCommand)}
    for name, value in settings.items():
        keys = (name, f"envelope_{name}", f"isoflop_{name}")
        check_value(name, value, next(known[key] for key in keys if key in known))


@dataclass(kw_only=True)
class DiagnoseCommand(Config, words=("fits",)):
    """`chinchilla diagnose`: checks of the fits, ordered by their effect on the recommended answer."""

    fits: str = setting("", f"{FITS_HELP} Empty = <sweep_dir>/fits.")
    sweep_dir: str = setting(
        "",
        "Folder of a sweep, whose shapes make other counts of N and C exact; empty = that of fits=FOLDER.",
    )
    budget_flops: float = setting(
        0.0,
        "C at which effects on N_opt are stated; 0 = ten times the largest C of the runs.",
        unit="FLOPs",
        at_least=0,
    )
    n_bootstrap: int = setting(
        400,
        "Bootstrap resamples of the runs for the IsoFLOP minima; 0 = no intervals.",
        **BOOTSTRAP_LIMITS,
    )
    seed: int = setting(0, "Seed of the bootstrap.", at_least=0)
    format: str = setting("text", "Output.", choices=FORMATS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fits and not self.sweep_dir:
            raise InputError(
                "fits is missing: give fits=FOLDER, of a fitted sweep or of `chinchilla fit`."
            )


@dataclass(kw_only=True)
class ReportCommand(Config, words=("fits",)):
    """`chinchilla report`: write one HTML page with its figures."""

    fits: str = setting("", f"{FITS_HELP} Empty = <sweep_dir>/fits.")
    sweep_dir: str = setting(
        "", "Folder of a sweep, whose runs are shown as well; empty = that of fits=FOLDER."
    )
    out_dir: str = setting(
        "",
        "Folder of the report; empty = the folder report in that of the sweep, or beside frontier.json.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sweep_dir and not self.fits:
            raise InputError(
                "fits is missing: give fits=FOLDER, of a fitted sweep or of `chinchilla fit`."
            )

"""Settings of `chinchilla fetch` and `chinchilla reproduce`."""

from dataclasses import dataclass

from chinchilla.config.checks import FORMATS
from chinchilla.config.setting import BOOTSTRAP_LIMITS, REQUIRED, Config, setting
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import FLOP_CONVENTIONS


@dataclass(kw_only=True)
class FetchCommand(Config, words=("points", "out")):
    """`chinchilla fetch`: download published measurements that cannot be redistributed, as a CSV."""

    points: str = setting(
        REQUIRED,
        "Data set; hoffmann: 245 final losses digitised from the paper's Figure 4.",
        choices=("hoffmann",),
    )
    out: str = setting(REQUIRED, "CSV file to write; another file there is not overwritten.")
    url: str = setting("", "Another location of the same file; empty = where it was published.")
    timeout_s: float = setting(30.0, "Longest wait for the server.", unit="seconds", above=0)


@dataclass(kw_only=True)
class ReproduceCommand(Config, words=("table", "points")):
    """`chinchilla reproduce`: compute the paper's Tables 2, 3 and A3 from published points."""

    table: str = setting(REQUIRED, "Table to reproduce.", choices=("table2",))
    points: str = setting("", "CSV of final losses, such as `chinchilla fetch hoffmann` writes.")
    curves: str = setting("", "CSV of training curves for approach 1; empty = final losses only.")
    out_dir: str = setting("", "Folder for table2.md and table2.json; empty = only print.")
    drop_highest: int = setting(
        5,
        "Highest losses excluded from approach 3; 5 in Besiroglu et al. 2024.",
        unit="runs",
        at_least=0,
    )
    n_bootstrap: int = setting(4_000, "Bootstrap resamples of the runs.", **BOOTSTRAP_LIMITS)
    seed: int = setting(0, "Seed of the bootstrap.", at_least=0)
    flop_convention: str = setting(
        "unknown", "How C of the points is counted.", choices=("unknown", *FLOP_CONVENTIONS)
    )
    format: str = setting("text", "Output.", choices=FORMATS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.points:
            raise InputError(
                "points is missing: give points=FILE.csv, a table of final losses. `chinchilla fetch "
                "hoffmann out=FILE.csv` downloads the public ones."
            )

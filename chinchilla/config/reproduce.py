"""What `chinchilla reproduce` can be told."""

from dataclasses import dataclass

from chinchilla.config.checks import (
    require_choice,
    require_format,
    require_n_bootstrap,
    require_not_negative,
)
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import FLOP_CONVENTIONS


@dataclass(kw_only=True)
class ReproduceCommand:
    """`chinchilla reproduce`: the paper's Table 2 (with 3 and A3) from public points.

    chinchilla reproduce table2 points=CSV
    """

    table: str  # table2
    points: str = ""  # CSV of final losses, such as `chinchilla fetch points=hoffmann` writes
    curves: str = ""  # CSV of training curves for approach 1; empty = the envelope of run ends
    out_dir: str = ""  # folder that receives table2.md and table2.json; empty = only print
    drop_highest: int = 5  # highest losses left out of approach 3, as Besiroglu et al. 2024 do
    n_bootstrap: int = 4_000  # resamples of runs
    seed: int = 0  # of the resampling
    flop_convention: str = "unknown"  # how the points count C
    explain: bool = True  # run what shows why approach 3 differs from the paper's: half a minute
    full_grid: bool = False  # also search from all 4500 starts to the end: minutes
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        require_choice("table", self.table, ("table2",))
        require_choice("flop_convention", self.flop_convention, ("unknown", *FLOP_CONVENTIONS))
        require_n_bootstrap(self.n_bootstrap)
        for key in ("drop_highest", "seed"):
            require_not_negative(key, getattr(self, key))
        if not self.points:
            raise InputError(
                "points is missing: give points=FILE.csv, a table of final losses. `chinchilla fetch "
                "points=hoffmann` downloads the public ones."
            )

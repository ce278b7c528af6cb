"""Settings of `chinchilla diagnose`."""

from dataclasses import dataclass

from chinchilla.config.checks import (
    require_format,
    require_n_bootstrap,
    require_not_negative,
    require_whole,
)
from chinchilla.core.errors import InputError


@dataclass(kw_only=True)
class DiagnoseCommand:
    """`chinchilla diagnose`: checks of the fits, ordered by their effect on the recommended answer."""

    fits: str = ""  # folder that `chinchilla fit` wrote; empty = <sweep_dir>/fits
    sweep_dir: str = ""  # folder of a sweep: its shapes make other counts of N and C exact
    budget_flops: float = 0.0  # where moves of N_opt are stated; 0 = ten times the largest C
    n_bootstrap: int = 400  # resamples of runs for the isoFLOP minima; 0 for no intervals
    seed: int = 0  # of the resampling
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        require_not_negative("budget_flops", self.budget_flops)
        require_n_bootstrap(self.n_bootstrap)
        require_whole("seed", self.seed)
        if not self.fits and not self.sweep_dir:
            raise InputError(
                "give fits=FOLDER (of `chinchilla fit`) or sweep_dir=FOLDER (a sweep)."
            )

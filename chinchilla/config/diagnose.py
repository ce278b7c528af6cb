"""Settings of `chinchilla diagnose`."""

from dataclasses import dataclass

from chinchilla.config.checks import FORMATS, require_n_bootstrap, require_whole
from chinchilla.config.setting import Config, setting
from chinchilla.core.errors import InputError


@dataclass(kw_only=True)
class DiagnoseCommand(Config):
    """`chinchilla diagnose`: checks of the fits, ordered by their effect on the recommended answer."""

    fits: str = setting("", "Folder that `chinchilla fit` wrote; empty = <sweep_dir>/fits.")
    sweep_dir: str = setting(
        "", "Folder of a sweep, whose shapes make other counts of N and C exact."
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
        check=require_n_bootstrap,
    )
    seed: int = setting(0, "Seed of the bootstrap.", check=require_whole)
    format: str = setting("text", "Output.", choices=FORMATS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fits and not self.sweep_dir:
            raise InputError(
                "give fits=FOLDER (of `chinchilla fit`) or sweep_dir=FOLDER (a sweep)."
            )

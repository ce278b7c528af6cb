"""Settings of `chinchilla compare`."""

from dataclasses import dataclass

from chinchilla.config.checks import FORMATS
from chinchilla.config.setting import REQUIRED, Config, setting
from chinchilla.core.errors import InputError

MAX_CORPORA = 4  # that fit side by side


@dataclass(kw_only=True)
class CompareCommand(Config):
    """`chinchilla compare`: compare the fits of two to four corpora, as the paper's Appendix C."""

    sweep_dirs: list[str] = setting([], "Folders of fitted sweeps.")
    fits: list[str] = setting([], "Folders that `chinchilla fit` wrote for CSVs.")
    names: list[str] = setting([], "Names of the corpora; empty = the names of their folders.")
    out_dir: str = setting(REQUIRED, "Folder for compare.json and the figure.")
    format: str = setting("text", "Output.", choices=FORMATS)

    def __post_init__(self) -> None:
        super().__post_init__()
        n = len(self.sweep_dirs) + len(self.fits)
        if not 2 <= n <= MAX_CORPORA:
            raise InputError(
                f"compare needs 2 to {MAX_CORPORA} corpora and is given {n}. Give "
                "sweep_dirs=[FOLDER,FOLDER] (sweeps), fits=[FOLDER,FOLDER] (fits of CSVs), or both."
            )
        names = ",".join(self.names)
        if self.names and len(self.names) != n:
            raise InputError(f"names=[{names}] has {len(self.names)} names for {n} corpora.")
        if len(set(self.names)) < len(self.names):
            raise InputError(f"names=[{names}] has a name twice.")

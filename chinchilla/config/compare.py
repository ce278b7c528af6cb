"""Settings of `chinchilla compare`."""

from dataclasses import dataclass

from chinchilla.config.checks import FORMATS
from chinchilla.config.setting import FITS_HELP, Config, setting
from chinchilla.core.errors import InputError

MAX_CORPORA = 4  # that fit side by side


@dataclass(kw_only=True)
class CompareCommand(Config, words=("fits",)):
    """`chinchilla compare`: compare the fits of two to four corpora, as the paper's Appendix C."""

    fits: list[str] = setting([], f"Two to four. {FITS_HELP}")
    names: list[str] = setting([], "Names of the corpora; empty = the names of their folders.")
    out_dir: str = setting("", "Folder for compare.json and the figure; empty = only print.")
    format: str = setting("text", "Output.", choices=FORMATS)

    def __post_init__(self) -> None:
        super().__post_init__()
        n = len(self.fits)
        if not 2 <= n <= MAX_CORPORA:
            raise InputError(
                f"compare needs 2 to {MAX_CORPORA} corpora and is given {n}. Give fits=FOLDER,FOLDER, the folders "
                "of fitted sweeps or of `chinchilla fit`."
            )
        names = ",".join(self.names)
        if self.names and len(self.names) != n:
            raise InputError(f"names=[{names}] has {len(self.names)} names for {n} corpora.")
        if len(set(self.names)) < len(self.names):
            raise InputError(f"names=[{names}] has a name twice.")

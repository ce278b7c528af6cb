"""What `chinchilla compare` can be told."""

from dataclasses import dataclass, field

from chinchilla.config.checks import require_format
from chinchilla.core.errors import InputError

MOST = 4  # corpora that fit beside each other


@dataclass(kw_only=True)
class CompareCommand:
    """`chinchilla compare`: set the fits of two corpora side by side, as the paper's Appendix C."""

    sweep_dirs: list[str] = field(default_factory=list)  # folders of sweeps that were fitted
    fits: list[str] = field(default_factory=list)  # folders that `chinchilla fit` wrote of CSVs
    names: list[str] = field(default_factory=list)  # of the corpora; empty = their folders' names
    out_dir: str  # where compare.html, compare.json and figures go
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        n = len(self.sweep_dirs) + len(self.fits)
        if not 2 <= n <= MOST:
            raise InputError(
                f"compare sets 2 to {MOST} corpora side by side and is given {n}. Give "
                "sweep_dirs=[FOLDER,FOLDER] (sweeps), fits=[FOLDER,FOLDER] (fits of CSVs), or some of both."
            )
        if self.names and len(self.names) != n:
            raise InputError(
                f"names=[{','.join(self.names)}] names {len(self.names)} of {n} corpora."
            )
        if len(set(self.names)) < len(self.names):
            raise InputError(f"names=[{','.join(self.names)}] gives one name twice.")

"""Settings of `chinchilla fetch`."""

from dataclasses import dataclass

from chinchilla.config.setting import REQUIRED, Config, setting

POINTS = ("hoffmann",)  # keys of observations.fetch.SOURCES


@dataclass(kw_only=True)
class FetchCommand(Config):
    """`chinchilla fetch`: download published measurements that cannot be redistributed, as a CSV."""

    points: str = setting(
        REQUIRED,
        "Data set; hoffmann: 245 final losses digitised from the paper's Figure 4.",
        choices=POINTS,
    )
    out: str = setting(REQUIRED, "CSV file to write; another file there is not overwritten.")
    url: str = setting("", "Another location of the same file; empty = where it was published.")
    timeout_s: float = setting(30.0, "Time limit of the download.", unit="seconds", above=0)

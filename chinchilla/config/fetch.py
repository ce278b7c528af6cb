"""What `chinchilla fetch` can be told."""

from dataclasses import dataclass

from chinchilla.config.checks import require_choice, require_positive

POINTS = ("hoffmann",)  # keys of fetch.SOURCES


@dataclass(kw_only=True)
class FetchCommand:
    """`chinchilla fetch`: download published measurements that may not be shipped, as a CSV of runs."""

    points: str  # which: hoffmann (the paper's Figure 4, 245 final losses)
    out: str  # the CSV to write; never overwrites another file
    url: str = ""  # another place of the same file; empty = where it was published
    timeout_s: float = 30.0  # seconds that the download may take

    def __post_init__(self) -> None:
        require_choice("points", self.points, POINTS)
        require_positive("timeout_s", self.timeout_s)

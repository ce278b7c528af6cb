"""Settings of the commands status, cancel, retry and logs."""

from dataclasses import dataclass, field

from chinchilla.config.checks import check_format, not_negative, positive


@dataclass(kw_only=True)
class StatusCommand:
    """`chinchilla status`: show the status of a sweep."""

    sweep_dir: str  # folder of the sweep
    watch: bool = False  # repeat until all runs ended (exit code 0, or 1 if some failed) or no job is left (75)
    interval_seconds: float = 10.0  # between two updates with watch=true
    rows: int = 100  # runs in the table, running and failed ones preferred; 0 = all
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        check_format(self.format)
        positive("interval_seconds", self.interval_seconds)
        not_negative("rows", self.rows)


@dataclass(kw_only=True)
class CancelCommand:
    """`chinchilla cancel`: cancel the Slurm jobs of a sweep, and no other jobs."""

    sweep_dir: str  # folder of the sweep
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        check_format(self.format)


@dataclass(kw_only=True)
class RetryCommand:
    """`chinchilla retry`: make failed runs trainable again."""

    sweep_dir: str  # folder of the sweep
    runs: list[str] = field(default_factory=list)  # run ids or prefixes; empty = every failed run
    diverged: bool = False  # include diverged runs, which start from scratch
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        check_format(self.format)


@dataclass(kw_only=True)
class LogsCommand:
    """`chinchilla logs`: show attempts, claims and logs of a run, or errors and latest logs of a sweep."""

    sweep_dir: str  # folder of the sweep
    run: str = ""  # run id or prefix; empty = the whole sweep
    lines: int = 20  # shown of each log
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        check_format(self.format)
        positive("lines", self.lines)

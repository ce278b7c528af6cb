"""What the commands that look after a sweep can be told."""

from dataclasses import dataclass, field

from chinchilla.config.checks import require_format, require_not_negative, require_positive


@dataclass(kw_only=True)
class StatusCommand:
    """`chinchilla status`: what a sweep has done."""

    sweep_dir: str  # folder of the sweep
    watch: bool = (
        False  # look until the sweep is over (exit code 0, 1 where a run failed) or deserted (75)
    )
    interval_seconds: float = 10.0  # between two looks of watch=true
    rows: int = 100  # most runs in the table, running and failed ones first; 0 = all
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        require_positive("interval_seconds", self.interval_seconds)
        require_not_negative("rows", self.rows)


@dataclass(kw_only=True)
class CancelCommand:
    """`chinchilla cancel`: end a sweep's Slurm jobs, and nobody else's."""

    sweep_dir: str  # folder of the sweep
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)


@dataclass(kw_only=True)
class RetryCommand:
    """`chinchilla retry`: make failed runs trainable again."""

    sweep_dir: str  # folder of the sweep
    runs: list[str] = field(default_factory=list)  # run ids or beginnings; empty = every failed one
    diverged: bool = False  # diverged runs too; they start anew
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)


@dataclass(kw_only=True)
class LogsCommand:
    """`chinchilla logs`: what became of a run, and the ends of the logs that tell of it."""

    sweep_dir: str  # folder of the sweep
    run: str = ""  # run id or its beginning; empty = what went wrong in the sweep
    lines: int = 20  # of each log
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        require_positive("lines", self.lines)

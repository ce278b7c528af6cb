"""Settings of the commands on a sweep that exists: worker, status, cancel, retry, logs, sync."""

from dataclasses import dataclass

from chinchilla.config.checks import FORMATS, require_name
from chinchilla.config.setting import REQUIRED, Config, setting

SWEEP_DIR_HELP = "Folder of the sweep."


@dataclass(kw_only=True)
class WorkerCommand(Config, words=("sweep_dir", "run")):
    """`chinchilla worker`: train runs of a prepared sweep until none is left; start any number at once."""

    sweep_dir: str = setting(REQUIRED, SWEEP_DIR_HELP)
    data_dir: str = setting("", "Token folder; empty = as recorded in the sweep.")
    name: str = setting(
        "", "Name in claims and logs; empty = host and process.", check=require_name, optional=True
    )
    threads: int = setting(0, "CPU threads; 0 = torch's default.", at_least=0)
    min_params: float = setting(0.0, "Train only runs with more parameters.", at_least=0)
    max_params: float = setting(
        0.0, "Train only runs with at most this many parameters; 0 = any.", at_least=0
    )
    run: str = setting("", "Train only the run with this id; empty = all.")
    max_minutes: float = setting(
        0.0,
        "Save and stop after this time (exit code 75); 0 = no limit.",
        unit="minutes",
        at_least=0,
    )
    parent: int = setting(
        0, "Stop when the parent process is no longer this one; 0 = never.", at_least=0
    )


@dataclass(kw_only=True)
class StatusCommand(Config, words=("sweep_dir",)):
    """`chinchilla status`: show the status of a sweep."""

    sweep_dir: str = setting(REQUIRED, SWEEP_DIR_HELP)
    watch: bool = setting(
        False,
        "Print changes until all runs ended (exit code 0, or 1 if some failed) or no job is left (75).",
    )
    interval_seconds: float = setting(
        10.0, "Time between two updates with watch=true.", unit="seconds", above=0
    )
    rows: int = setting(
        100, "Number of runs in the table, running and failed runs first; 0 = all.", at_least=0
    )
    format: str = setting("text", "Output.", choices=FORMATS)


@dataclass(kw_only=True)
class CancelCommand(Config, words=("sweep_dir",)):
    """`chinchilla cancel`: cancel the Slurm jobs of a sweep, and no other jobs."""

    sweep_dir: str = setting(REQUIRED, SWEEP_DIR_HELP)
    format: str = setting("text", "Output.", choices=FORMATS)


@dataclass(kw_only=True)
class RetryCommand(Config, words=("sweep_dir", "runs")):
    """`chinchilla retry`: make failed runs trainable again."""

    sweep_dir: str = setting(REQUIRED, SWEEP_DIR_HELP)
    runs: list[str] = setting([], "Run ids or prefixes; empty = every failed run.")
    diverged: bool = setting(False, "Include diverged runs, which start from scratch.")
    format: str = setting("text", "Output.", choices=FORMATS)


@dataclass(kw_only=True)
class LogsCommand(Config, words=("sweep_dir", "run")):
    """`chinchilla logs`: show attempts, claims and logs of a run, or errors and latest logs of a sweep."""

    sweep_dir: str = setting(REQUIRED, SWEEP_DIR_HELP)
    run: str = setting("", "Run id or prefix; empty = the whole sweep.")
    lines: int = setting(20, "Last lines shown of each log.", above=0)
    format: str = setting("text", "Output.", choices=FORMATS)


@dataclass(kw_only=True)
class SyncCommand(Config, words=("sweep_dir", "runs")):
    """`chinchilla sync`: send a sweep's new metrics to a tracker; may be repeated."""

    sweep_dir: str = setting(REQUIRED, SWEEP_DIR_HELP)
    to: str = setting("wandb", "Tracker.", choices=("wandb", "tensorboard"))
    wandb: str = setting(
        "online",
        "offline writes files to upload with `wandb sync`.",
        choices=("online", "offline"),
    )
    wandb_project: str = setting("chinchilla", "Project in Weights & Biases.", check=require_name)
    runs: list[str] = setting([], "Run ids or prefixes; empty = all.")
    format: str = setting("text", "Output.", choices=FORMATS)

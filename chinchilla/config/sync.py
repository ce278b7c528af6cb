"""Settings of `chinchilla sync`."""

from dataclasses import dataclass

from chinchilla.config.checks import FORMATS
from chinchilla.config.setting import REQUIRED, Config, setting


@dataclass(kw_only=True)
class SyncCommand(Config):
    """`chinchilla sync`: send a sweep's new metrics to a tracker; may be repeated."""

    sweep_dir: str = setting(REQUIRED, "Folder of the sweep.")
    to: str = setting("wandb", "Tracker.", choices=("wandb", "tensorboard"))
    wandb: str = setting(
        "online",
        "offline writes files to upload with `wandb sync`.",
        choices=("online", "offline"),
    )
    wandb_project: str = setting("chinchilla", "Project in Weights & Biases.")
    runs: list[str] = setting([], "Run ids or prefixes; empty = all.")
    again: bool = setting(False, "Send all steps, including those sent before.")
    format: str = setting("text", "Output.", choices=FORMATS)

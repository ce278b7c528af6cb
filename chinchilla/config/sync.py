"""Settings of the command sync."""

from dataclasses import dataclass, field

from chinchilla.config.checks import check_format, choice


@dataclass(kw_only=True)
class SyncCommand:
    """`chinchilla sync`: send a sweep's new metrics to a tracker; may be repeated."""

    sweep_dir: str  # folder of the sweep
    to: str = "wandb"  # wandb or tensorboard
    wandb: str = "online"  # online, or offline (files to upload with `wandb sync`)
    wandb_project: str = "chinchilla"  # project in Weights & Biases
    runs: list[str] = field(default_factory=list)  # run ids or prefixes; empty = all
    again: bool = False  # send all steps, also those sent before
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        check_format(self.format)
        choice("to", self.to, ("wandb", "tensorboard"))
        choice("wandb", self.wandb, ("online", "offline"))

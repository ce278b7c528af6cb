"""What `chinchilla sync` can be told."""

from dataclasses import dataclass, field

from chinchilla.config.checks import require_choice, require_format


@dataclass(kw_only=True)
class SyncCommand:
    """`chinchilla sync`: bring a sweep's metrics into a tracker, as often as you like."""

    sweep_dir: str  # folder of the sweep
    to: str = "wandb"  # wandb or tensorboard
    wandb: str = "online"  # online, or offline (files that `wandb sync` uploads later)
    wandb_project: str = "chinchilla"  # project there
    runs: list[str] = field(default_factory=list)  # run ids or beginnings; empty = all
    again: bool = False  # from the first step, whatever was brought before
    format: str = "text"  # text or json

    def __post_init__(self) -> None:
        require_format(self.format)
        require_choice("to", self.to, ("wandb", "tensorboard"))
        require_choice("wandb", self.wandb, ("online", "offline"))

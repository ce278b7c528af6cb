"""The command that shows a sweep in a tracker: sync."""

import dataclasses
from pathlib import Path

from chinchilla import config
from chinchilla.commands.shared import print_json
from chinchilla.plan.records import load_plan


def sync(command: config.SyncCommand) -> int:
    """Bring what is new of a sweep into Weights & Biases or TensorBoard."""
    from chinchilla.sweep.sync import sync as bring

    sweep_dir = Path(command.sweep_dir)
    load_plan(sweep_dir / "plan.jsonl")  # says clearly when there is no sweep
    found = bring(
        sweep_dir,
        command.to,
        project=command.wandb_project,
        mode=command.wandb,
        runs=command.runs,
        again=command.again,
    )
    if command.format == "json":
        return print_json(dataclasses.asdict(found))
    print(found.text())
    if command.to == "tensorboard" and found.runs:
        print(f"Look at it: tensorboard --logdir {sweep_dir / 'runs'}")
    return 0

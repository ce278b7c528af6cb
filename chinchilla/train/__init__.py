"""Training one run: spec in, result out."""

from chinchilla.train.loop import train_run

__all__ = ["train_run"]

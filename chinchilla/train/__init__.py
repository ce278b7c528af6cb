"""Training one run: spec in, result out."""

from chinchilla.train.trainer import train_run

__all__ = ["train_run"]

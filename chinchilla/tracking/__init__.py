"""Metrics of a training run: a local file, and its mirror in wandb or TensorBoard."""

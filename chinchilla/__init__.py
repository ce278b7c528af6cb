"""Compute-optimal language models, after Hoffmann et al. (2022)."""

__version__ = "0.1.0"

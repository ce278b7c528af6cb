"""Tests here train on `data_dir`."""

from speeches import data_dir

__all__ = ["data_dir"]

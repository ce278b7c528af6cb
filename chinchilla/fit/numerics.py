"""Numerical helpers shared by the fits."""

import numpy as np


def fit_line(
    x: np.ndarray, y: np.ndarray, keep: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares straight lines along the last axis.

    Args:
        x: (..., n) abscissae, at least two distinct values in each row.
        y: (..., n) values; broadcast against x.
        keep: (..., n) bool: points to use; None for all. Other points may be NaN.

    Returns:
        Intercepts and slopes, each of the shape of a row's index.
    """
    if keep is None:
        keep = np.ones(np.shape(x), bool)
    n = keep.sum(-1)
    x, y = np.where(keep, x, 0), np.where(keep, y, 0)
    mean_x = x.sum(-1) / n
    dx = np.where(keep, x - mean_x[..., None], 0)
    slope = (dx * y).sum(-1) / (dx * dx).sum(-1)
    return y.sum(-1) / n - slope * mean_x, slope


def quadratic_columns(x: np.ndarray) -> np.ndarray:
    """(n, 3) design matrix of a parabola: 1, x, x^2. Centre x first."""
    return x[:, None] ** np.arange(3)

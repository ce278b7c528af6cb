"""Windows of tokens per parameter, because approach 3's law rarely holds from .01 to 1,000 of them."""

import numpy as np

from chinchilla.observations.table import Observations

RATIOS = ((0.0, np.inf), (1.0, 1000.0), (2.0, 200.0))  # windows of tokens per parameter
MIN_RUNS = 12  # in a window
MIN_SHARE = 0.3  # of the runs, in a window


def windows_of(obs: Observations) -> list[tuple[tuple[float, float], np.ndarray]]:
    """Windows of RATIOS that contain enough runs, each with its (n,) mask; windows with the same runs once."""
    ratio = obs.D / obs.N
    windows: list[tuple[tuple[float, float], np.ndarray]] = []
    for low, high in RATIOS:
        inside = (low <= ratio) & (ratio <= high)
        enough = inside.sum() >= max(MIN_RUNS, MIN_SHARE * len(obs)) or inside.all()
        if enough and not any((inside == other).all() for _, other in windows):
            windows.append(((low, high), inside))
    return windows


def in_words(ratios: tuple[float, float]) -> str:
    """Description of a window."""
    low, high = ratios
    return "all tokens per parameter" if low == 0 else f"D/N from {low:g} to {high:g}"

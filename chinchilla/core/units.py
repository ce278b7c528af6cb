"""Conventions for counting C, N and L; formatting and comparing of counts."""

from typing import TYPE_CHECKING

from chinchilla.core.shapes import FLOP_CONVENTIONS

if TYPE_CHECKING:  # `chinchilla --help` imports this module, and NumPy takes a tenth of its time
    import numpy as np

CONVENTIONS: dict[str, tuple[str, ...]] = {  # what each convention of a table of runs may be
    "flop_convention": ("unknown", *FLOP_CONVENTIONS),
    "n_convention": ("unknown", "total", "non_embedding"),
    "loss_kind": ("unknown", "train", "validation"),
}
SAME = 1e-9  # relative difference below which two numbers are equal
PRECISE_DIGITS = 7  # significant digits from which two runs do not share a loss by chance


def count(x: float) -> str:
    """Format a count with three digits and a suffix: 41.2k, 2.86B, 23.0M, 1.40T, 1,430T."""
    if x >= 999.5e12:
        return f"{float(f'{x / 1e12:.3g}'):,.0f}T"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if x >= 0.9995 * size:
            return f"{x / size:#.3g}".rstrip(".") + unit
    return f"{x:.3g}"


def number(x: float) -> str:
    """Format a number with three digits, or all digits of its integer part: 0.024, 5.66, 794,923."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def device_hours(x: float) -> str:
    """Format a number of device-hours: 1 device-hour, 24 device-hours."""
    return f"{number(x)} device-hour{'' if number(x) == '1' else 's'}"


def change(x: float) -> str:
    """Format a relative change: +12.3%, -0.004%; as a factor from ten times on: 31x."""
    return f"{number(1 + x)}x" if x >= 9 else f"{round(100 * x, 3):+.3g}%"


def duration(seconds: float) -> str:
    """Format a duration in the largest unit of which there are two: 42 s, 11 min, 5.2 h, 64.7 days."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} s"


def byte_size(n_bytes: float) -> str:
    """Format a number of bytes with three digits: 12.5 MB, 3.4 GB, 1.2 TB."""
    unit, one = next((u for u in (("TB", 1e12), ("GB", 1e9)) if n_bytes >= u[1]), ("MB", 1e6))
    return f"{n_bytes / one:.3g} {unit}"


def clock(seconds: float | None) -> str:
    """1:32, 2:05:10, 3d 04:00, or ? if unknown."""
    if seconds is None:
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02d}:{m:02d}"
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def same_values(x: "np.ndarray") -> "np.ndarray":
    """(n,) an integer per value, shared by positive values that differ by less than SAME, relative."""
    import numpy as np

    order = np.argsort(x, kind="stable")
    ids = np.empty(len(x), int)
    steps = np.diff(x[order]) > SAME * x[order][1:]
    ids[order] = np.append(0, np.cumsum(steps))[: len(x)]
    return ids


def is_rounded(x: "np.ndarray") -> "np.ndarray":
    """(n,) bool, whether a positive value has fewer than PRECISE_DIGITS significant digits."""
    import numpy as np

    scaled = x * 10.0 ** (PRECISE_DIGITS - 2 - np.floor(np.log10(x)))
    return np.abs(np.round(scaled) - scaled) < SAME * scaled

"""How every figure looks: colours, log ticks, and files that are the same bytes each time.

Colours are Okabe and Ito's for the three approaches and viridis without its pale end for ordered
quantities; markers differ too, so that nothing is told by colour alone. Object-oriented
matplotlib only: no pyplot, no global state.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from chinchilla.files import atomic_write
from chinchilla.records import count_label

COLORS = {"envelope": "#009E73", "isoflop": "#0072B2", "parametric": "#D55E00"}
MARKERS = {"envelope": "^", "isoflop": "o", "parametric": "s"}
GREY = "#6b7280"
WIDTH = 9.6  # inches: 920 CSS pixels, so that 10 pt text reads as 13 px in the page

STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same glyphs everywhere
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#4b5563",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "chinchilla",  # ids that do not change from run to run
    "path.simplify": True,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's defaults and ours on top, whatever the user's matplotlibrc says."""
    with matplotlib.style.context(["default", STYLE]):
        yield


def sequential() -> Colormap:
    """Viridis without its yellow end, which white swallows."""
    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, 256)))


def log_norm(values: np.ndarray) -> LogNorm:
    """From the smallest to the largest; a single value gets some room."""
    low, high = float(np.min(values)), float(np.max(values))
    return LogNorm(low, high) if high > low * 1.001 else LogNorm(low / 2, high * 2)


def power_of_ten(x: float) -> str:
    """1e18 as mathtext: 10^18, 3x10^18."""
    exponent = int(np.floor(np.log10(x) + 1e-9))
    head = f"{x / 10**exponent:.3g}"
    power = f"10^{{{exponent}}}"
    return f"${power}$" if head == "1" else f"${head}{{\\times}}{power}$"


def short_count(x: float) -> str:
    """A round count on an axis: 30k, 1M, 3B."""
    return count_label(x).translate(str.maketrans("mbt", "MBT"))


def plain(x: float) -> str:
    return f"{x:.4g}"


def log_ticks(low: float, high: float, at_most: int = 7) -> list[float]:
    """Round tick values inside [low, high], four where so many may be, even under a decade."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for heads in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [h * 10.0**k for k in decades for h in heads]
        ticks = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
        if len(ticks) >= min(4, at_most):
            return ticks[:: -(-len(ticks) // at_most)]
    return [t for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]


def log_scale(ax: Axes, which: str, label: Callable[[float], str] = short_count) -> None:
    """Make an axis logarithmic, with as many `log_ticks` as have room; for limits set before."""
    axis: Axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    axis.set_major_formatter(FuncFormatter(lambda x, _: label(x)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    for at_most in range(7, 1, -1):
        axis.set_major_locator(FixedLocator(log_ticks(low, high, at_most)))
        boxes = [text.get_window_extent().padded(3) for text in axis.get_ticklabels()]
        if not any(a.overlaps(b) for a, b in pairwise(boxes)):
            break


def padded(values: np.ndarray, share: float = 0.06) -> tuple[float, float]:
    """Log limits around the finite values, all positive, with a margin on both sides."""
    values = np.asarray(values)[np.isfinite(values)]
    low, high = float(np.min(values)), float(np.max(values))
    margin = max((high / low) ** share, 1.05)
    return low / margin, high * margin


def new_figure(height: float, n_panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width with panels side by side."""
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(wspace=0.05))
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, n_panels, squeeze=False)[0])


def legend_below(figure: Figure, ax: Axes, n_columns: int, markerscale: float = 1) -> None:
    """One legend under the panels, where it covers no data; each label once."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=n_columns, markerscale=markerscale
        )


def save_figure(figure: Figure, folder: Path, name: str) -> bytes:
    """Write <name>.png (150 dpi) and <name>.svg; the same figure gives the same bytes.

    Returns:
        The SVG, for the page to carry inside itself.
    """
    drawn = {}
    with house_style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # keep the layout just found: finding it again is slow
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
            drawn[suffix] = buffer.getvalue()
            with atomic_write(folder / f"{name}.{suffix}", "wb") as f:
                f.write(drawn[suffix])
    return drawn["svg"]

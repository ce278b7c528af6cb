"""Style of all figures: colours, log ticks, legends, and reproducible files.

Colours are Okabe and Ito's for the three approaches and viridis without its pale end for ordered
quantities; markers differ too, so that no information is in colour alone. Object-oriented
matplotlib without global state; only `new_axes` uses pyplot, and only in a notebook or a session
that imported it.
"""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
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
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from chinchilla.core.errors import clean
from chinchilla.core.files.writing import atomic_write
from chinchilla.fit.result import PowerLaw
from chinchilla.plan.records import count_label

COLORS = {"envelope": "#009E73", "isoflop": "#0072B2", "parametric": "#D55E00"}
MARKERS = {"envelope": "^", "isoflop": "o", "parametric": "s"}
GREY = "#6b7280"
RED = "#b91c1c"
C_LABEL = "C, training FLOPs"
D_LABEL = "D, tokens"
L_LABEL = "loss, nats/token"
N_LABEL = "N, parameters"
MANY_POINTS = 2_000  # more markers than this are an image in the SVG
WIDTH = 9.6  # inches: 920 CSS pixels, so that 10 pt text is 13 px in the page

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
    "svg.fonttype": "path",  # independent of installed fonts
    "svg.hashsalt": "chinchilla",  # reproducible ids
    "path.simplify": True,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's defaults with STYLE, independent of the user's matplotlibrc."""
    with matplotlib.style.context(["default", STYLE]):
        yield


def sequential() -> Colormap:
    """Viridis without its yellow end, which is hard to see on white."""
    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, 256)))


def log_norm(values: np.ndarray) -> LogNorm:
    """Norm from the smallest to the largest value, with room around a single one."""
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


def log_ticks(low: float, high: float, at_most: int = 7) -> list[float]:
    """Round tick values inside [low, high], at least four if allowed, even under a decade."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for heads in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [h * 10.0**k for k in decades for h in heads]
        ticks = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
        if len(ticks) >= min(4, at_most):
            return ticks[:: -(-len(ticks) // at_most)]
    return [t for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]


def log_scale(ax: Axes, which: str, label: Callable[[float], str] = short_count) -> None:
    """Make an axis logarithmic with as many `log_ticks` as fit; the limits must be set before."""
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


def new_axes() -> Axes:
    """Axes of a new figure that a notebook shows at the end of its cell."""
    size: dict[str, Any] = {"figsize": (7.2, 4.8), "layout": "constrained"}
    shell = sys.modules.get("IPython")
    in_notebook = shell is not None and shell.get_ipython() is not None
    if "matplotlib.pyplot" in sys.modules or in_notebook:
        import matplotlib.pyplot as plt

        return plt.figure(**size).add_subplot()
    figure = Figure(**size)
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def inner_range(values: np.ndarray) -> tuple[float, float]:
    """Tukey's outer fences: the quartiles -+ 3 interquartile ranges; outliers lie outside."""
    low, high = np.percentile(values[np.isfinite(values)], (25, 75))
    return float(low - 3 * (high - low)), float(high + 3 * (high - low))


def mark_outside(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Diamonds on the upper and lower edge of a panel for the points that lie beyond its y limits."""
    low, high = ax.get_ylim()
    outside = (y > high) | (y < low)
    if outside.any():
        ax.plot(
            x[outside], (y[outside] > high).astype(float), "D", color=RED, markersize=5,
            transform=ax.get_xaxis_transform(), clip_on=False, zorder=5, label="beyond the panel",
        )  # fmt: skip


def exponent_note(law: PowerLaw) -> str:
    """a = 0.487, 80% interval 0.462 to 0.534."""
    if law.p10 is None or law.p90 is None:
        return f"$a$ = {law.exponent:.3f}, no interval"
    return f"$a$ = {law.exponent:.3f}, 80% interval {law.p10:.3f} to {law.p90:.3f}"


def size_bar(
    ax: Axes,
    values: np.ndarray,
    label: str = N_LABEL,
    ticks: Callable[[float], str] = short_count,
) -> None:
    """A colour bar of `values` on the right of a panel, which does not resize the panel."""
    inset = ax.inset_axes((1.015, 0.0, 0.025, 1.0))
    figure = ax.get_figure()
    assert figure is not None
    bar = figure.colorbar(ScalarMappable(log_norm(values), sequential()), cax=inset)
    inset.set_ylabel(label)
    log_scale(inset, "y", ticks)
    bar.outline.set_visible(False)


def note(ax: Axes, text: str) -> None:
    """A note above the panel, under its title, where it covers no data."""
    ax.annotate(
        text, (0, 1), xytext=(0, 4), xycoords="axes fraction", textcoords="offset points",
        fontsize="small",
    )  # fmt: skip
    if title := ax.get_title(loc="left"):
        ax.set_title(title, loc="left", pad=18)


def legend_inside(
    ax: Axes,
    title: str = "",
    entries: tuple[Sequence[Any], Sequence[str]] | None = None,
    loc: Any = "best",
) -> None:
    """A legend inside the panel, where it covers least data, under a title."""
    handles, labels = ax.get_legend_handles_labels() if entries is None else entries
    ax.legend(
        handles, labels, title=title or None, loc=loc, fontsize="small", frameon=True,
        framealpha=0.85, edgecolor="none", title_fontsize="small",
        alignment="left" if len(handles) else "center",
    )  # fmt: skip


def legend_below(
    figure: Figure, axes: Sequence[Axes], n_columns: int, markerscale: float = 1
) -> None:
    """One legend under the panels, where it covers no data; each label of any panel once."""
    found = [zip(*ax.get_legend_handles_labels(), strict=True) for ax in axes]
    by_label = {label: handle for pairs in found for handle, label in pairs}
    if by_label:
        figure.legend(
            [*by_label.values()], [*by_label], loc="outside lower center", ncols=n_columns,
            markerscale=markerscale,
        )  # fmt: skip


def save_figure(figure: Figure, folder: Path, name: str) -> bytes:
    """Write <name>.png (150 dpi) and <name>.svg; the same figure gives the same bytes.

    Returns:
        The SVG, to embed in the page.
    """
    drawn = {}
    for text in figure.findobj(Text):  # a control character is invalid in SVG
        if text.get_text() != (shown := clean(text.get_text(), lines=True)):
            text.set_text(shown)
    with house_style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # keep this layout: computing it again is slow
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
            drawn[suffix] = buffer.getvalue()
            with atomic_write(folder / f"{name}.{suffix}", "wb") as f:
                f.write(drawn[suffix])
    return drawn["svg"]

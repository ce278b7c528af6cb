"""Counts and durations as people read them, and units that they mix up: N in millions, tokens in
billions, FLOPs in PFLOP/s-days, perplexity.

C = 6*N*D holds within a factor of two for every usual way of counting, so a factor of a hundred is a
slip of units and not a convention. Floor 0.
"""

import itertools

import numpy as np

SAME = 1e-9  # relative difference at which two numbers are one
MAX_FACTOR = 100.0  # of 6*N*D/C, either way: beyond it units are wrong
MAX_BUDGET_SPREAD = 10.0  # between runs, of C over the budget asked for
USUAL_FACTOR = 2.0  # beyond it the conventions of N and C deserve a look
ODD_FACTOR = 5.0  # of 6*N*D/C of few rows over the table's median: beyond it they deserve a look
FEW = 0.1  # of the rows
MAX_LOSS = 20.0  # nats per token: a uniform guess over a million tokens scores 13.8
LEAST_N = 5e3  # parameters; a median below is a count in thousands or more
TOKENS_PER_PARAM = (1e-3, 1e6)  # the median of D/N lies inside

MANY_DIGITS = 7  # significant digits from which two runs do not share a loss by chance

SLIPS = {  # column -> factor and the name of the unit
    "N": {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"},
    "D": {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"},
    "C": {
        1e9: "GFLOPs", 1e12: "TFLOPs", 1e15: "PFLOPs", 1e18: "EFLOPs", 1e21: "ZFLOPs",
        8.64e19: "PFLOP/s-days",
    },
}  # fmt: skip


def count(x: float) -> str:
    """A count in three digits with the paper's letters: 41.2k, 2.86B, 23.0M, 1.40T, 1,430T."""
    if x >= 999.5e12:
        return f"{float(f'{x / 1e12:.3g}'):,.0f}T"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if x >= 0.9995 * size:
            return f"{x / size:#.3g}".rstrip(".") + unit
    return f"{x:.3g}"


def number(x: float) -> str:
    """Three digits, and all of them before the point: 0.024, 5.66, 794,923."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use: 42 s, 11 min, 5.2 h, 64.7 days."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} s"


def clock(seconds: float | None) -> str:
    """1:32, 2:05:10, 3d 04:00, or ? if unknown."""
    if seconds is None:
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02d}:{m:02d}"
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


CURE = "Give parameters, tokens and FLOPs as whole counts, such as 70e9."


def unit_slip(C: np.ndarray, N: np.ndarray, D: np.ndarray) -> str:
    """What is wrong with the units of a whole table, in a sentence; "" when nothing is.

    Args:
        C: (n,) training FLOPs.
        N: (n,) parameters.
        D: (n,) tokens.
    """
    factor = float(np.median(6 * N * (D / C)))
    ratio = float(np.median(D / N))
    if not 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        cause = _cause(float(np.median(N)), float(np.median(D)), factor)
        return f"6*N*D/C is {factor:.2g} in the median: {cause}. {CURE}"
    if np.median(N) < LEAST_N:
        return f"N={np.median(N):.3g} in the median: N looks like millions or billions. {CURE}"
    if not TOKENS_PER_PARAM[0] <= ratio <= TOKENS_PER_PARAM[1]:
        column = "D" if ratio < 1 else "N"
        return f"D/N is {ratio:.2g} in the median: {column} looks like millions or billions. {CURE}"
    return ""


def row_slips(C: np.ndarray, N: np.ndarray, D: np.ndarray, ends: bool) -> tuple[np.ndarray, str]:
    """Rows in another unit than the table, whose units `unit_slip` found right, and what is wrong.

    Args:
        C: (n,) training FLOPs.
        N: (n,) parameters.
        D: (n,) tokens.
        ends: whether these are ends of runs, which alone have D/N in TOKENS_PER_PARAM.

    Returns:
        Indices of the rows, and a sentence about the first of them.
    """
    factor = 6 * N * (D / C)
    usual = float(np.median(factor))
    wrong = (factor > MAX_FACTOR) | (factor < 1 / MAX_FACTOR)
    wrong &= np.abs(np.log(factor / usual)) > np.log(MAX_FACTOR)
    if wrong.any():
        bad = np.flatnonzero(wrong)
        i = int(bad[0])
        cause = _cause(float(N[i]), float(D[i]), float(factor[i]), most=1)
        return bad, f"6*N*D/C is {factor[i]:.2g}, and {usual:.2g} in the median: {cause}. {CURE}"
    ratio = D / N
    wrong = (ratio < TOKENS_PER_PARAM[0]) | (ratio > TOKENS_PER_PARAM[1])
    if ends and wrong.any():
        bad = np.flatnonzero(wrong)
        i = int(bad[0])
        column = "D" if ratio[i] < 1 else "N"
        return bad, (
            f"D/N is {ratio[i]:.2g}, and {np.median(ratio):.2g} in the median: {column} looks like "
            f"millions or billions. {CURE}"
        )
    return np.zeros(0, int), ""


def perplexities(L: np.ndarray) -> tuple[np.ndarray, str]:
    """Indices of final losses that are none in nats per token, and what is wrong with the largest.

    Args:
        L: (n,) final losses.
    """
    bad = np.flatnonzero(L > MAX_LOSS)
    if not len(bad):
        return bad, ""
    return bad, (
        f"L={L.max():.4g} is no loss in nats per token: it looks like perplexity. Give "
        "ln(perplexity), or bits per token times ln 2; leave out runs that diverged."
    )


def unusual_rows(C: np.ndarray, N: np.ndarray, D: np.ndarray) -> tuple[np.ndarray, str]:
    """Indices of few rows whose 6*N*D/C is far from that of all others, and a note of them.

    Args:
        C: (n,) training FLOPs.
        N: (n,) parameters.
        D: (n,) tokens.
    """
    factor = 6 * N * (D / C)
    usual = float(np.median(factor))
    bad = np.flatnonzero(np.abs(np.log(factor / usual)) > np.log(ODD_FACTOR))
    if not 0 < len(bad) <= FEW * len(C):
        return np.zeros(0, int), ""
    return bad, (
        f"6*N*D/C is {factor[bad[0]]:.2g}, and {usual:.2g} in the median of the table. Check C, N and D "
        "there."
    )


def budget_slip(C: np.ndarray, budget_flops: np.ndarray) -> str:
    """What is wrong with the unit of the budgets asked for; "" when nothing is, or none is named.

    Args:
        C: (n,) training FLOPs spent.
        budget_flops: (n,) FLOPs asked for, NaN where a run belongs to no budget.
    """
    named = np.isfinite(budget_flops) & (budget_flops > 0)
    if not named.any():
        return ""
    spent = C[named] / budget_flops[named]
    if spent.max() > MAX_BUDGET_SPREAD * spent.min():
        return (
            f"one run spent {spent.min():.3g} times its budget_flops and another {spent.max():.3g} times: "
            "are budgets in the right rows? A budget is the C that was asked for, in FLOPs."
        )
    factor = float(np.median(spent))
    if 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        return ""
    return (
        f"C is {factor:.3g} times budget_flops in the median: a budget is the C that was asked for, "
        "in FLOPs. Give it so, such as 6e18, or leave it empty."
    )


def unusual_factor(C: np.ndarray, N: np.ndarray, D: np.ndarray) -> str:
    """A note when C is far from 6*N*D though its unit may be right; "" otherwise."""
    factor = float(np.median(6 * N * (D / C)))
    if 1 / USUAL_FACTOR <= factor <= USUAL_FACTOR:
        ratio = float(np.median(D / N))
        if ratio >= 1:
            return ""
        return f"{ratio:.2g} tokens per parameter in the median: are N and D in the right columns?"
    return (
        f"6*N*D/C is {factor:.2g} in the median: C, N and D are counted in ways that differ by more "
        "than the usual conventions do. Check them."
    )


def _cause(N: float, D: float, factor: float, most: int = 3) -> str:
    """The fewest slips that would bring 6*N*D/C back to about one, `most` at most; the more plausible first."""
    found = []
    choices = ({1.0: "", **SLIPS["N"]}, {1.0: "", **SLIPS["D"]}, {1.0: "", **SLIPS["C"]})
    for by in itertools.product(*choices):
        if not 1 / 3 <= factor * by[0] * by[1] / by[2] <= 3:
            continue
        units = [c[f] for c, f in zip(choices, by, strict=True)]
        slips = [
            f"{name} looks like {unit}" for name, unit in zip("NDC", units, strict=True) if unit
        ]
        if len(slips) > most:
            continue
        odd = (N * by[0] < LEAST_N) + (not 1e-2 <= D * by[1] / (N * by[0]) <= 1e5)
        found.append((odd, len(slips), " and ".join(slips)))
    return min(found)[2] if found else "the unit of C, N or D is wrong"


def same_values(x: np.ndarray) -> np.ndarray:
    """(n,) an index that values within SAME of each other share, relative: one number rounded twice.

    Args:
        x: (n,) positive numbers.
    """
    order = np.argsort(x, kind="stable")
    index = np.empty(len(x), int)
    steps = np.diff(x[order]) > SAME * x[order][1:]
    index[order] = np.append(0, np.cumsum(steps))[: len(x)]
    return index


def is_rounded(x: np.ndarray) -> np.ndarray:
    """(n,) whether a value has fewer than `MANY_DIGITS` significant digits.

    Args:
        x: (n,) positive numbers.
    """
    scaled = x * 10.0 ** (MANY_DIGITS - 2 - np.floor(np.log10(x)))
    return np.abs(np.round(scaled) - scaled) < SAME * scaled

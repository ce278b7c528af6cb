"""Diagnostics of fits: `chinchilla diagnose`, and its file diagnostics.json beside frontier.json.

diagnostics.json, schema 4:

    schema            4
    frontier_sha256   of the frontier.json that it belongs to; the report shows no other
    C_star            FLOPs at which moves of N_opt are stated
    n_bootstrap, seed of the resamples for the IsoFLOP minima
    items             name -> {verdict, message, advice, effect, effect_unit, values, parts}

Items are ordered by verdict (warning, inconclusive, passed, unavailable), then by the size of `effect`:
the move of the recommended answer that the finding implies, in "ln N_opt at C_star" or "ln L"
(`findings.py` describes how a verdict is reached; the two units are compared in multiples of ln 1.25
and .01). `effect` is null if unknown. `parts` holds the findings that an item combines, in the same form.

`values` holds the numbers: N in parameters, D in tokens, C in FLOPs as the runs count them, losses in nats
per token. The `rows` of leave_one_out, windows and curvature are refits of parts of the runs: name, what
identifies the part, n (runs), a, beta, log_N_move (change of ln N_opt), and a_sd and log_N_sd, the
standard deviations of the changes if the law holds (`context.py`); null where there was no fit. Of over 1,000
refits, the 100 with the largest moves are minimised and the others are estimated by one Newton step.

This module must import without torch.
"""

import dataclasses
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.core.errors import InputError
from chinchilla.core.files.json_codec import decode
from chinchilla.core.files.reading import TEXT_BYTES, read_json, sha256_file
from chinchilla.core.files.writing import write_json
from chinchilla.core.shapes import ModelShape
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.conventions import conventions
from chinchilla.diagnose.curvature import largest_compute, quadratic
from chinchilla.diagnose.extrapolation import extrapolation_in_C, extrapolation_in_N
from chinchilla.diagnose.findings import VERDICTS, Finding, attempted, combined, diagnostic_label
from chinchilla.diagnose.identifiability import identifiability
from chinchilla.diagnose.minima import approach_2_against_3
from chinchilla.diagnose.refits import (
    drop_path,
    leave_one_budget_out,
    leave_one_run_out,
    leave_one_size_out,
    window_path,
)
from chinchilla.diagnose.residuals import residuals
from chinchilla.fit.result import target_budget
from chinchilla.fit.results import FILE as FRONTIER
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations, observations_of

SCHEMA = 4
FILE = "diagnostics.json"
WIDTH = 100  # columns of text
INDENT = " " * 13

Parts = Mapping[str, Callable[[Context], Finding]]
ITEMS: dict[str, Callable[[Context], Finding] | Parts] = {
    "identifiability": identifiability,
    "leave_one_out": {
        "runs": leave_one_run_out,
        "budgets": leave_one_budget_out,
        "sizes": leave_one_size_out,
    },
    "windows": {"drop_path": drop_path, "window_path": window_path},
    "curvature": {"quadratic_term": quadratic, "largest_compute": largest_compute},
    "extrapolation": {"in_C": extrapolation_in_C, "in_N": extrapolation_in_N},
    "approach_2_against_3": approach_2_against_3,
    "residuals": residuals,
    "conventions": conventions,
}


@dataclass(frozen=True)
class Diagnostics:
    """All findings about one frontier.json, in order of verdict and effect."""

    items: dict[str, Finding]
    C_star: float
    n_bootstrap: int = 0
    seed: int = 0
    frontier_sha256: str = ""
    schema: int = SCHEMA

    def count(self, verdict: str) -> int:
        """Number of items with a verdict."""
        return sum(f.verdict == verdict for f in self.items.values())

    @property
    def summary(self) -> str:
        """For example "3 warnings, 2 inconclusive, 4 passed."."""
        counts = {verdict: self.count(verdict) for verdict in VERDICTS}
        texts = [f"{n} {verdict}" for verdict, n in counts.items() if n]
        return ", ".join(texts).replace("warning", "warning" + "s" * (counts["warning"] > 1)) + "."

    @property
    def first(self) -> str:
        """The advice of the finding with the largest effect."""
        for name, item in self.items.items():
            if item.advice:
                return f"Do this first: {item.advice} ({diagnostic_label(name)})"
        if self.count("passed"):
            return "No diagnostic found a relevant effect."
        return "Do this first: fit more runs. No diagnostic could be computed."

    def text(self, width: int | None = None) -> str:
        """One paragraph per item: verdict, message, effect and advice; then what to do first.

        Args:
            width: of the lines, at most and by default WIDTH.
        """
        lines: list[str] = []

        def add(text: str, indent: str) -> None:
            lines.extend(
                textwrap.wrap(
                    text,
                    min(width or WIDTH, WIDTH),
                    subsequent_indent=indent,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )

        for name, item in self.items.items():
            add(f"{item.verdict:<12} {diagnostic_label(name)}: {item.message}", INDENT)
            if item.effect_text:
                add(f"{INDENT}{item.effect_text}", INDENT)
            if item.advice:
                add(f"{INDENT}-> {item.advice}", INDENT + "   ")
        add(self.first, "   ")
        return "\n".join([*lines, self.summary])

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__  # for notebooks; the full record would fill pages

    def save(self, path: Path) -> None:
        """Write diagnostics.json."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Diagnostics":
        """Read diagnostics.json.

        Raises:
            InputError: missing, unreadable, or of another schema.
        """
        value = read_json(path, "diagnostics", TEXT_BYTES)
        if isinstance(value, dict) and value.get("schema") != SCHEMA:
            raise InputError(
                f"{path} has schema {value.get('schema')!r} and this version reads schema {SCHEMA}. Run "
                "`chinchilla diagnose` again."
            )
        diagnostics: Diagnostics = decode(cls, value, str(path))
        return diagnostics

    @classmethod
    def beside(cls, fits_dir: Path) -> "Diagnostics | None":
        """The diagnostics of the frontier.json in a folder; None if it has none."""
        path = fits_dir / FILE
        if not path.exists():
            return None
        diagnostics = cls.load(path)
        current = diagnostics.frontier_sha256 == sha256_file(fits_dir / FRONTIER)
        return diagnostics if current else None


def diagnose(
    obs: Observations | Any,
    fits: FitResults,
    *,
    C_star: float = 0.0,
    n_bootstrap: int = 400,
    seed: int = 0,
    shapes: Mapping[str, ModelShape] | None = None,
    frontier_sha256: str = "",
) -> Diagnostics:
    """Every diagnostic of one set of fits.

    Args:
        obs: the observations (or data frame) that were fitted; only the last points of curves are used.
        fits: the results of `chinchilla fit` on them.
        C_star: FLOPs at which moves of N_opt are stated; 0 = ten times the largest C.
        n_bootstrap: resamples of runs for the isoFLOP minima; 0 for no intervals.
        seed: of the resampling.
        shapes: run_id -> model, if known, for exact counts in `conventions`.
        frontier_sha256: of the file that `fits` was read from.

    Raises:
        InputError: `obs` are not the runs that were fitted.
    """
    obs = observations_of(obs).finals()
    if fits.data.get("n_runs") not in (None, len(obs)):
        raise InputError(
            f"observations.csv has {len(obs)} runs, but frontier.json was fitted to {fits.data['n_runs']}. "
            "Run `chinchilla fit` again."
        )
    context = Context(
        obs, fits, C_star or target_budget(obs.C.max(), exact=True), n_bootstrap, seed, shapes or {}
    )
    items = {}
    for name, item in ITEMS.items():
        if callable(item):
            items[name] = attempted(item, context)
        else:
            parts = {part: attempted(one, context) for part, one in item.items()}
            items[name] = combined(parts, one_question=name == "curvature")
    ordered = dict(sorted(items.items(), key=lambda pair: pair[1].rank))
    return Diagnostics(ordered, context.C_star, n_bootstrap, seed, frontier_sha256)

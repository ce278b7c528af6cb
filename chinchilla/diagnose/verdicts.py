"""Diagnostics of fits: `chinchilla diagnose`, and its file diagnostics.json.

    diagnose(finals, fits, ...) -> Diagnostics -> diagnostics.json beside frontier.json

diagnostics.json, schema 3:

    schema            3
    frontier_sha256   of the frontier.json that it belongs to; the report shows no other
    C_star            FLOPs at which moves of N_opt are stated
    a, se_a, se_from  approach 3's exponent of N_opt, its standard error and the source of that;
                      null without a law
    n_bootstrap, seed of the resamples for the IsoFLOP minima
    items             name -> {verdict, message, advice, effect, effect_unit, note, kind, values}

Items are ordered by verdict (warning, inconclusive, passed, unavailable), then by the size of `effect`:
the move of the recommended answer that the finding implies, in "ln N_opt at C_star" or "ln L"
(`findings.py` describes how a verdict is reached; the two units are compared in multiples of ln 1.25
and .01). `effect` is null if unknown. `kind` is one word for programs if an item is unavailable (no_law,
no_isoflop, no_budgets, too_few_runs, ...), else empty. `values` holds the numbers: N in parameters, D in
tokens, C in FLOPs as the runs count them, losses in nats per token, null where there was no fit. Rows of
refits hold n (runs), a, beta, log_N_opt at C_star, expected_sd (of the move of a if the law holds,
`context.py`), z (the move over it), and log_N_move, log_N_expected_sd and log_N_z for ln N_opt. Items with
several parts hold the verdict, message, effect and values of each part by its name:

    identifiability       condition (raw, centred, raw_scaled, centred_scaled), weakest, corr_lnN_lnD,
                          tokens_per_parameter, n_sizes, n_token_counts, n_budgets
    leave_one_out         runs: top, runs, largest_move_of_a, jackknife_se_of_a, n_fitted;
                          budgets: all, top; sizes: all, top
    windows               drop_path: highest_loss, largest_residual (rows by k);
                          window_path: windows (rows by range of tokens per parameter, or of N)
    curvature             quadratic_term: exponent_change_per_decade, p10, p90, ci95,
                          exponent_at_middle, log_N_move, log_N_move_sd;
                          largest_compute: cuts (rows by C_max), drifts;
                          slopes_by_thirds: envelope, isoflop, parametric (three rows each)
    extrapolation         in_C, in_N: windows (held_out, in_sample, previous_window, power_law_in_C, each
                          mae, bias in ln L, n; bias_expected_sd), beaten_by_power_law
    approach_2_against_3  a_isoflop, a_isoflop_of_law, a_parametric, slope_z, log_N_move, rms_z, budgets
    residuals             sd, kurtosis, share_in_linear_zone, trend_per_decade
    conventions           rows by N and C: parametric, isoflop_levelled, why_not; source, exact,
                          kaplan_local_exponent

NumPy only: this module must import without torch.
"""

import dataclasses
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.core.errors import FitError, InputError
from chinchilla.core.files import read_json, sha256_file, write_json
from chinchilla.core.json_codec import decode
from chinchilla.core.shapes import ModelShape
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.conventions import conventions
from chinchilla.diagnose.curvature import largest_compute, thirds
from chinchilla.diagnose.extrapolation import extrapolation_in_C, extrapolation_in_N
from chinchilla.diagnose.findings import VERDICTS, Finding, called, combined, described
from chinchilla.diagnose.identifiability import identifiability
from chinchilla.diagnose.minima import approach_2_against_3, quadratic
from chinchilla.diagnose.refits import (
    drop_path,
    leave_one_budget_out,
    leave_one_run_out,
    leave_one_size_out,
    window_path,
)
from chinchilla.diagnose.residuals import residuals
from chinchilla.fit.results import FILE as FRONTIER
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import Observations, observations_of

SCHEMA = 3
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
    "curvature": {
        "quadratic_term": quadratic,
        "largest_compute": largest_compute,
        "slopes_by_thirds": thirds,
    },
    "extrapolation": {"in_C": extrapolation_in_C, "in_N": extrapolation_in_N},
    "approach_2_against_3": approach_2_against_3,
    "residuals": residuals,
    "conventions": conventions,
}
ONE_QUESTION = ("curvature",)  # items whose parts measure one thing in several ways


@dataclass(frozen=True)
class Diagnostics:
    """All findings about one frontier.json, in order of verdict and effect."""

    items: dict[str, Finding]
    C_star: float
    a: float | None = None
    se_a: float | None = None
    se_from: str = ""
    n_bootstrap: int = 0
    seed: int = 0
    frontier_sha256: str = ""
    schema: int = SCHEMA

    def count(self, verdict: str) -> int:
        """Number of items with a verdict."""
        return sum(f.verdict == verdict for f in self.items.values())

    @property
    def summary(self) -> str:
        """For example "4 passed, 2 inconclusive, 3 warnings."."""
        counts = {verdict: self.count(verdict) for verdict in VERDICTS}
        texts = [f"{counts['passed']} passed"]
        if counts["inconclusive"]:
            texts.append(f"{counts['inconclusive']} inconclusive")
        texts.append(f"{counts['warning']} warning{'' if counts['warning'] == 1 else 's'}")
        if counts["unavailable"]:
            texts.append(f"{counts['unavailable']} unavailable")
        return f"{', '.join(texts)}."

    @property
    def first(self) -> str:
        """The advice of the finding with the largest effect."""
        for name, item in self.items.items():
            if item.advice:
                return f"Do this first: {item.advice} ({called(name)})"
        if self.count("passed"):
            return "No diagnostic found a relevant effect."
        return "Do this first: fit more runs. No diagnostic could be computed."

    def __str__(self) -> str:
        """One paragraph per item: verdict, message, effect and advice; then what to do first."""
        lines = []
        for name, item in self.items.items():
            head = f"{called(item.verdict):<12} {called(name)}: "
            lines += textwrap.wrap(head + item.message, WIDTH, subsequent_indent=INDENT)
            if effect := described(item):
                lines.append(f"{INDENT}{effect}")
            for prefix, text in (("note:", item.note), ("->", item.advice)):
                if text:
                    lines += textwrap.wrap(
                        f"{INDENT}{prefix} {text}", WIDTH, subsequent_indent=INDENT + "   "
                    )
        lines += textwrap.wrap(self.first, WIDTH, subsequent_indent="   ")
        return "\n".join([*lines, self.summary])

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
        value = read_json(path, "diagnostics")
        schema = value.get("schema") if isinstance(value, dict) else None
        if isinstance(value, dict) and schema != SCHEMA:
            raise InputError(
                f"{path} has schema {schema!r} and this version reads schema {SCHEMA}. Run "
                "`chinchilla diagnose` again."
            )
        diagnostics: Diagnostics = decode(cls, value, str(path))
        for name, item in diagnostics.items.items():
            if item.verdict not in VERDICTS:
                raise InputError(
                    f"{path}: {name}: verdict {item.verdict!r} is not one of {', '.join(VERDICTS)}. "
                    "Run `chinchilla diagnose` again."
                )
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
    context = Context(obs, fits, C_star or 10 * float(obs.C.max()), n_bootstrap, seed, shapes or {})
    items = {}
    for name, item in ITEMS.items():
        try:
            if callable(item):
                items[name] = item(context)
            else:
                items[name] = combined(item, context, one_question=name in ONE_QUESTION)
        except FitError as error:
            items[name] = Finding("unavailable", str(error), kind=error.kind)
    a: float | None = None
    se_a: tuple[float | None, str] = (None, "")
    if "parametric" in fits.fitted:
        a, se_a = context.a, context.se_a
    ordered = dict(sorted(items.items(), key=lambda pair: pair[1].rank))
    return Diagnostics(ordered, context.C_star, a, *se_a, n_bootstrap, seed, frontier_sha256)

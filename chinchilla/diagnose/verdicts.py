"""What stands behind the fitted exponents: `chinchilla diagnose`, and its file diagnostics.json.

    diagnose(finals, fits, ...) -> Diagnostics -> diagnostics.json beside frontier.json

diagnostics.json, schema 1:

    schema            1
    frontier_sha256   of the frontier.json it was made from; the report shows no other
    C_star            FLOPs at which changes of N_opt are stated
    a, se_a, se_from  approach 3's exponent of N_opt, its standard error and where that comes from;
                      null without a law
    n_bootstrap, seed of the resamples drawn for the isoFLOP vertices
    items             name -> {verdict, says, do, kind, values}

`verdict` is ok, caution, or unavailable; `says` is a sentence with the numbers and, for unavailable,
the reason; `do` is what to do about a caution, else empty; `kind` is one word for programs where
unavailable (no_law, no_isoflop, no_budgets, too_few_runs, ...), else empty; `values` holds the
numbers, named in the module that made them. N in parameters, D in tokens, C in FLOPs as the runs
count them, losses in nats per token, a and beta without unit, null where something had no fit.
Rows of refits hold n (runs), a, beta, log_N_opt at C_star, expected_sd (of a's move under a true
law, `case.py`) and z (the move over it). Items, in order:

    identifiability       condition (raw, centred, raw_scaled, centred_scaled), weakest, corr_lnN_lnD,
                          tokens_per_parameter, n_sizes, n_token_counts, n_budgets
    leave_one_run_out     top, runs, largest_move_of_a, jackknife_se_of_a, n_fitted
    leave_one_budget_out  all, top; leave_one_size_out likewise
    drop_path             highest_loss, largest_residual: rows by k
    window_path           windows: rows by range of tokens per parameter, or of N
    slopes_by_thirds      envelope, isoflop, parametric: three rows each
    quadratic_term        exponent_change_per_decade, p10, p90, ci95, exponent_at_middle
    largest_compute       cuts: rows by C_max; drifts
    extrapolation_in_C    windows: held_out, in_sample, previous_window, power_law_in_C,
                          nearest_third (each mae, bias in ln L, n), expected_ratio; ratio,
                          beaten_by_power_law
    extrapolation_in_N    the same in N
    approach_2_against_3  a_isoflop, a_isoflop_of_law, a_parametric, slope_z, rms_z, budgets
    residuals             sd, kurtosis, share_in_linear_zone, trend_per_decade
    conventions           rows by N and C: parametric, isoflop_levelled, why_not; source, exact,
                          kaplan_local_exponent

NumPy only: this module must import without torch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.diagnose import agreement, curvature, extrapolation, influence, recount
from chinchilla.diagnose.case import Case, Finding
from chinchilla.diagnose.identifiability import identifiability
from chinchilla.errors import FitError, InputError
from chinchilla.files import read_json, sha256_file, write_json
from chinchilla.fit.fits import FILE as FRONTIER
from chinchilla.fit.fits import Fits
from chinchilla.from_json import checked
from chinchilla.observations import Observations
from chinchilla.shapes import ModelShape

SCHEMA = 1
FILE = "diagnostics.json"

ITEMS: dict[str, Callable[[Case], Finding]] = {
    "identifiability": identifiability,
    "leave_one_run_out": influence.leave_one_out,
    "leave_one_budget_out": influence.leave_one_budget_out,
    "leave_one_size_out": influence.leave_one_size_out,
    "drop_path": influence.drop_path,
    "window_path": influence.window_path,
    "slopes_by_thirds": curvature.thirds,
    "quadratic_term": curvature.quadratic,
    "largest_compute": curvature.largest_compute,
    "extrapolation_in_C": extrapolation.extrapolation_in_C,
    "extrapolation_in_N": extrapolation.extrapolation_in_N,
    "approach_2_against_3": agreement.approach_2_against_3,
    "residuals": agreement.residuals,
    "conventions": recount.recount,
}


@dataclass(frozen=True)
class Diagnostics:
    """Every finding about one frontier.json."""

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
        """How many items ended so."""
        return sum(f.verdict == verdict for f in self.items.values())

    def save(self, path: Path) -> None:
        """Write diagnostics.json."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Diagnostics":
        """Read diagnostics.json.

        Raises:
            InputError: missing, unreadable, or of another schema.
        """
        where = str(path)
        value = dict(checked(read_json(path, "diagnostics"), cls, SCHEMA, where))
        value["items"] = {
            name: Finding(**checked(item, Finding, None, f"{where}: {name}"))
            for name, item in value["items"].items()
        }
        return cls(**value)

    @classmethod
    def beside(cls, fits_dir: Path) -> "Diagnostics | None":
        """Those of a folder's frontier.json; None where there are none or they are of another."""
        path = fits_dir / FILE
        if not path.exists():
            return None
        found = cls.load(path)
        return found if found.frontier_sha256 == sha256_file(fits_dir / FRONTIER) else None


def diagnose(
    obs: Observations,
    fits: Fits,
    *,
    C_star: float = 0.0,
    n_bootstrap: int = 400,
    seed: int = 0,
    shapes: Mapping[str, ModelShape] | None = None,
    frontier_sha256: str = "",
) -> Diagnostics:
    """Every item for one set of fits.

    Args:
        obs: the observations that were fitted; of curves only the last points are used.
        fits: what `chinchilla fit` found in them.
        C_star: FLOPs at which changes of N_opt are stated; 0 = ten times the largest C.
        n_bootstrap: resamples of runs for the isoFLOP vertices; 0 for no intervals.
        seed: of the resampling.
        shapes: run_id -> model, where known; exact counts for `conventions`.
        frontier_sha256: of the file that `fits` came from.

    Raises:
        InputError: `obs` are not the runs that `fits` were made from.
    """
    obs = obs.finals()
    if fits.data.get("n_runs") not in (None, len(obs)):
        raise InputError(
            f"observations.csv has {len(obs)} runs, but frontier.json was fitted to "
            f"{fits.data['n_runs']}. Run `chinchilla fit` again."
        )
    case = Case(obs, fits, C_star or 10 * float(obs.C.max()), n_bootstrap, seed, shapes or {})
    items = {}
    for name, item in ITEMS.items():
        try:
            items[name] = item(case)
        except FitError as error:
            items[name] = Finding("unavailable", str(error), kind=error.kind)
    known: dict[str, Any] = {}
    if "parametric" in fits.fitted:
        known = {"a": case.a, "se_a": case.se_a[0], "se_from": case.se_a[1]}
    return Diagnostics(
        items,
        case.C_star,
        n_bootstrap=n_bootstrap,
        seed=seed,
        frontier_sha256=frontier_sha256,
        **known,
    )

"""One record of what a law says to do with a budget: what `chinchilla predict` prints or writes.

Gathers `decide`, `overtraining` and `repeated` for each budget, and for a target loss. Plain numbers
in nested dicts, ready for JSON; `show.py` prints the same record. NumPy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from chinchilla.config import RatesConfig
from chinchilla.core.errors import Refusal
from chinchilla.core.shapes import ModelShape, named_shapes, shape_named
from chinchilla.decide import allocation, overtraining, repeated
from chinchilla.decide.bootstrap_laws import ResampledLaws
from chinchilla.fit.loss_law import FlopsPerToken, named_law
from chinchilla.fit.result import LossLaw
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import SINGLE_EPOCH
from chinchilla.recommend.evaluate import RANGE_ONLY, budget_for, default_budget, local_law

FITTED = "the recommended answer"  # how the law of the fits is called
DEFAULT_LAW = "besiroglu"
REPEATS_MEASURED = 40.0  # epochs up to which the published worth of repeats was measured, about
REPEATS_LAW = "muennighoff"  # the law that the published worth of repeats belongs to


@dataclass(frozen=True)
class DecisionModel:
    """What decisions stand on: a law, where it comes from, and how FLOPs are counted."""

    law: LossLaw
    name: str
    cost: FlopsPerToken | None = None  # None: C = 6*N*D
    flop_convention: str = ""  # how shapes count FLOPs; empty = by `cost`, as the runs do
    resampled: ResampledLaws | None = None
    # flop_convention, n_convention, loss_kind of the fitted runs; a published law says none
    conventions: Mapping[str, str] = field(default_factory=dict)
    interval: str = ""  # how the fit resampled, in words
    single_epoch: bool = True  # whether no run behind the law is known to have repeated data
    fits: FitResults | None = None  # whose recommendation decides; None: the law itself

    def at(self, C: float) -> "DecisionModel":
        """What decides at C FLOPs: the law with the recommended N, D and loss there.

        Costs of departures then are those from the recommended answer, whichever approach it is by.
        """
        law = None if self.fits is None else local_law(self.fits, C)
        return self if law is None else replace(self, law=law, resampled=None)

    @classmethod
    def of(
        cls,
        fits: FitResults | None,
        law: str = "",
        flop_convention: str = "",
        repeats: bool = False,
    ) -> "DecisionModel | None":
        """The published law named, else the recommendation of the fits, else a default.

        None where the fits can say nothing about departures (no loss, or no N) and no law is named.

        Args:
            fits: what was fitted, if anything.
            law: a key of paper.LOSS_LAWS, or empty.
            flop_convention: how shapes count FLOPs; empty = as the law's runs do.
            repeats: whether repeated data is asked for, which has a published law of its own.
        """
        if not law and fits is not None:
            fitted = fits.fitted.get("parametric")
            start = None if fitted is None else fitted.law
            if fits.recommended is not None:
                start = start or local_law(fits, default_budget(fits))
            if start is None:
                return None
            conventions = next((f.conventions for f in fits.fitted.values()), {})
            once = (fits.data.get("max_epochs") or 1.0) <= SINGLE_EPOCH
            return cls(
                start, FITTED, fits.cost, flop_convention, ResampledLaws.of(fitted), conventions,
                "" if fitted is None else fitted.settings["interval"], once,
                fits if fits.recommended is not None else None,
            )  # fmt: skip
        name = law or (REPEATS_LAW if repeats else DEFAULT_LAW)
        return cls(named_law(name), f"law {name}", None, flop_convention)

    @property
    def n_convention(self) -> str:
        """How shapes count N: as the law's runs do, else every parameter."""
        own = self.conventions.get("n_convention", "unknown")
        return "total" if own == "unknown" else own

    def built(self, C: float, shapes: Mapping[str, ModelShape]) -> list[allocation.Buildable]:
        """Shapes with D solved again for C FLOPs, the least extra compute first."""
        how = self.flop_convention
        sizes = allocation.count_shapes(shapes, self.cost, self.n_convention, how)
        cost = self.cost
        if how:
            cost = None if how == "six_nd" else allocation.curve_through(sizes)
        return allocation.snap(self.law, C, sizes, cost)


def shapes_on_offer(
    names: Sequence[str], vocab_size: int, seq_len: int, kv_size: int, positions: str
) -> dict[str, ModelShape]:
    """Shapes by name: those named, or all of Table A9 with Chinchilla and Gopher."""
    return {
        name: shape_named(name, vocab_size, seq_len, kv_size, positions)
        for name in names or named_shapes()
    }


def for_budget(
    ground: DecisionModel,
    C: float,
    shapes: Mapping[str, ModelShape],
    rates: RatesConfig,
    inference_tokens: float = 0.0,
) -> dict[str, Any]:
    """What C FLOPs are best spent on and what departures cost, on one law.

    Raises:
        Refusal: the law has no optimum at C (`options.allocate`).
    """
    ground = ground.at(C)
    law, cost = ground.law, ground.cost
    best = allocation.allocate(law, C, cost)
    built = ground.built(C, shapes)
    answer: dict[str, Any] = {
        "C": C,
        "N": best.N,
        "D": best.D,
        "L": best.L,
        "law": {name: getattr(law, name) for name in ("E", "A", "B", "alpha", "beta")},
        "N_within_1_percent": list(allocation.sizes_within(law, C, 0.01, cost)),
        "misallocation": [asdict(row) for row in allocation.misallocation(law, C, cost=cost)],
        "best_shape": built[0].name,
        "shapes": [asdict(row) for row in allocation.neighbours(built)],
        "overtraining": [asdict(row) for row in overtraining.overtrain(law, C, cost=cost)],
        "bill": asdict(allocation.bill(C, rates)),
    }
    if inference_tokens:
        try:
            answer["inference"] = asdict(allocation.serve(law, best.L, inference_tokens, cost))
        except Refusal as error:  # the rest of the answer stands
            answer |= {"inference": None, "inference_refused": str(error)}
    return answer


def for_target(
    ground: DecisionModel, L: float, rates: RatesConfig, inference_tokens: float = 0.0
) -> dict[str, Any]:
    """The cheapest way to loss L, with the 80% interval of its cost where runs were fitted.

    Raises:
        Refusal: L is not reached.
    """
    interval: list[float | None] | None = None
    if ground.fits is not None:
        C, interval = budget_for(ground.fits, L)
        ground = ground.at(C)
    best = allocation.cheapest(ground.law, L, ground.cost)
    answer: dict[str, Any] = {
        "L": L,
        **asdict(best),
        "E": ground.law.E,
        "C_interval80": interval,
        "range_only": ground.fits is not None and best.C > RANGE_ONLY * ground.fits.data["C"][1],
        "bill": asdict(allocation.bill(best.C, rates)),
    }
    if inference_tokens:
        served = allocation.serve(ground.law, L, inference_tokens, ground.cost)
        answer["inference"] = asdict(served)
    return answer


def for_unique_tokens(
    ground: DecisionModel,
    budgets: Sequence[float],
    unique_tokens: float,
    runs: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """The best N, D and epochs at each budget when only `unique_tokens` exist. C = 6*N*D.

    Args:
        ground: the single-epoch law, at each budget with the recommended N, D and loss. Where its own
            runs repeated data, it is fitted anew to those of `runs` that did not.
        budgets: training FLOPs.
        unique_tokens: tokens that exist.
        runs: columns N, D, L and unique_tokens of runs that repeat data; None = the published worth
            of repeats.
    """
    certificate, measured, own = None, REPEATS_MEASURED, True
    law, source = repeated.named_repeats(ground.law), "published (C4)"
    if runs is not None:
        once = ground.law if ground.single_epoch else None
        law, certificate = repeated.fit_repeated(
            runs["N"], runs["D"], runs["unique_tokens"], runs["L"], once
        )
        measured = certificate["max_epochs"]
        source = f"fitted to {certificate['n_runs']} runs"
        own = once is not None
        if not own:
            n_once = certificate["n_runs"] - certificate["n_repeated"]
            source += f", the law itself to the {n_once} that repeat nothing"
    return {
        "unique_tokens": unique_tokens,
        "R_D": law.R_D,
        "R_N": law.R_N,
        "source": source,
        "epochs_measured": measured,
        "certificate": certificate,
        "budgets": [
            asdict(
                repeated.allocate_repeated(
                    replace(law, law=ground.at(C).law) if own else law, C, unique_tokens
                )
            )
            for C in budgets
        ],
    }


def ground_needed(ground: DecisionModel | None, key: str) -> DecisionModel:
    """`ground`, or why what was asked with `key` cannot be answered.

    Raises:
        Refusal: there is no law.
    """
    if ground is None:
        raise Refusal(
            f"{key} needs a loss law, and approach 3 was not fitted here. Fit it, or give law=NAME "
            "of a published one."
        )
    return ground

"""What a loss law implies for a budget, a target loss or limited data, as records for JSON.

`DecisionModel` states which law decides. `for_budget`, `for_target` and `for_unique_tokens` return plain
numbers in nested dicts: `chinchilla predict` prints them or writes them as JSON. NumPy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from chinchilla.config import RatesConfig
from chinchilla.core.errors import Refusal
from chinchilla.core.shapes import ModelShape, named_shapes, shape_named
from chinchilla.decide import allocation, repeated
from chinchilla.decide.predictions import ResampledLaws
from chinchilla.fit.loss_law import FlopsPerToken, named_law
from chinchilla.fit.result import LossLaw
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import SINGLE_EPOCH
from chinchilla.recommend.evaluate import RANGE_ONLY, budget_for, default_budget, local_law

FITTED = "the recommended answer"  # name of the law that follows from the recommendation
DEFAULT_LAW = "besiroglu"
REPEATS_LAW = "muennighoff"  # the law for which the effect of repeated data was published
REPEATS_MEASURED = 40.0  # epochs up to which it was measured, approximately
CONSTANTS = ("E", "A", "B", "alpha", "beta")


@dataclass(frozen=True)
class DecisionModel:
    """The loss law that decides, its origin, and how FLOPs are counted."""

    law: LossLaw
    name: str
    cost: FlopsPerToken | None = None  # None: C = 6*N*D
    flop_convention: str = ""  # how FLOPs of a shape are counted; empty = with `cost`
    resampled: ResampledLaws | None = None
    # flop_convention, n_convention and loss_kind of the fitted runs; empty for a published law
    conventions: Mapping[str, str] = field(default_factory=dict)
    single_epoch: bool = True  # False if a run behind the law is known to have repeated data
    fits: FitResults | None = None  # fits whose recommendation decides; None: the law itself

    @classmethod
    def of(
        cls,
        fits: FitResults | None,
        law: str = "",
        flop_convention: str = "",
        repeats: bool = False,
    ) -> "DecisionModel | None":
        """The published law if one is named, else the recommendation of the fits, else a default law.

        None if the fits forecast no loss or no N, and no law is named.

        Args:
            fits: the fits, if any.
            law: a key of paper.LOSS_LAWS, or empty.
            flop_convention: how shapes count FLOPs; empty = as the law's runs do.
            repeats: whether data repeats, for which another default law was published.
        """
        if law or fits is None:
            name = law or (REPEATS_LAW if repeats else DEFAULT_LAW)
            return cls(named_law(name), f"law {name}", None, flop_convention)
        recommended = fits.recommended is not None
        parametric = fits.fitted.get("parametric")
        fitted_law = None if parametric is None else parametric.law
        if fitted_law is None and recommended:
            fitted_law = local_law(fits, default_budget(fits))
        if fitted_law is None:
            return None
        return cls(
            law=fitted_law,
            name=FITTED,
            cost=fits.cost,
            flop_convention=flop_convention,
            resampled=ResampledLaws.of(parametric),
            conventions=next((f.conventions for f in fits.fitted.values()), {}),
            single_epoch=(fits.data.get("max_epochs") or 1.0) <= SINGLE_EPOCH,
            fits=fits if recommended else None,
        )

    def at(self, C: float) -> "DecisionModel":
        """The model that decides at C FLOPs: its law has the recommended N, D and loss there.

        The cost of a departure is then relative to the recommended answer of any approach.
        """
        law = None if self.fits is None else local_law(self.fits, C)
        return self if law is None else replace(self, law=law, resampled=None)

    @property
    def n_convention(self) -> str:
        """How shapes count N: as the runs do, or all parameters if that is unknown."""
        own = self.conventions.get("n_convention", "unknown")
        return "total" if own == "unknown" else own

    def buildable(self, C: float, shapes: Mapping[str, ModelShape]) -> list[allocation.Buildable]:
        """Shapes with D re-optimised for C FLOPs, the least extra compute first."""
        convention = self.flop_convention
        sizes = allocation.count_shapes(shapes, self.cost, self.n_convention, convention)
        cost = self.cost
        if convention:
            cost = None if convention == "six_nd" else allocation.curve_through(sizes)
        return allocation.snap(self.law, C, sizes, cost)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        shapes = "six_nd" if self.cost is None else "the fitted runs"
        return {
            "name": self.name,
            **constants(self.law),
            "flops": "6*N*D" if self.cost is None else "the trend of the fitted runs over sizes",
            "flop_convention_of_shapes": self.flop_convention or shapes,
            "n_convention_of_shapes": self.n_convention,
            "n_convention_of_runs": self.conventions.get("n_convention"),
        }


def constants(law: LossLaw) -> dict[str, float]:
    """The five constants of a law by name."""
    return {name: getattr(law, name) for name in CONSTANTS}


def available_shapes(
    names: Sequence[str], vocab_size: int, seq_len: int, kv_size: int, positions: str
) -> dict[str, ModelShape]:
    """Shapes by name: those named, or all of Table A9 with Chinchilla and Gopher."""
    return {
        name: shape_named(name, vocab_size, seq_len, kv_size, positions)
        for name in names or named_shapes()
    }


def for_budget(
    model: DecisionModel,
    C: float,
    shapes: Mapping[str, ModelShape],
    rates: RatesConfig,
    inference_tokens: float = 0.0,
) -> dict[str, Any]:
    """The best use of C FLOPs and the costs of departures from it, by one law.

    Raises:
        Refusal: the law has no optimum at C (`allocation.allocate`).
    """
    model = model.at(C)
    law, cost = model.law, model.cost
    best = allocation.allocate(law, C, cost)
    buildable = model.buildable(C, shapes)
    record: dict[str, Any] = {
        **asdict(best),
        "law": constants(law),
        "N_within_1_percent": list(allocation.sizes_within(law, C, 0.01, cost)),
        "misallocation": [asdict(row) for row in allocation.misallocation(law, C, cost=cost)],
        "best_shape": buildable[0].name,
        "shapes": [asdict(row) for row in allocation.neighbours(buildable)],
        "overtraining": [asdict(row) for row in allocation.overtrain(law, C, cost=cost)],
        "bill": asdict(allocation.bill(C, rates)),
    }
    if inference_tokens:
        try:
            record["inference"] = asdict(allocation.serve(law, best.L, inference_tokens, cost))
        except Refusal as error:  # the rest of the answer holds
            record |= {"inference": None, "inference_refused": str(error)}
    return record


def for_target(
    model: DecisionModel, L: float, rates: RatesConfig, inference_tokens: float = 0.0
) -> dict[str, Any]:
    """The cheapest way to loss L, with the 80% interval of its cost if runs were fitted.

    Raises:
        Refusal: L is not reached.
    """
    interval: list[float | None] | None = None
    fits = model.fits
    if fits is not None:
        C, interval = budget_for(fits, L)
        model = model.at(C)
    best = allocation.cheapest(model.law, L, model.cost)
    record: dict[str, Any] = {
        **asdict(best),
        "E": model.law.E,
        "C_interval80": interval,
        "range_only": fits is not None and best.C > RANGE_ONLY * fits.data["C"][1],
        "bill": asdict(allocation.bill(best.C, rates)),
    }
    if inference_tokens:
        served = allocation.serve(model.law, L, inference_tokens, model.cost)
        record["inference"] = asdict(served)
    return record


def for_unique_tokens(
    model: DecisionModel,
    budgets: Sequence[float],
    unique_tokens: float,
    runs: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """The best N, D and epochs at each budget if only `unique_tokens` exist, with C = 6*N*D.

    Args:
        model: the single-epoch law, with the recommended N, D and loss at each budget. If its own runs
            repeated data, it is refitted to those of `runs` that did not.
        budgets: training FLOPs.
        unique_tokens: tokens that exist.
        runs: columns N, D, L and unique_tokens of runs that repeat data; None uses the published
            effect of repeats.
    """
    certificate, measured, own_law = None, REPEATS_MEASURED, True
    law, source = repeated.named_repeats(model.law), "published (C4)"
    if runs is not None:
        own_law = model.single_epoch
        law, certificate = repeated.fit_repeated(
            runs["N"], runs["D"], runs["unique_tokens"], runs["L"], model.law if own_law else None
        )
        measured = certificate["max_epochs"]
        source = f"fitted to {certificate['n_runs']} runs"
        if not own_law:
            n_single = certificate["n_runs"] - certificate["n_repeated"]
            source += f", the law itself to the {n_single} without repeated data"
    rows = []
    for C in budgets:
        law_at_C = replace(law, law=model.at(C).law) if own_law else law
        rows.append(asdict(repeated.allocate_repeated(law_at_C, C, unique_tokens)))
    return {
        "unique_tokens": unique_tokens,
        "R_D": law.R_D,
        "R_N": law.R_N,
        "source": source,
        "epochs_measured": measured,
        "certificate": certificate,
        "budgets": rows,
    }

"""What a loss law implies for a budget or for limited data, as records for JSON.

`DecisionModel` states which law decides. `for_budget` and `for_unique_tokens` return plain numbers in
nested dicts: `chinchilla predict` prints them or writes them as JSON.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from chinchilla.config import RatesConfig
from chinchilla.core.errors import Refusal
from chinchilla.core.paper import REPEATS_MUENNIGHOFF
from chinchilla.core.shapes import ModelShape, named_shapes, shape_named
from chinchilla.decide import allocation, repeated
from chinchilla.fit.loss_law import FlopsPerToken, named_law
from chinchilla.fit.result import LossLaw
from chinchilla.fit.results import FitResults
from chinchilla.observations.table import SINGLE_EPOCH
from chinchilla.recommend.evaluate import default_budget, local_law

FITTED = "the recommended answer"  # name of the law that follows from the recommendation
DEFAULT_LAW = "besiroglu"
REPEATS_LAW = "muennighoff"  # the law for which the effect of repeated data was published
REPEATS_MEASURED = 40.0  # epochs up to which it was measured, approximately
CONSTANTS = ("E", "A", "B", "alpha", "beta")


@dataclass(frozen=True)
class DecisionModel:
    """The loss law that decides, and the fits that it comes from; None for a published law, C = 6*N*D."""

    law: LossLaw
    name: str
    fits: FitResults | None = None

    @classmethod
    def of(
        cls, fits: FitResults | None, law: str = "", repeats: bool = False
    ) -> "DecisionModel | None":
        """The published law if one is named, else the recommendation of the fits, else a default law.

        None if the fits forecast no loss or no N, and no law is named.

        Args:
            fits: the fits, if any.
            law: a key of paper.LOSS_LAWS, or empty.
            repeats: whether data repeats, for which another default law was published.
        """
        if law or fits is None:
            name = law or (REPEATS_LAW if repeats else DEFAULT_LAW)
            return cls(named_law(name), f"law {name}")
        parametric = fits.fitted.get("parametric")
        own = local_law(fits, default_budget(fits)) if parametric is None else parametric.law
        return None if own is None else cls(own, FITTED, fits)

    def at(self, C: float) -> LossLaw:
        """The law that decides at C FLOPs: that of the fits has the recommended N, D and loss there.

        The cost of a departure is then relative to the recommended answer of any approach.
        """
        return (self.fits and local_law(self.fits, C)) or self.law

    @property
    def cost(self) -> FlopsPerToken | None:
        """FLOPs per token of the fitted runs; None is 6*N."""
        return None if self.fits is None else self.fits.cost

    @property
    def conventions(self) -> Mapping[str, str]:
        """flop_convention, n_convention and loss_kind of the fitted runs; empty for a published law."""
        fitted = {} if self.fits is None else self.fits.fitted
        return next((f.conventions for f in fitted.values()), {})

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            **constants(self.law),
            "flops": "6*N*D" if self.cost is None else "D times the trend of C/D over N",
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
    law, cost = model.at(C), model.cost
    best = allocation.allocate(law, C, cost)
    sizes = allocation.count_shapes(shapes, model.conventions.get("n_convention", ""))
    rows = allocation.available(law, C, sizes, cost)
    record: dict[str, Any] = {
        **asdict(best),
        "law": constants(law),
        "N_within_1_percent": list(allocation.sizes_within(law, C, 0.01, cost)),
        "misallocation": [asdict(row) for row in allocation.misallocation(law, C, cost=cost)],
        "best_shape": asdict(rows[0]),
        "shapes": [asdict(row) for row in allocation.neighbours(rows)],
        "bill": asdict(allocation.bill(C, rates)),
    }
    if inference_tokens:
        try:
            record["inference"] = asdict(allocation.serve(law, best.L, inference_tokens, cost))
        except Refusal as error:  # the rest of the answer holds
            record |= {"inference": None, "inference_refused": str(error)}
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
    certificate, measured, refitted = None, REPEATS_MEASURED, False
    # R_D* and R_N* of Muennighoff et al., from models of 7M to 9B parameters on C4.
    law, source = repeated.RepeatedLaw(model.law, *REPEATS_MUENNIGHOFF), "published (C4)"
    if runs is not None:
        epochs = None if model.fits is None else model.fits.data.get("max_epochs")
        refitted = (epochs or 1.0) > SINGLE_EPOCH
        law, certificate = repeated.fit_repeated(
            runs["N"], runs["D"], runs["unique_tokens"], runs["L"], None if refitted else model.law
        )
        measured = certificate["max_epochs"]
        source = f"fitted to {certificate['n_runs']} runs"
        if refitted:
            n_single = certificate["n_runs"] - certificate["n_repeated"]
            source += f", the law itself to the {n_single} without repeated data"
    rows = []
    for C in budgets:
        law_at_C = law if refitted else replace(law, law=model.at(C))
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

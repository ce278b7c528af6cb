"""Warnings of a fit that belong under every answer from it, one line each."""

from dataclasses import dataclass

from chinchilla.fit.result import approach_label
from chinchilla.fit.results import FitResults


@dataclass(frozen=True)
class FitWarning:
    """One warning or note."""

    kind: str  # fit_warning, refused, note
    text: str


def fit_warnings(fits: FitResults) -> list[FitWarning]:
    """Warnings of the recommended approach, refusals of the others, notes on how the runs were read."""
    warnings = []
    approach = str((fits.recommended or {}).get("approach", ""))
    if approach in fits.fitted:
        texts = fits.fitted[approach].warnings
        warnings = [
            FitWarning("fit_warning", f"{approach_label(approach)}: {text}") for text in texts
        ]
    for name, r in fits.refused.items():
        first = r.reason.split(". ")[0].removesuffix(".")
        warnings.append(
            FitWarning("refused", f"{approach_label(name)} was refused ({r.kind}): {first}.")
        )
    return warnings + [FitWarning("note", text) for text in fits.data["notes"]]

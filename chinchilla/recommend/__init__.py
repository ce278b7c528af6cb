"""The recommended answer: N, D and loss at a budget with 80% intervals, chosen by evidence.

    fit_table(finals, curves, command) -> Fits with `recommended` set
    recommendation(fits, C)            -> Recommendation: N, D, L, intervals, reasons

`choose` is the only place that decides which approach is recommended. `fit`, `predict`, the report,
`compare` and the notebook API all show what it decided. The parts:

    forecast    lines and saturating power laws through the minima of IsoFLOP profiles
    held_out    errors on the sweep's own larger budgets; weights and error scale from them
    richer      a law with two parameters more than approach 3's, where that misses the runs
    candidates  what each approach offers, fitted to any part of the budgets
    choose      the decision, as a record for frontier.json
    answer      the record evaluated at a budget
    minima      losses at minima alone, as a table

NumPy and SciPy only: this package must import without torch.
"""

from chinchilla.recommend.answer import Recommendation, recommendation
from chinchilla.recommend.choose import fit_table

__all__ = ["Recommendation", "fit_table", "recommendation"]

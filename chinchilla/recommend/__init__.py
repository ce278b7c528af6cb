"""The recommended answer: N, D and loss at a budget with 80% intervals.

    fit_and_recommend(finals, curves, command) -> FitResults with `recommended` set
    recommendation(fits, C)                    -> Recommendation: N, D, L, intervals, reasons

`choose` decides which approach is recommended; `fit`, `predict`, the report, `compare` and the notebook
API all show its decision. The modules, in order of use:

    isoflop_minima  minima of IsoFLOP profiles, and the curves through them (approach 2)
    laws            loss laws on windows of tokens per parameter, and the saturating law (approach 3)
    held_out        errors on the sweep's own larger budgets; weights and error scales that follow
    forecast        forecasts of N_opt and the loss, and the record for frontier.json
    choose          the decision
    reasons         the sentences that explain it
    evaluate        the recommendation at a budget
    minima          a table of losses at minima, without runs

This package must import without torch.
"""

from chinchilla.recommend.choose import fit_and_recommend
from chinchilla.recommend.evaluate import Recommendation, recommendation

__all__ = ["Recommendation", "fit_and_recommend", "recommendation"]

"""The rule by which a run has diverged."""

import numpy as np

# A run has diverged if its mean loss over DIVERGENCE_STEPS steps after the warm-up is more than
# DIVERGENCE_NATS above ln(vocab_size), the loss of a uniform prediction.
DIVERGENCE_STEPS, DIVERGENCE_NATS = 10, 1.0


def divergence(losses: np.ndarray, begin: int, vocab_size: int, warmup_steps: int) -> str:
    """Why the run has diverged, or "".

    A diverged run is recorded as a result and left out of fits.

    Args:
        losses: (n,) loss of the steps from `begin` on, nats per token: the new ones and the
            DIVERGENCE_STEPS - 1 before them. The outcome does not depend on how often one checks.
        begin: number of the first of these steps.
        vocab_size: size of the vocabulary.
        warmup_steps: steps in which a high loss is not divergence.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        return f"loss is not finite at step {begin + bad[0] + 1}"
    n = DIVERGENCE_STEPS
    if len(losses) < n:
        return ""
    means = np.convolve(losses, np.full(n, 1 / n), "valid")
    last = begin + n + np.arange(len(means))  # updates done at the end of each window
    uniform = float(np.log(vocab_size))
    high = np.flatnonzero((means > uniform + DIVERGENCE_NATS) & (last - n >= warmup_steps))
    if not len(high):
        return ""
    return (
        f"loss {means[high[0]]:.2f} over the {n} steps to step {last[high[0]]} is more than "
        f"{DIVERGENCE_NATS:g} nat above that of a uniform prediction (ln V = {uniform:.2f})"
    )

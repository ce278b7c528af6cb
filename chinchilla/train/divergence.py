"""When a run counts as diverged. A diverged run is a result, and is left out of fits."""

import numpy as np

NATS = 1.0  # above guessing evenly ...
STEPS = 10  # ... on average over so many steps after the warm-up: the run has diverged


def reason(losses: np.ndarray, begin: int, vocab_size: int, warmup_steps: int) -> str:
    """Why the last steps mean divergence, or nothing.

    Args:
        losses: (n,) loss of the steps from `begin` on, nats per token: those that were not looked
            at before, and STEPS - 1 before them. So how often one looks changes nothing.
        begin: number of the first of them.
        vocab_size: guessing evenly costs its logarithm.
        warmup_steps: steps in which a high loss means nothing.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        return f"loss is not finite at step {begin + bad[0] + 1}"
    if len(losses) < STEPS:
        return ""
    means = np.convolve(losses, np.full(STEPS, 1 / STEPS), "valid")
    last = begin + STEPS + np.arange(len(means))  # updates done at each mean's end
    even = float(np.log(vocab_size))
    high = np.flatnonzero((means > even + NATS) & (last - STEPS >= warmup_steps))
    if not len(high):
        return ""
    return (
        f"loss {means[high[0]]:.2f} over the {STEPS} steps to step {last[high[0]]} is more than "
        f"{NATS:g} nat above guessing evenly (ln V = {even:.2f})"
    )

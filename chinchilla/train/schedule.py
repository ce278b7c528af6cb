"""The learning rate as a pure function of the step (section 3, Appendix B)."""

import math

from chinchilla.records import RunSpec


def learning_rate(spec: RunSpec, step: int) -> float:
    """Rate of update number `step` (0 is the first): linear warm-up, then a cosine.

    The cosine falls from peak_lr at the end of the warm-up to peak_lr * final_lr_ratio at
    `cosine_steps`. With cosine_steps == steps the schedule is matched to the run, as every run of
    the paper's grids is; a longer cosine leaves the run before the rate has come down (figure A1).
    """
    if step < spec.warmup_steps:
        return spec.peak_lr * (step + 1) / spec.warmup_steps
    span = max(1, spec.cosine_steps - spec.warmup_steps)
    progress = min(1.0, (step + 1 - spec.warmup_steps) / span)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return spec.peak_lr * (spec.final_lr_ratio + (1 - spec.final_lr_ratio) * cosine)

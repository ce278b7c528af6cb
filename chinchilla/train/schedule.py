"""The learning rate as a pure function of the step (section 3, Appendix B).

Every schedule begins with a linear warm-up to peak_lr and ends at peak_lr * final_lr_ratio:

    cosine     a cosine; longer than the run (cosine_steps > steps) it shows figure A1
    cooldown   constant, then 1 - sqrt over the last cooldown_steps (Haegele et al. 2024, arXiv 2405.18392)
    multistep  constant, sqrt(final_lr_ratio) of it from 80% of the steps on, final_lr_ratio from 90%
               on: 31.6% and 10% with a ratio of 0.1 (DeepSeek LLM, arXiv 2401.02954)
"""

import math

from chinchilla.plan.records import RunSpec


def learning_rate(spec: RunSpec, step: int) -> float:
    """Rate of update number `step` (0 is the first).

    The cosine falls from peak_lr at the end of the warm-up to peak_lr * final_lr_ratio at
    `cosine_steps`. With cosine_steps == steps the schedule is matched to the run, as every run of
    the paper's grids is; a longer cosine leaves the run before the rate has come down (figure A1).
    A cool-down's first update is still at the peak, so that its last one does not stand still.
    """
    if step < spec.warmup_steps:
        return spec.peak_lr * (step + 1) / spec.warmup_steps
    falling = {"cosine": _cosine, "cooldown": _cooldown, "multistep": _multistep}[spec.schedule]
    return spec.peak_lr * falling(spec, step)


def _cosine(spec: RunSpec, step: int) -> float:
    span = max(1, spec.cosine_steps - spec.warmup_steps)
    progress = min(1.0, (step + 1 - spec.warmup_steps) / span)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return spec.final_lr_ratio + (1 - spec.final_lr_ratio) * cosine


def _cooldown(spec: RunSpec, step: int) -> float:
    progress = max(0.0, (step - spec.stable_steps) / spec.cooldown_steps)
    return spec.final_lr_ratio + (1 - spec.final_lr_ratio) * (1 - math.sqrt(progress))


def _multistep(spec: RunSpec, step: int) -> float:
    done = step / spec.steps
    return spec.final_lr_ratio ** (0.0 if done < 0.8 else 0.5 if done < 0.9 else 1.0)

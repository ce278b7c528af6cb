"""The learning rate as a pure function of the step (section 3, Appendix B).

Every schedule begins with a linear warm-up to peak_lr and ends at peak_lr * final_lr_ratio:

    cosine     a cosine; longer than the run (cosine_steps > steps) it reproduces figure A1
    cooldown   warmup-stable-decay: constant, then 1 - sqrt over the last cooldown_steps
               (Haegele et al. 2024, arXiv 2405.18392)
    multistep  constant, sqrt(final_lr_ratio) of it from 80% of the steps on, final_lr_ratio from 90%
               on: 31.6% and 10% with a ratio of 0.1 (DeepSeek LLM, arXiv 2401.02954)

Shared stable phases: before its cool-down a `cooldown` run depends on everything in its spec except
its length (`RunSpec.stable_phase`). Runs of several lengths therefore train these steps only once. A
run that reaches its cool-down saves a checkpoint in
<sweep_dir>/stable_phases/<stable_phase_id>/step-00000080/, and a run without a checkpoint of its own
starts from the newest one that is not past the start of its own cool-down. On a CPU the result has
the same bits as a run trained alone, including its curve, because the checkpoint contains all losses
so far. It does not contain who saved it, so it does not matter which of several runs came first.
These checkpoints are all kept, for lengths that are planned later. Deleting the folder only costs
training time.
"""

import math

from chinchilla.plan.records import RunSpec


def learning_rate(spec: RunSpec, step: int) -> float:
    """Rate of update number `step` (0 is the first).

    The cosine falls from peak_lr at the end of the warm-up to peak_lr * final_lr_ratio at
    `cosine_steps`. With cosine_steps == steps it is matched to the run, as in the paper's grids; with
    a longer cosine the run ends at a higher rate (figure A1). The first update of a cool-down still
    has the peak rate, so that the last one is above the final rate.
    """
    if step < spec.warmup_steps:
        return spec.peak_lr * (step + 1) / spec.warmup_steps
    return spec.peak_lr * DECAYS[spec.schedule](spec, step)


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


# Rate / peak after the warm-up, by the schedule's name.
DECAYS = {"cosine": _cosine, "cooldown": _cooldown, "multistep": _multistep}

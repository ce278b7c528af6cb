"""Expected cost of a plan: FLOPs, device-hours, price, wall time, and what stable phases save."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from chinchilla.config import ClusterConfig
from chinchilla.plan.records import RunSpec

OPTIMIZER_BYTES = 16  # per parameter: fp32 weight, gradient, two Adam moments


def state_bytes(spec: RunSpec) -> float:
    """Bytes of weights, gradients and Adam's two moments."""
    return OPTIMIZER_BYTES * spec.N * (0.5 if spec.precision == "bf16_weights" else 1.0)


def reused_steps(specs: Sequence[RunSpec]) -> dict[str, int]:
    """run_id -> steps that a run takes from its stable phase instead of training them.

    Runs with one stable phase are trained from the shortest to the longest (`sweep.run_order`); each
    starts where the one before it saved the stable phase.
    """
    saved: dict[str, int] = {}  # stable phase -> last step saved so far
    result = {}
    unique = {s.run_id: s for s in specs}.values()
    for s in sorted(unique, key=lambda s: (s.stable_steps, s.steps, s.run_id)):
        result[s.run_id] = saved.get(s.stable_phase_id, 0) if s.stable_phase_id else 0
        saved[s.stable_phase_id] = s.stable_steps
    return result


def n_at_once(specs: Sequence[RunSpec]) -> int:
    """How many of these runs can be trained in parallel; those with one stable phase cannot."""
    return len({s.stable_phase_id or s.run_id for s in specs})


@dataclass(frozen=True)
class Cost:
    """Expected cost of a plan at its cluster's MFU and price."""

    flops: float  # training FLOPs in the plan's convention; shared stable phases count once
    device_hours: float
    price: float
    seconds: float  # wall time with `workers` busy devices, at least `longest_run_seconds`
    workers: int
    longest_run_seconds: float  # runs that share a stable phase are consecutive and count as one
    shared_flops: float = 0.0  # the part of the runs' C that is saved by sharing


def plan_cost(
    specs: Sequence[RunSpec], cluster: ClusterConfig, workers: int, plan: Sequence[RunSpec] = ()
) -> Cost:
    """Expected cost of the given runs: FLOPs / (peak * MFU), one device per run.

    Args:
        specs: the runs to train.
        cluster: speed and price of a device.
        workers: devices that train at the same time.
        plan: all runs of the sweep, whose stable phases may be reused; default: `specs`.
    """
    speed = cluster.peak_flops * cluster.mfu  # FLOP/s
    reused = reused_steps(plan or specs)
    flops = 0.0
    consecutive: dict[str, float] = defaultdict(float)  # FLOPs of runs that wait for each other
    for s in specs:
        own_flops = s.C * (1 - reused.get(s.run_id, 0) / s.steps)
        flops += own_flops
        consecutive[s.stable_phase_id or s.run_id] += own_flops
    longest = max(consecutive.values(), default=0.0) / speed
    hours = flops / speed / 3600
    return Cost(
        flops=flops,
        device_hours=hours,
        price=hours * cluster.price_per_device_hour,
        seconds=max(flops / speed / max(1, workers), longest),
        workers=workers,
        longest_run_seconds=longest,
        shared_flops=sum(s.C for s in specs) - flops,
    )

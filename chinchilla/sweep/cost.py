"""What a sweep will take before it is launched: device-hours expected and at worst, price, disk.

Expected: training FLOPs / (peak * MFU) on the devices that a run's job pays for. At worst: every run
meets as many errors as it may, each at its very end with nothing saved, and of each job's time limit one
checkpoint interval is lost to a preemption without a warning. That is a bad case and no upper bound: in
neither are a slower device than stated, retries after running out of memory, starts that are cut off more
often, and devices that idle: while a job's last run ends, or in a job with fewer runs than workers.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chinchilla.config import ClusterConfig, RuntimeConfig
from chinchilla.core.errors import InputError, Refusal
from chinchilla.plan.cost import n_at_once, plan_cost, state_bytes
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.job_classes import Shape, assign
from chinchilla.sweep.run_files import MAX_ATTEMPTS

CHECKPOINT_SHARE = 3 / 4  # of a run's state: weights and Adam's two moments, not gradients
KEPT_CHECKPOINTS = 2  # of a run, also when it is over: the newest and the one before it
CURVE_BYTES = 16  # per step, before compression: step and loss; as much per validation evaluation
LINE_BYTES = 160  # of a line in metrics.jsonl, at most


@dataclass(frozen=True)
class ShapeEstimate:
    """What the runs of one shape take."""

    name: str
    n_runs: int
    flops: float  # training FLOPs, by the plan's convention
    gpu_hours: float  # device-hours expected
    worst_gpu_hours: float | None  # None: without bound, a time limit is no longer than an interval
    price: float
    worst_price: float | None
    seconds: float  # wall time expected with all its workers busy
    n_jobs: int  # on Slurm; else processes
    disk_bytes: float  # when its runs are over: checkpoints, curves, metrics
    peak_disk_bytes: float  # ... and a checkpoint that each worker is just writing


@dataclass(frozen=True)
class Estimate:
    """What a sweep takes, by shape and together."""

    shapes: list[ShapeEstimate]
    total: ShapeEstimate
    worst_case: str  # what it means

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def estimate(
    specs: Sequence[RunSpec],
    cluster: ClusterConfig,
    runtime: RuntimeConfig,
    n_workers: int = 0,
    plan: Sequence[RunSpec] = (),
) -> Estimate:
    """What these runs take on this cluster.

    Args:
        specs: runs to train.
        cluster: speed, price and jobs, by size of model.
        runtime: how often checkpoints are saved and lines are logged.
        n_workers: processes where the cluster does not say (cluster.n_workers=0).
        plan: all runs of the sweep, whose stable phases are there or will be; default: `specs`.

    Raises:
        InputError: a run that no shape takes, or ranks that its batch or runtime.shard_ranks does
            not fit.
    """
    rows = [
        _of_shape(shape, some, runtime, n_workers, plan) for shape, some in assign(specs, cluster)
    ]
    worst = f"every run trained {MAX_ATTEMPTS} times to its end (errors)"
    if cluster.kind == "slurm":
        worst += (
            f", and {runtime.checkpoint_minutes:g} min (runtime.checkpoint_minutes) of every job's "
            "time limit lost to a preemption without a warning"
        )
    worst += (
        "; no upper bound: not in it are retries after running out of memory, being cut off more often, "
        "and devices that idle"
    )
    return Estimate(rows, _together(rows), worst)


def _of_shape(
    shape: Shape,
    specs: Sequence[RunSpec],
    runtime: RuntimeConfig,
    n_workers: int,
    plan: Sequence[RunSpec],
) -> ShapeEstimate:
    cluster, ranks = shape.cluster, shape.devices_that_train
    if ranks > 1 and runtime.shard_ranks and ranks % runtime.shard_ranks:
        raise InputError(
            f"runtime.shard_ranks={runtime.shard_ranks} does not divide the {ranks} ranks of a job "
            f"({shape.name}). Choose a divisor, or 0 for all."
        )
    workers = (cluster.n_workers or n_workers or 1) * shape.workers_per_job
    if cluster.kind == "debug":
        workers = 1
    workers = min(workers, n_at_once(specs))
    cost = plan_cost(specs, cluster, workers, plan)
    # plan_cost knows one device a run: a job of several pays for all, and computes with its ranks.
    paid = shape.devices_per_worker / shape.devices_that_train if _is_spread(shape) else 1.0
    hours = cost.device_hours * paid
    lost = runtime.checkpoint_minutes / cluster.timeout_min if cluster.kind == "slurm" else 0.0
    worst = MAX_ATTEMPTS * hours / (1 - lost) if lost < 1 else None
    price = cluster.price_per_device_hour
    at_rest = sum(_disk_bytes(s, runtime) for s in specs)
    return ShapeEstimate(
        name=shape.name,
        n_runs=len(specs),
        flops=cost.flops,
        gpu_hours=hours,
        worst_gpu_hours=worst,
        price=hours * price,
        worst_price=None if worst is None else worst * price,
        seconds=cost.seconds / (shape.devices_that_train if _is_spread(shape) else 1),
        n_jobs=-(-workers // shape.workers_per_job),
        disk_bytes=at_rest,
        peak_disk_bytes=at_rest + workers * CHECKPOINT_SHARE * max(map(state_bytes, specs)),
    )


def _is_spread(shape: Shape) -> bool:
    """Whether several devices train one run."""
    return shape.cluster.nodes * shape.cluster.ranks_per_node > 1


def _disk_bytes(spec: RunSpec, runtime: RuntimeConfig) -> float:
    """What a run leaves: two checkpoints with the losses so far, curve, metrics; one in its stable phase."""
    checkpoint = CHECKPOINT_SHARE * state_bytes(spec) + 4 * spec.steps
    curve = CURVE_BYTES * (spec.steps + runtime.validation_evals)
    lines = LINE_BYTES * (spec.steps / runtime.log_every_steps + 1)
    return (KEPT_CHECKPOINTS + (spec.stable_phase is not None)) * checkpoint + curve + lines


def _together(rows: Sequence[ShapeEstimate]) -> ShapeEstimate:
    bounded = all(r.worst_gpu_hours is not None for r in rows)
    return ShapeEstimate(
        name="all",
        n_runs=sum(r.n_runs for r in rows),
        flops=sum(r.flops for r in rows),
        gpu_hours=sum(r.gpu_hours for r in rows),
        worst_gpu_hours=sum(r.worst_gpu_hours or 0.0 for r in rows) if bounded else None,
        price=sum(r.price for r in rows),
        worst_price=sum(r.worst_price or 0.0 for r in rows) if bounded else None,
        seconds=max((r.seconds for r in rows), default=0.0),
        n_jobs=sum(r.n_jobs for r in rows),
        disk_bytes=sum(r.disk_bytes for r in rows),
        peak_disk_bytes=sum(r.peak_disk_bytes for r in rows),
    )


def check_gpu_hours(found: Estimate, most: float, yes: bool) -> None:
    """Refuse a sweep that is expected to take more device-hours than it may.

    Args:
        found: the estimate of what is left to train.
        most: device-hours, 0 = any.
        yes: whether the person has said that it may.

    Raises:
        Refusal: saying both numbers and the ways out.
    """
    hours = found.total.gpu_hours
    if most and hours > most and not yes:
        raise Refusal(
            f"{found.total.n_runs} runs are expected to take {hours:.4g} GPU-hours, above "
            f"max_gpu_hours={most:g}. Say yes=true to launch them all the same, raise max_gpu_hours, "
            "or plan less."
        )

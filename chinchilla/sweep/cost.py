"""Estimate what a sweep costs before it is launched: device-hours, price, disk.

Device-hours are training FLOPs / (peak * MFU) on the devices allocated to each run's job. Retries,
interruptions and idle devices are not included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chinchilla.config import ClusterConfig, RuntimeConfig
from chinchilla.plan.checkpoint_names import KEPT_CHECKPOINTS
from chinchilla.plan.cost import n_at_once, plan_cost, state_bytes
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.job_classes import JobClass, assign

# Of a run's state: weights and Adam's two moments, without gradients; and the weights alone.
CHECKPOINT_SHARE, WEIGHTS_SHARE = 3 / 4, 1 / 4
LOSS_BYTES = 4  # per step, in a checkpoint
CURVE_BYTES = 16  # per step and per validation evaluation, before compression: step and loss
LINE_BYTES = 160  # of a line in metrics.jsonl, at most


@dataclass(frozen=True)
class Estimate:
    """Expected cost of the runs of one job class, or of all."""

    name: str
    n_runs: int
    flops: float  # training FLOPs, by the plan's convention
    gpu_hours: float  # device-hours
    price: float
    seconds: float  # wall time with all workers busy
    n_jobs: int  # on Slurm; otherwise processes
    disk_bytes: float  # checkpoints of finished runs and of those in training, curves, metrics


def estimate(
    specs: Sequence[RunSpec],
    cluster: ClusterConfig,
    runtime: RuntimeConfig,
    n_workers: int = 0,
    plan: Sequence[RunSpec] = (),
) -> list[Estimate]:
    """Estimate the cost of these runs on this cluster.

    Args:
        specs: runs to train.
        cluster: speed, price and jobs, by model size.
        runtime: logging and evaluation intervals.
        n_workers: processes if cluster.n_workers=0.
        plan: all runs of the sweep, which share stable phases; default: `specs`.

    Returns:
        One estimate per job class, then the total.

    Raises:
        InputError: a run fits no job class, or the ranks do not suit its batch or
            runtime.shard_ranks.
    """
    rows = [
        _of_class(job_class, runs, runtime, n_workers, plan)
        for job_class, runs in assign(specs, cluster, runtime.shard_ranks)
    ]
    names = ("n_runs", "flops", "gpu_hours", "price", "n_jobs", "disk_bytes")
    sums: dict[str, Any] = {name: sum(getattr(row, name) for row in rows) for name in names}
    seconds = max((row.seconds for row in rows), default=0.0)
    return [*rows, Estimate(name="all", seconds=seconds, **sums)]


def _of_class(
    job_class: JobClass,
    specs: Sequence[RunSpec],
    runtime: RuntimeConfig,
    n_workers: int,
    plan: Sequence[RunSpec],
) -> Estimate:
    cluster, ranks = job_class.cluster, job_class.n_ranks
    workers = (cluster.n_workers or n_workers or 1) * job_class.workers_per_job
    if cluster.kind == "debug":
        workers = 1
    workers = min(workers, n_at_once(specs))
    cost = plan_cost(specs, cluster, workers, plan)
    # plan_cost assumes one device per run.
    allocated = job_class.devices_per_worker / ranks if ranks > 1 else 1.0
    hours = cost.device_hours * allocated
    # Each worker's run has the newest checkpoints and one that is being written.
    in_training = workers * (KEPT_CHECKPOINTS + 1) * max(map(_checkpoint_bytes, specs))
    return Estimate(
        name=job_class.name,
        n_runs=len(specs),
        flops=cost.flops,
        gpu_hours=hours,
        price=hours * cluster.price_per_device_hour,
        seconds=cost.seconds / ranks,
        n_jobs=-(-workers // job_class.workers_per_job),
        disk_bytes=sum(_disk_bytes(s, cluster, runtime) for s in specs) + in_training,
    )


def _checkpoint_bytes(spec: RunSpec, share: float = CHECKPOINT_SHARE) -> float:
    return share * state_bytes(spec) + LOSS_BYTES * spec.steps


def _disk_bytes(spec: RunSpec, cluster: ClusterConfig, runtime: RuntimeConfig) -> float:
    """Disk space of a finished run: its checkpoints, one of the stable phase, curve, metrics."""
    checkpoint = _checkpoint_bytes(spec)
    seconds = spec.C / (cluster.peak_flops * cluster.mfu)
    kept = {
        "all": checkpoint * (1 + seconds // (60 * runtime.checkpoint_minutes)),
        "last": checkpoint,
        "weights": _checkpoint_bytes(spec, WEIGHTS_SHARE),
        "none": 0.0,
    }[runtime.keep_checkpoints]
    curve = CURVE_BYTES * (spec.steps + runtime.validation_evals)
    lines = LINE_BYTES * (spec.steps / runtime.log_every_steps + 1)
    return kept + (spec.stable_phase is not None) * checkpoint + curve + lines

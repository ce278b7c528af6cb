"""Estimate what a sweep costs before it is launched: device-hours, price, disk.

Expected: training FLOPs / (peak * MFU), on the devices allocated to each run's job. Worst case: every
run fails as often as allowed, each time at its very end, and each job loses one checkpoint interval
to a preemption without warning. This is not an upper bound: slower devices, retries after running out
of memory, more frequent interruptions and idle devices are not included.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chinchilla.config import ClusterConfig, RuntimeConfig
from chinchilla.core.errors import Refusal
from chinchilla.plan.cost import n_at_once, plan_cost, state_bytes
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.failures import MAX_ATTEMPTS
from chinchilla.sweep.job_classes import JobClass, assign

CHECKPOINT_SHARE = 3 / 4  # of a run's state: weights and Adam's two moments, without gradients
KEPT_CHECKPOINTS = 2  # per run, also after it has ended: the newest two
CURVE_BYTES = 16  # per step and per validation evaluation, before compression: step and loss
LINE_BYTES = 160  # of a line in metrics.jsonl, at most


@dataclass(frozen=True)
class ClassEstimate:
    """Cost of the runs of one job class."""

    name: str
    n_runs: int
    flops: float  # training FLOPs, by the plan's convention
    gpu_hours: float  # expected device-hours
    worst_gpu_hours: float | None  # None: unbounded, the time limit is below a checkpoint interval
    price: float
    worst_price: float | None
    seconds: float  # expected wall time with all workers busy
    n_jobs: int  # on Slurm; otherwise processes
    disk_bytes: float  # after its runs: checkpoints, curves, metrics
    peak_disk_bytes: float  # ... plus one checkpoint being written per worker


@dataclass(frozen=True)
class Estimate:
    """Cost of a sweep, by job class and in total."""

    job_classes: list[ClassEstimate]
    total: ClassEstimate
    worst_case: str  # its assumptions

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def estimate(
    specs: Sequence[RunSpec],
    cluster: ClusterConfig,
    runtime: RuntimeConfig,
    n_workers: int = 0,
    plan: Sequence[RunSpec] = (),
) -> Estimate:
    """Estimate the cost of these runs on this cluster.

    Args:
        specs: runs to train.
        cluster: speed, price and jobs, by model size.
        runtime: checkpoint and logging intervals.
        n_workers: processes if cluster.n_workers=0.
        plan: all runs of the sweep, which share stable phases; default: `specs`.

    Raises:
        InputError: a run fits no job class, or the ranks do not suit its batch.
    """
    rows = [
        _of_class(job_class, runs, runtime, n_workers, plan)
        for job_class, runs in assign(specs, cluster)
    ]
    worst = f"every run is trained {MAX_ATTEMPTS} times to its end (errors)"
    if cluster.kind == "slurm":
        worst += (
            f", and {runtime.checkpoint_minutes:g} min (runtime.checkpoint_minutes) of every job's "
            "time limit are lost to a preemption without warning"
        )
    worst += (
        "; not an upper bound: retries after running out of memory, more frequent interruptions and "
        "idle devices are not included"
    )
    return Estimate(rows, _together(rows), worst)


def _of_class(
    job_class: JobClass,
    specs: Sequence[RunSpec],
    runtime: RuntimeConfig,
    n_workers: int,
    plan: Sequence[RunSpec],
) -> ClassEstimate:
    cluster, ranks = job_class.cluster, job_class.training_devices
    workers = (cluster.n_workers or n_workers or 1) * job_class.workers_per_job
    if cluster.kind == "debug":
        workers = 1
    workers = min(workers, n_at_once(specs))
    cost = plan_cost(specs, cluster, workers, plan)
    # plan_cost assumes one device per run.
    allocated = job_class.devices_per_worker / ranks if ranks > 1 else 1.0
    hours = cost.device_hours * allocated
    lost = runtime.checkpoint_minutes / cluster.timeout_min if cluster.kind == "slurm" else 0.0
    worst = MAX_ATTEMPTS * hours / (1 - lost) if lost < 1 else None
    price = cluster.price_per_device_hour
    at_rest = sum(_disk_bytes(s, runtime) for s in specs)
    return ClassEstimate(
        name=job_class.name,
        n_runs=len(specs),
        flops=cost.flops,
        gpu_hours=hours,
        worst_gpu_hours=worst,
        price=hours * price,
        worst_price=None if worst is None else worst * price,
        seconds=cost.seconds / ranks,
        n_jobs=-(-workers // job_class.workers_per_job),
        disk_bytes=at_rest,
        peak_disk_bytes=at_rest + workers * CHECKPOINT_SHARE * max(map(state_bytes, specs)),
    )


def _disk_bytes(spec: RunSpec, runtime: RuntimeConfig) -> float:
    """Disk space of a run: two checkpoints with their losses, one of the stable phase, curve, metrics."""
    checkpoint = CHECKPOINT_SHARE * state_bytes(spec) + 4 * spec.steps
    curve = CURVE_BYTES * (spec.steps + runtime.validation_evals)
    lines = LINE_BYTES * (spec.steps / runtime.log_every_steps + 1)
    return (KEPT_CHECKPOINTS + (spec.stable_phase is not None)) * checkpoint + curve + lines


def _together(rows: Sequence[ClassEstimate]) -> ClassEstimate:
    total = ClassEstimate("all", 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0)
    names = [f.name for f in dataclasses.fields(ClassEstimate) if f.name != "name"]
    for row in rows:
        values = {k: _add(getattr(total, k), getattr(row, k)) for k in names}
        values["seconds"] = max(total.seconds, row.seconds)
        total = dataclasses.replace(total, **values)
    return total


def _add(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a + b


def check_gpu_hours(cost: Estimate, limit: float, yes: bool) -> None:
    """Refuse a sweep whose expected device-hours exceed a limit.

    Args:
        cost: estimate for the runs left to train.
        limit: device-hours; 0: no limit.
        yes: launch anyway.

    Raises:
        Refusal: the limit is exceeded.
    """
    hours = cost.total.gpu_hours
    if limit and hours > limit and not yes:
        raise Refusal(
            f"{cost.total.n_runs} runs are expected to take {hours:.4g} GPU-hours, above "
            f"max_gpu_hours={limit:g}. Set yes=true to launch anyway, raise max_gpu_hours, or plan "
            "fewer or shorter runs."
        )

"""Job classes: models of a sweep by size, each class with its own cluster resources.

A class is an interval of N with cluster settings. Every run belongs to exactly one, and jobs of a class
train no other runs, so that a large model is never trained by a small job.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from chinchilla.config import ClusterConfig
from chinchilla.config.slurm_options import gres_gpus, sbatch_options
from chinchilla.core.errors import InputError
from chinchilla.plan.ranks import rows_per_rank, shards_of
from chinchilla.plan.records import RunSpec, count_label


@dataclass(frozen=True)
class SizeRange:
    """Selects runs with min_params < N <= max_params; max_params=0: no upper limit."""

    min_params: float = 0.0
    max_params: float = 0.0

    def __call__(self, spec: RunSpec) -> bool:
        return self.min_params < spec.N <= (self.max_params or math.inf)


@dataclass(frozen=True)
class Selection:
    """Selects the runs of a plan that a worker trains: those of a range of sizes, or one of them."""

    sizes: SizeRange = SizeRange()
    run_id: str = ""  # "" = every run of these sizes

    def __call__(self, spec: RunSpec) -> bool:
        return self.sizes(spec) and self.run_id in ("", spec.run_id)

    @property
    def arguments(self) -> list[str]:
        """The same as settings of `chinchilla worker`."""
        low, high = self.sizes.min_params, self.sizes.max_params
        return [
            *([f"min_params={low!r}"] if low else []),
            *([f"max_params={high!r}"] if high else []),
            *([f"run={self.run_id}"] if self.run_id else []),
        ]


@dataclass(frozen=True)
class JobClass:
    """Models of a range of sizes, and the resources of the jobs that train them."""

    name: str
    sizes: SizeRange
    cluster: ClusterConfig  # with the settings of this class

    @property
    def n_ranks(self) -> int:
        """Devices that one run is trained on."""
        return self.cluster.nodes * self.cluster.ranks_per_node

    @property
    def workers_per_job(self) -> int:
        """One per GPU; one for the whole job if its ranks train a run together."""
        return 1 if self.n_ranks > 1 else max(1, self.cluster.gpus_per_node)

    @property
    def devices_per_worker(self) -> int:
        """Devices allocated while one run is trained."""
        c = self.cluster
        return 1 if self.n_ranks == 1 else c.nodes * max(c.gpus_per_node, c.ranks_per_node)


def job_classes(cluster: ClusterConfig) -> list[JobClass]:
    """The cluster's job classes, smallest models first; a single one if it defines none.

    Raises:
        InputError: an invalid setting in one of them.
    """
    if cluster.kind != "slurm" or not cluster.resources:
        alone = dataclasses.replace(cluster, resources=[])
        if cluster.kind == "manual":  # one worker of all ranks by default
            alone = dataclasses.replace(alone, gpus_per_node=0, n_workers=cluster.n_workers or 1)
        elif cluster.kind != "slurm":
            alone = dataclasses.replace(alone, nodes=1, ranks_per_node=1)
        return [_checked(JobClass("all", SizeRange(), alone))]
    classes, below = [], 0.0
    for resource in cluster.resources:
        own = {
            f.name: value
            for f in dataclasses.fields(resource)
            if f.name not in ("name", "max_params")
            and (value := getattr(resource, f.name)) is not None
        }
        if "sbatch" in own:
            own["sbatch"] = {**sbatch_options(cluster.sbatch), **sbatch_options(own["sbatch"])}
        try:
            merged = dataclasses.replace(cluster, resources=[], **own)
        except InputError as error:
            raise InputError(f"cluster.resources, {resource.name}: {error}") from None
        classes.append(
            _checked(JobClass(resource.name, SizeRange(below, resource.max_params), merged))
        )
        below = resource.max_params
    return classes


def _checked(job_class: JobClass) -> JobClass:
    c = job_class.cluster
    if job_class.n_ranks > 1 and 0 < c.gpus_per_node != c.ranks_per_node:
        raise InputError(
            f"cluster.ranks_per_node={c.ranks_per_node} with cluster.gpus_per_node={c.gpus_per_node} "
            f"({job_class.name}): each rank uses one GPU. Set both to the same number."
        )
    asked = gres_gpus(c.sbatch) if c.kind == "slurm" else None
    if asked not in (None, c.gpus_per_node):
        raise InputError(
            f"cluster.sbatch.gres={c.sbatch['gres']} asks for {asked} GPUs on each node, but "
            f"cluster.gpus_per_node={c.gpus_per_node} ({job_class.name}). Set both to the same number."
        )
    return job_class


def assign(
    specs: Sequence[RunSpec], cluster: ClusterConfig, shard_ranks: int = 0
) -> list[tuple[JobClass, list[RunSpec]]]:
    """Group runs by job class, without empty classes; the class of the longest run comes first.

    Raises:
        InputError: a run is too large for every class, or its batch or runtime.shard_ranks does not
            suit the number of ranks of its class.
    """
    groups: dict[str, tuple[JobClass, list[RunSpec]]] = {}
    classes = job_classes(cluster)
    for spec in specs:
        job_class = next((c for c in classes if c.sizes(spec)), None)
        if job_class is None:
            raise InputError(
                f"run {spec.run_id} has N={count_label(spec.N)}, above the largest max_params of "
                f"cluster.resources ({classes[-1].sizes.max_params:g}, {classes[-1].name}). Add a larger "
                f"class, or set max_params=0 for {classes[-1].name}."
            )
        _check_ranks(spec, job_class, shard_ranks)
        groups.setdefault(job_class.name, (job_class, []))[1].append(spec)
    return sorted(groups.values(), key=lambda pair: -max(s.C for s in pair[1]))


def _check_ranks(spec: RunSpec, job_class: JobClass, shard_ranks: int) -> None:
    """Check what training would refuse on these ranks, before any job waits in a queue."""
    c = job_class.cluster
    where = "a job" if job_class.name == "all" else f"a job of {job_class.name}"
    shards_of(shard_ranks, job_class.n_ranks, where)
    where += f" (cluster.nodes={c.nodes} x cluster.ranks_per_node={c.ranks_per_node})"
    rows_per_rank(spec, job_class.n_ranks, where)

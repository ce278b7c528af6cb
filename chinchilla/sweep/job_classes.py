"""Which jobs train which runs: a sweep's models by size, each size with resources of its own.

A shape is an interval of N and a cluster's settings for it. Every run falls into exactly one;
jobs of a shape train no other runs, so that a large model never lands on a small job.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chinchilla.config import ClusterConfig
from chinchilla.core.errors import InputError
from chinchilla.plan.records import RunSpec, count_label, load_plan


@dataclass(frozen=True)
class Shape:
    """Runs with min_params < N <= max_params, and what their jobs take."""

    name: str
    min_params: float
    max_params: float  # inf = any
    cluster: ClusterConfig  # with this shape's own values in place

    @property
    def workers_per_job(self) -> int:
        """One per GPU; one for the whole job where its ranks train a run together."""
        c = self.cluster
        return 1 if c.nodes * c.ranks_per_node > 1 else max(1, c.gpus_per_node)

    @property
    def devices_per_worker(self) -> int:
        """Devices that are paid for while one run is trained."""
        c = self.cluster
        per_node = max(c.gpus_per_node, c.ranks_per_node)
        return 1 if c.nodes * c.ranks_per_node == 1 else c.nodes * per_node

    @property
    def devices_that_train(self) -> int:
        """... and how many of them compute."""
        return self.cluster.nodes * self.cluster.ranks_per_node

    def takes(self, spec: RunSpec) -> bool:
        return self.min_params < spec.N <= self.max_params

    def to_dict(self) -> dict[str, Any]:
        """As intention.json tells a job: JSON has no infinity, so null is no limit."""
        return {
            "name": self.name,
            "min_params": self.min_params,
            "max_params": None if math.isinf(self.max_params) else self.max_params,
            "nodes": self.cluster.nodes,
            "ranks_per_node": self.cluster.ranks_per_node,
        }


def shapes_of(cluster: ClusterConfig) -> list[Shape]:
    """The cluster's shapes, smallest models first; one for all where it names none.

    Raises:
        InputError: a value that one of them gives cannot be.
    """
    if cluster.kind != "slurm" or not cluster.resources:
        alone = dataclasses.replace(cluster, resources=[])
        if cluster.kind == "torchrun":  # one worker of all ranks, unless somebody starts more
            alone = dataclasses.replace(alone, gpus_per_node=0, n_workers=cluster.n_workers or 1)
        elif cluster.kind != "slurm":
            alone = dataclasses.replace(alone, nodes=1, ranks_per_node=1)
        return [_checked(Shape("all", 0, math.inf, alone))]
    shapes, below = [], 0.0
    for resource in cluster.resources:
        own = {
            f.name: value
            for f in dataclasses.fields(resource)
            if f.name not in ("name", "max_params")
            and (value := getattr(resource, f.name)) is not None
        }
        up_to = resource.max_params or math.inf
        try:
            merged = dataclasses.replace(cluster, resources=[], **own)
        except InputError as error:
            raise InputError(f"cluster.resources, {resource.name}: {error}") from None
        shapes.append(_checked(Shape(resource.name, below, up_to, merged)))
        below = up_to
    return shapes


def _checked(shape: Shape) -> Shape:
    c = shape.cluster
    if c.nodes * c.ranks_per_node > 1 and 0 < c.gpus_per_node != c.ranks_per_node:
        raise InputError(
            f"cluster.ranks_per_node={c.ranks_per_node} with cluster.gpus_per_node={c.gpus_per_node} "
            f"({shape.name}): ranks that train a run together take a GPU each. Give the two the same number."
        )
    return shape


def assign(specs: Sequence[RunSpec], cluster: ClusterConfig) -> list[tuple[Shape, list[RunSpec]]]:
    """Each run to its shape; shapes without runs are left out, that of the longest run comes first.

    Raises:
        InputError: a run is larger than every shape takes, or its batch does not divide among its
            shape's ranks.
    """
    found: dict[str, tuple[Shape, list[RunSpec]]] = {}
    shapes = shapes_of(cluster)
    for spec in specs:
        shape = next((s for s in shapes if s.takes(spec)), None)
        if shape is None:
            raise InputError(
                f"run {spec.run_id} has N={count_label(spec.N)}, and cluster.resources ends at "
                f"{shapes[-1].name} with max_params={shapes[-1].max_params:g}. Add larger "
                f"resources, or say max_params=0 for {shapes[-1].name}."
            )
        _check_batch(spec, shape)
        found.setdefault(shape.name, (shape, []))[1].append(spec)
    return sorted(found.values(), key=lambda pair: -max(s.C for s in pair[1]))


def _check_batch(spec: RunSpec, shape: Shape) -> None:
    """What training would refuse on the ranks of `shape`, said before any job waits in a queue."""
    rows, ranks = spec.batch_tokens // spec.model.seq_len, shape.devices_that_train
    if rows % ranks:
        c = shape.cluster
        jobs = "" if shape.name == "all" else f" of {shape.name}"
        raise InputError(
            f"run {spec.run_id}: a batch of {rows} rows ({spec.batch_tokens:,} tokens) does not divide "
            f"among the {ranks} ranks of a job{jobs} (cluster.nodes={c.nodes} x "
            f"cluster.ranks_per_node={c.ranks_per_node}). Choose ranks that divide it, or another "
            "recipe.batch_tokens."
        )


class PlannedWithin(Collection[str]):
    """Run ids of a plan's runs with min_params < N <= max_params, also of those it gets later."""

    def __init__(self, sweep_dir: Path, min_params: float, max_params: float) -> None:
        self.plan = sweep_dir / "plan.jsonl"
        self.min_params, self.max_params = min_params, max_params
        self.known: dict[str, int] = {}  # run id -> N

    def __contains__(self, run_id: object) -> bool:
        if run_id not in self.known:
            self.known = {s.run_id: s.N for s in load_plan(self.plan)}
        N = self.known.get(str(run_id))
        return N is not None and self.min_params < N <= self.max_params

    def __iter__(self) -> Iterator[str]:
        self.known = {s.run_id: s.N for s in load_plan(self.plan)}
        return (run_id for run_id in self.known if run_id in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def runs_of_job(sweep_dir: Path, shape: Mapping[str, Any] | None) -> PlannedWithin | None:
    """The runs that a job keeps to, by the `shape` of its intention.json; None = all."""
    if not shape or (not shape["min_params"] and shape["max_params"] is None):
        return None
    limit = shape["max_params"]
    return PlannedWithin(sweep_dir, shape["min_params"], math.inf if limit is None else limit)


def bounds_words(only: PlannedWithin | None) -> list[str]:
    """The same for a worker's command line."""
    if only is None:
        return []
    return [f"--min-params={only.min_params!r}", f"--max-params={only.max_params!r}"]

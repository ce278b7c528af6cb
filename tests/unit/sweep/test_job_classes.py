"""Which jobs train which runs."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_fakes import FakeSlurm, on_slurm
from sweep_fakes import PROGRAM, make_specs, make_sweep

from chinchilla.cli import compose
from chinchilla.config import ClusterConfig, ResourceConfig
from chinchilla.core.errors import InputError
from chinchilla.core.shapes import ModelShape
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.job_classes import Selection, SizeRange, assign, job_classes
from chinchilla.sweep.launch import launch
from chinchilla.sweep.run_files import missing_specs, run_dir_of
from chinchilla.sweep.slurm.queue import job_arrays


def sizes(*layers: int) -> list[RunSpec]:
    """Runs with these numbers of layers."""
    [one] = make_specs(1)
    shapes = [ModelShape(64, 256, 32, 2, n, 512, 64) for n in layers]
    return [replace(one, model=shape, seed=i) for i, shape in enumerate(shapes)]


SMALL, MIDDLE, LARGE = (s.N for s in sizes(1, 4, 16))


def three(**more) -> list[ResourceConfig]:
    """Job classes of one GPU, of two GPUs, and of two nodes."""
    return [
        ResourceConfig(name="small", max_params=SMALL, host_memory_gb=4, partition="cpu"),
        ResourceConfig(name="middle", max_params=MIDDLE, gpus_per_node=2, n_workers=1),
        ResourceConfig(name="large", nodes=2, ranks_per_node=2, gpus_per_node=2, **more),
    ]


def test_every_run_belongs_to_one_job_class_and_the_longest_comes_first():
    specs = sizes(1, 2, 4, 8, 16)
    cluster = ClusterConfig(kind="slurm", n_workers=3, resources=three())
    found = {shape.name: [s.model.n_layers for s in some] for shape, some in assign(specs, cluster)}
    assert found == {"large": [8, 16], "middle": [2, 4], "small": [1]}
    assert list(found) == ["large", "middle", "small"]
    small, middle, large = (shape.cluster for shape in job_classes(cluster))
    assert (small.host_memory_gb, small.partition, small.n_workers, small.timeout_min) == (
        4,
        "cpu",
        3,
        240,
    )
    assert (middle.host_memory_gb, middle.gpus_per_node, middle.n_workers) == (64, 2, 1)
    assert [s.workers_per_job for s in job_classes(cluster)] == [1, 2, 1]
    assert [s.devices_per_worker for s in job_classes(cluster)] == [1, 1, 4]
    assert large.nodes == 2


def test_without_resources_and_on_local_machines_there_is_one_job_class():
    for cluster in (ClusterConfig(kind="slurm"), ClusterConfig(kind="local", resources=three())):
        [(shape, specs)] = assign(sizes(1, 4, 16), cluster)
        assert (shape.name, len(specs), shape.sizes) == ("all", 3, SizeRange())


def test_a_run_too_large_for_every_job_class_is_refused():
    cluster = ClusterConfig(kind="slurm", resources=three()[:2])
    with pytest.raises(InputError, match=r"N=.*cluster\.resources \(.*middle\).*max_params=0"):
        assign(sizes(1, 16), cluster)


@pytest.mark.parametrize(
    ("resources", "why"),
    [
        ([{"name": "a"}, {"name": "b"}], "in ascending order of max_params"),
        (
            [{"name": "a", "max_params": 2}, {"name": "b", "max_params": 1}],
            "in ascending order of max_params",
        ),
        ([{"name": "a", "max_params": 2}, {"name": "a"}], "must differ. Rename"),
        ([{"name": "a b"}], "one word"),
        ([{"name": "a", "max_params": -1}], "must not be negative"),
        ([{"name": "a", "timeout_min": 0}], "cluster.resources, a: cluster.timeout_min=0"),
        ([{"name": "a", "ranks_per_node": 2, "gpus_per_node": 3}], "each rank uses one GPU"),
        ([{"name": "a", "ranks_per_node": 2}], "each rank uses one GPU"),
    ],
)
def test_invalid_job_classes_are_refused(resources: list[dict], why: str):
    with pytest.raises(InputError, match=why):
        job_classes(ClusterConfig(kind="slurm", resources=[ResourceConfig(**r) for r in resources]))


def test_job_classes_can_be_set_on_the_command_line():
    words = "cluster.resources=[{name:small,max_params:2e6,host_memory_gb:4},{name:large,nodes:2}]"
    output = compose("sweep", ["cluster=slurm", words])
    small, large = output.cluster.resources
    assert (small.max_params, small.host_memory_gb, small.nodes, large.nodes) == (2e6, 4, None, 2)
    with pytest.raises(InputError, match="up_to_param"):
        compose("sweep", ["cluster=slurm", "cluster.resources=[{name:small,up_to_param:2e6}]"])


def test_each_job_class_is_an_array_of_its_own(tmp_path: Path, fake: FakeSlurm, capsys):
    sweep, specs = tmp_path / "sweep", sizes(1, 1, 1, 1, 4, 4, 4, 16)
    settings = on_slurm(resources=three())
    assert launch(settings, specs, sweep, tmp_path) == 0
    assert "submitted 5 workers as jobs 41, 42, 43: 1 large, 1 middle, 3 small" in (
        capsys.readouterr().out
    )
    large, middle, small = fake.scripts()  # longest runs first; three small jobs for four runs
    for part in ("--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "--partition=p1"):
        assert part in large, part
    for part in ("--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=2"):
        assert part in middle, part
    for part in ("--array=0-2", "--partition=cpu", "--mem=4GB", "--nodes=1", "--time=90"):
        assert part in small, part
    arrays = {a.job_class: a for a in job_arrays(sweep).values()}
    assert arrays["middle"].sizes == SizeRange(SMALL, MIDDLE)
    assert arrays["large"].sizes == SizeRange(MIDDLE)
    assert {name: a.n_workers for name, a in arrays.items()} == {
        "small": 1,
        "middle": 2,
        "large": 1,
    }
    assert {name: a.n_ranks for name, a in arrays.items()} == {"small": 1, "middle": 1, "large": 4}


def test_launching_again_counts_the_jobs_of_each_class_separately(
    tmp_path: Path, fake: FakeSlurm, capsys
):
    sweep, specs = tmp_path / "sweep", sizes(1, 1, 1, 1, 4, 4, 4, 16)
    settings = on_slurm(resources=three())
    settings.format = "json"
    launch(settings, specs, sweep, tmp_path)
    fake.set_jobs(
        [row for row in fake.jobs() if row.split("|")[0] == "42"]
    )  # only middle's is left
    capsys.readouterr()
    launch(settings, specs, sweep, tmp_path)
    output = json.loads(capsys.readouterr().out)
    assert output["job_classes"] == {"large": 1, "middle": 0, "small": 3}
    assert output["n_earlier"] == 1
    settings.cluster.resources = []  # jobs of shapes that are no more are no help to the one there is
    launch(settings, specs, sweep, tmp_path)
    output = json.loads(capsys.readouterr().out)
    assert (output["job_classes"], output["n_earlier"]) == ({"all": 3}, 5)


def test_the_limit_on_queued_jobs_is_shared_by_all_job_classes(
    tmp_path: Path, fake: FakeSlurm, capsys
):
    settings = on_slurm(resources=three(), max_queued_jobs=3)
    settings.format = "json"
    launch(settings, sizes(1, 1, 1, 1, 4, 4, 4, 16), tmp_path / "sweep", tmp_path)
    output = json.loads(capsys.readouterr().out)
    assert output["job_classes"] == {"large": 1, "middle": 1, "small": 1}
    assert (output["n_submitted"], output["n_over_cap"]) == (3, 2)


def test_nothing_is_submitted_if_a_run_fits_no_job_class(tmp_path: Path, fake: FakeSlurm):
    with pytest.raises(InputError, match=r"cluster\.resources .*middle"):
        launch(on_slurm(resources=three()[:2]), sizes(1, 16), tmp_path / "sweep", tmp_path)
    assert fake.jobs() == []


def test_a_batch_not_divisible_by_its_ranks_is_refused_before_anything_is_submitted(
    tmp_path: Path, fake: FakeSlurm
):
    """16 rows per batch are divisible by 2 x 2 ranks but not by 3; small models have one rank."""
    odd = {"nodes": 1, "ranks_per_node": 3, "gpus_per_node": 3}
    resources = [
        ResourceConfig(name="small", max_params=SMALL),
        ResourceConfig(name="odd", **odd),
    ]
    settings = on_slurm(resources=resources)
    words = (
        r"run \S+: a batch of 16 rows \(1,024 tokens\) is not divisible by the 3 ranks of a job of "
        r"odd \(cluster\.nodes=1 x cluster\.ranks_per_node=3\)\. .*recipe\.batch_tokens"
    )
    with pytest.raises(InputError, match=words):
        launch(settings, sizes(1, 16), tmp_path / "sweep", tmp_path)
    assert fake.jobs() == []
    assert [shape.name for shape, _ in assign(sizes(1), settings.cluster)] == ["small"]
    assert len(assign(sizes(1, 4, 16), ClusterConfig(kind="slurm", resources=three()))) == 3


def test_a_worker_trains_only_its_job_class_even_when_the_plan_grows(tmp_path: Path):
    specs = sizes(1, 4, 16)
    make_sweep(tmp_path, specs)
    only = Selection(SizeRange(SMALL, MIDDLE))
    assert missing_specs(tmp_path, only) == [specs[1]]
    more = replace(specs[1], seed=99)
    make_sweep(tmp_path, [*specs, more])
    assert set(missing_specs(tmp_path, only)) == {specs[1], more}
    words = [*PROGRAM, f"sweep_dir={tmp_path}", f"data_dir={tmp_path}"]
    subprocess.run([*words, *only.arguments], check=True, stdout=subprocess.DEVNULL)
    done = [s for s in (*specs, more) if (run_dir_of(tmp_path, s) / "result.json").exists()]
    assert done == [specs[1], more]
    one = Selection(run_id=specs[0].run_id)
    subprocess.run([*words, *one.arguments], check=True, stdout=subprocess.DEVNULL)
    assert missing_specs(tmp_path) == [specs[2]]

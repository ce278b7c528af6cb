"""The cost that `chinchilla sweep` shows before it launches anything."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_fakes import make_result, make_specs

from chinchilla.cli import main
from chinchilla.config import ClusterConfig, ResourceConfig, RuntimeConfig
from chinchilla.core.shapes import ModelShape
from chinchilla.plan.plan_file import load_plan, save_plan
from chinchilla.sweep import preflight
from chinchilla.sweep.cost import KEPT_CHECKPOINTS, estimate
from chinchilla.sweep.run_files import run_dir_of

RUNTIME = RuntimeConfig(checkpoint_minutes=12.0)
SLURM = ClusterConfig(
    kind="slurm", n_workers=4, timeout_min=120, peak_flops=1e12, mfu=0.5, price_per_device_hour=3.0
)


def test_expected_hours_and_price():
    specs = make_specs(8)
    C = sum(s.C for s in specs)
    row, found = estimate(specs, SLURM, RUNTIME)
    assert (row.name, found.name, found.flops) == ("all", "all", C)
    assert found.gpu_hours == pytest.approx(C / 5e11 / 3600)
    assert found.price == pytest.approx(3 * found.gpu_hours)
    assert (found.n_runs, found.n_jobs) == (8, 4)
    assert found.seconds == pytest.approx(C / 5e11 / 4)


def test_job_classes_are_priced_by_the_devices_of_their_jobs():
    [small] = make_specs(1)
    large = replace(small, model=ModelShape(64, 256, 32, 2, 8, 512, 64))
    cluster = replace(
        SLURM,
        resources=[
            ResourceConfig(name="small", max_params=small.N, price_per_device_hour=1.0),
            ResourceConfig(name="large", nodes=2, ranks_per_node=2, gpus_per_node=2, n_workers=1),
        ],
    )
    *rows, total = estimate([small, large], cluster, RUNTIME)
    by_name = {row.name: row for row in rows}
    assert by_name["small"].price == pytest.approx(small.C / 5e11 / 3600 * 1.0)
    # Four ranks share the FLOPs: as many device-hours, a quarter of the time.
    assert by_name["large"].gpu_hours == pytest.approx(large.C / 5e11 / 3600)
    assert by_name["large"].seconds == pytest.approx(large.C / 5e11 / 4)
    assert total.price == pytest.approx(sum(row.price for row in rows))
    assert total.n_runs == 2


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    words = "corpus=sotu corpus.max_documents=12 tokenizer.vocab_size=384 n_workers=1"
    assert main(["data", *words.split(), "validation_fraction=0.2", f"data_dir={folder}"]) == 0
    return folder


GRID = [
    "grid=demo",
    "grid.budgets=[2e9]",
    "grid.models=[8x1,12x1,24x1]",
    "grid.sizes_per_budget=0",
    "grid.min_sizes=1",
    "grid.min_side=0",
    "grid.kv_size=8",
    "grid.seq_len=32",
    "grid.min_steps=8",
    "grid.horizon_models=[]",
    "grid.horizon_tokens_per_param=[]",
    "recipe=demo",
    "recipe.batch_tokens=384",
    "epochs=1000",
]


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    last = {word.partition("=")[0]: word for word in (*GRID, *words)}
    code = main(["sweep", *last.values()])
    return code, *capsys.readouterr()


def test_a_dry_run_shows_every_number_and_launches_nothing(data_dir: Path, tmp_path: Path, capsys):
    here = (f"data_dir={data_dir}", f"sweep_dir={tmp_path / 's'}", "dry_run=true", "cluster=slurm")
    code, out, _ = say(capsys, *here, "cluster.resources=[{name:small,max_params:5e3},{name:big}]")
    assert code == 0
    for part in (
        "small",
        "big",
        "device-hours",
        "price",
        "disk",
        "Retries, interruptions and idle devices are not included",
    ):
        assert part in out, part
    assert "nothing was launched" in out
    assert not (tmp_path / "s").exists()
    assert "of disk space" not in out
    code, out, _ = say(capsys, *here, "format=json")
    output = json.loads(out)
    assert (len(output["runs"]), output["n_left"]) == (3, 3)
    assert output["estimate"]["total"]["flops"] == pytest.approx(
        sum(r["C"] for r in output["runs"])
    )
    code, _, err = say(capsys, *here, "cluster.resources=[{name:small,max_params:5e3}]")
    assert code == 2
    assert "max_params of cluster.resources (5000, small)" in err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["cluster.ranks_per_node=5"], "12 rows (384 tokens) is not divisible by the 5"),
        (
            ["cluster.ranks_per_node=4", "runtime.shard_ranks=3"],
            "shard_ranks=3 does not divide the 4",
        ),
    ],
)
def test_ranks_that_cannot_train_are_refused_before_anything_is_written(
    words: list[str], why: str, data_dir: Path, tmp_path: Path, capsys
):
    here = (f"data_dir={data_dir}", f"sweep_dir={tmp_path / 's'}", "cluster=slurm")
    for more in (["dry_run=true"], []):
        code, _, err = say(capsys, *here, "cluster.gpus_per_node=0", *words, *more)
        assert (code, err.count("\n")) == (2, 1)
        assert why in err
    assert not (tmp_path / "s").exists()


def test_a_disk_that_is_too_small_is_reported_before_the_launch(
    data_dir: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(preflight, "free_bytes", lambda path: 70_000)
    sweep = tmp_path / "a" / "s"
    code, out, _ = say(capsys, f"data_dir={data_dir}", f"sweep_dir={sweep}", "dry_run=true")
    assert code == 0
    assert "note: the sweep may need " in out
    assert f" MB of disk space; sweep_dir={sweep} has 0.07 MB free." in out


def test_only_runs_without_a_result_count(data_dir: Path, tmp_path: Path, capsys):
    here = (f"data_dir={data_dir}", f"sweep_dir={tmp_path}", "dry_run=true", "format=json")
    from chinchilla.plan.records import RunSpec

    runs = json.loads(say(capsys, *here)[1])["runs"]
    keys = RunSpec.__dataclass_fields__
    specs = [RunSpec.from_dict({k: r[k] for k in keys}, "") for r in runs]
    save_plan(specs, tmp_path / "plan.jsonl")
    for spec, status in zip(specs, ("finished", "failed", "diverged"), strict=True):
        run_dir_of(tmp_path, spec).mkdir(parents=True)
        make_result(spec, status).save(run_dir_of(tmp_path, spec))
    output = json.loads(say(capsys, *here)[1])
    assert output["n_left"] == 1, "a failed run is trained again"
    assert output["estimate"]["total"]["flops"] == specs[1].C
    assert load_plan(tmp_path / "plan.jsonl") == specs
    code, _, err = say(capsys, *here, "recipe.peak_lr=0.0123")
    assert (code, err.count("\n")) == (2, 1), "as launching would"
    assert "another recipe" in err


def test_a_sweep_above_its_limit_is_refused_before_anything_is_written(
    data_dir: Path, tmp_path: Path, capsys
):
    here = (f"data_dir={data_dir}", f"sweep_dir={tmp_path / 's'}", "max_gpu_hours=1e-9")
    code, out, err = say(capsys, *here)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "max_gpu_hours=1e-09" in err
    assert not (tmp_path / "s").exists()
    code, out, _ = say(capsys, *here, "dry_run=true")
    assert code == 0
    assert "would be refused" in out
    output = json.loads(say(capsys, *here, "dry_run=true", "format=json")[1])
    assert "max_gpu_hours=1e-09" in output["refused"]
    output = json.loads(say(capsys, *here[:2], "dry_run=true", "format=json")[1])
    assert output["refused"] is None
    code, _, err = say(capsys, *here[:2], "max_gpu_hours=nan")
    assert (code, "must be a number" in err) == (2, True)


def test_a_launch_is_refused_before_a_table_is_printed(data_dir: Path, tmp_path: Path, capsys):
    here = (f"data_dir={data_dir}", f"sweep_dir={tmp_path / 's'}")
    code, out, err = say(capsys, *here, "runtime.device=cuda:99")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "cuda:99" in err


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["last", "weights"])
def test_estimated_disk_space_matches_a_real_run(data_dir: Path, tmp_path: Path, capsys, keep: str):
    words = [f"runtime.keep_checkpoints={keep}",
        "grid.models=[96x2]", "grid.budgets=[1e10]", f"data_dir={data_dir}", f"sweep_dir={tmp_path}",
        "cluster=debug", "runtime.device=cpu", "runtime.checkpoint_minutes=0.0001", "format=json",
    ]  # fmt: skip
    output = json.loads(say(capsys, *words, "dry_run=true")[1])["estimate"]["total"]
    assert say(capsys, *words)[0] == 0
    [run_dir] = (tmp_path / "runs").iterdir()
    kept = [run_dir / "metrics.jsonl", run_dir / "curve.npz", *run_dir.glob("checkpoints/*/*")]
    assert len(list(run_dir.glob("checkpoints/*"))) == 1
    [spec] = load_plan(tmp_path / "plan.jsonl")
    in_training = (KEPT_CHECKPOINTS + 1) * (12 * spec.N + 4 * spec.steps)
    at_rest = output["disk_bytes"] - in_training
    assert at_rest == pytest.approx(sum(p.stat().st_size for p in kept), rel=0.1)

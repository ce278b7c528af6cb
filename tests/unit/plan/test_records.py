"""Records can be written and read without change; invalid files are refused in one line."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chinchilla.config.groups import OPTIMIZERS, PRECISIONS
from chinchilla.core.errors import InputError
from chinchilla.core.provenance import Code
from chinchilla.core.shapes import ModelShape
from chinchilla.plan.plan_file import load_plan, save_plan
from chinchilla.plan.records import Curve, RunResult, RunSpec, count_label

same_folder = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

counts = st.integers(1, 10**9)
reals = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-300, 1e300)

shapes = st.builds(
    ModelShape,
    d_model=counts, ffw_size=counts, kv_size=counts.map(lambda x: 2 * x), n_heads=counts,
    n_layers=counts, vocab_size=counts, seq_len=counts,
    positions=st.sampled_from(["rope", "relative"]),
)  # fmt: skip
specs = st.builds(
    RunSpec,
    sweep=st.text(), budget_flops=st.none() | positive, flop_convention=st.just("with_head"),
    model=shapes, data_id=st.text(), batch_tokens=counts, steps=counts, cosine_steps=counts,
    warmup_steps=counts, peak_lr=reals, final_lr_ratio=reals, weight_decay=reals, beta1=reals,
    beta2=reals, adam_eps=reals, grad_clip=reals, precision=st.sampled_from(PRECISIONS),
    seed=st.integers(-(2**63), 2**64), optimizer=st.sampled_from(OPTIMIZERS),
    schedule=st.sampled_from(["cosine", "multistep"]), cooldown_steps=counts, schema=st.just(4),
)  # fmt: skip
losses = st.dictionaries(st.text(), reals)
results = st.builds(
    RunResult,
    spec=specs, status=st.sampled_from(["finished", "diverged", "failed"]), reason=st.text(),
    final_loss=st.none() | reals, final_loss_se=st.none() | reals, final_loss_steps=counts,
    validation_loss=losses, validation_tokens=st.dictionaries(st.text(), counts),
    bits_per_byte=losses, n_params=counts, n_params_non_embedding=counts, steps_done=counts,
    flops_spent=reals, train_seconds=reals, tokens_per_second=reals, mfu=st.none() | reals,
    peak_memory_bytes=counts, device=st.text(), versions=st.dictionaries(st.text(), st.text()),
    code=st.builds(Code, st.text(), commit=st.text(), dirty=st.booleans()), started_utc=st.text(), finished_utc=st.text(), attempts=counts,
    schema=st.just(3),
)  # fmt: skip


@pytest.fixture
def spec() -> RunSpec:
    return RunSpec(
        sweep="demo", budget_flops=6e18, flop_convention="paper",
        model=ModelShape(512, 2048, 64, 8, 8, 32_000, 2048, "relative"), data_id="d41d8cd9",
        batch_tokens=524_288, steps=45_263, cosine_steps=45_263, warmup_steps=1500, peak_lr=2e-4,
        final_lr_ratio=0.1, weight_decay=0.1, beta1=0.9, beta2=0.95, adam_eps=1e-8, grad_clip=1.0,
        precision="bf16", seed=0,
    )  # fmt: skip


@same_folder
@given(plan=st.lists(specs, min_size=1, max_size=5, unique_by=lambda spec: spec.run_id))
def test_a_plan_survives_its_file(tmp_path, plan):
    save_plan(plan, tmp_path / "plan.jsonl")
    assert load_plan(tmp_path / "plan.jsonl") == plan


@pytest.fixture
def result(spec) -> RunResult:
    return RunResult(
        spec=spec, status="finished", reason="", final_loss=3.2, final_loss_se=0.004,
        final_loss_steps=100, validation_loss={"validation": 3.21}, validation_tokens={"validation": 65_536},
        bits_per_byte={"validation": 1.1}, n_params=spec.N, n_params_non_embedding=27_336_448,
        steps_done=spec.steps, flops_spent=spec.C, train_seconds=60.0, tokens_per_second=1e6,
        mfu=0.4, peak_memory_bytes=10**9, device="cpu", versions={"torch": "2.11"}, code=Code("0.1.0"),
        started_utc="2026-01-01T00:00:00Z", finished_utc="2026-01-01T00:01:00Z",
    )  # fmt: skip


@given(specs)
def test_a_spec_survives_json(spec):
    text = json.dumps(spec.to_dict(), allow_nan=False)
    assert RunSpec.from_dict(json.loads(text), "here") == spec


@given(specs)
def test_a_spec_keeps_its_run_id_through_json(spec):
    """A worker that reads the plan must find the folder that the launcher created."""
    text = json.dumps(spec.to_dict(), allow_nan=False)
    assert RunSpec.from_dict(json.loads(text), "here").run_id == spec.run_id


@same_folder
@given(result=results)
def test_a_result_survives_its_file(tmp_path, result):
    result.save(tmp_path)
    assert RunResult.read(tmp_path / "result.json") == result


@same_folder
@given(
    losses=st.lists(st.floats(width=64), max_size=20),
    held_out=st.lists(st.floats(width=64), max_size=5),
)
def test_a_curve_survives_its_file_with_nan_and_infinity(tmp_path, losses, held_out):
    curve = Curve(
        np.arange(len(losses)), np.array(losses), np.arange(len(held_out)), np.array(held_out)
    )
    curve.save(tmp_path)
    back = Curve.load(tmp_path)
    for name in ("step", "loss", "validation_step", "validation_loss"):
        np.testing.assert_array_equal(getattr(back, name), getattr(curve, name))
        assert getattr(back, name).dtype == getattr(curve, name).dtype


def test_quantities_of_a_spec(spec):
    assert spec.N == 43_720_448
    assert spec.D == 45_263 * 524_288
    assert spec.C == pytest.approx(6e18, rel=0.5 / 45_263)  # to half a step


def test_run_id_contains_budget_size_and_seed(spec):
    assert spec.run_id.startswith("c6e18-n43.7m-s0-")
    horizon = replace(spec, budget_flops=None, seed=3)
    assert horizon.run_id.startswith("d23.7b-n43.7m-s3-")
    assert len(spec.run_id.rpartition("-")[2]) == 12


def test_the_name_of_the_sweep_is_not_part_of_the_identity(spec):
    assert replace(spec, sweep="other").run_id == spec.run_id


@pytest.mark.slow
def test_20000_specs_that_differ_in_one_setting_have_different_ids(spec):
    """With 24 bits of hash, twelve pairs of them shared one."""
    assert len({replace(spec, peak_lr=i * 1e-7).run_id for i in range(1, 20_001)}) == 20_000


OTHER = {
    "budget_flops": 6.0001e18,
    "flop_convention": "six_nd",
    "data_id": "x",
    "precision": "fp32",
    "seed": 1,
    "optimizer": "adam",
    "schedule": "multistep",
    "cooldown_steps": 9,
    "schema": 1,
}


ELSEWHERE = ("sweep", "recipe", "model", "parametrization", "base_width", "base_layers")


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(RunSpec) if f.name not in ELSEWHERE]
)
def test_every_other_field_of_a_spec_changes_the_run_id(spec, name):
    value = OTHER.get(name, getattr(spec, name) * 2)
    assert replace(spec, **{name: value}).run_id != spec.run_id


def test_a_parametrization_and_its_base_change_the_run_id(spec):
    mup = replace(spec, parametrization="mup", base_width=256)
    deep = replace(spec, parametrization="completep", base_width=256, base_layers=4)
    others = [replace(mup, base_width=128), replace(deep, base_layers=8)]
    assert len({s.run_id for s in (spec, mup, deep, *others)}) == 5


def test_the_run_id_is_a_fixed_function_of_the_spec(spec):
    """All machines that share a sweep's folder have to agree on it."""
    assert spec.run_id == "c6e18-n43.7m-s0-72a7f4cdb117"
    line = spec.to_dict()
    assert line.keys() == {f.name for f in dataclasses.fields(RunSpec)}
    assert RunSpec.from_dict(line, "here") == spec


@pytest.mark.parametrize("steps", [-1, 0, 45_264])
def test_a_cool_down_must_lie_within_its_run(spec, steps):
    with pytest.raises(InputError, match=f"cooldown_steps={steps} is not from 1 to steps=45263"):
        replace(spec, schedule="cooldown", cooldown_steps=steps)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(ModelShape)])
def test_every_field_of_the_shape_changes_the_run_id(spec, name):
    value = "rope" if name == "positions" else getattr(spec.model, name) * 2
    other = replace(spec, model=replace(spec.model, **{name: value}))
    assert other.run_id.rpartition("-")[2] != spec.run_id.rpartition("-")[2]


@given(st.floats(1, 9.99e14))
def test_a_count_is_labelled_to_three_digits(x):
    label = count_label(x)
    scale = {"t": 1e12, "b": 1e9, "m": 1e6, "k": 1e3}
    value = float(label.rstrip("tbmk")) * scale.get(label[-1], 1)
    assert value == pytest.approx(x, rel=5.01e-3)
    assert "e" not in label


@pytest.mark.parametrize(
    ("x", "label"),
    [(999.4, "999"), (999.6, "1k"), (999_400, "999k"), (999_600, "1m"), (43_720_448, "43.7m"),
     (1.424e9, "1.42b"), (1.4e12, "1.4t")],
)  # fmt: skip
def test_labels_change_unit_where_the_digits_do(x, label):
    assert count_label(x) == label


def test_a_spec_of_another_schema_is_refused_with_both_schemas(spec):
    with pytest.raises(
        InputError, match=r"plan.jsonl line 3: RunSpec of schema 1; .* reads schema 4"
    ):
        RunSpec.from_dict({**spec.to_dict(), "schema": 1}, "plan.jsonl line 3")


def test_a_result_of_another_schema_is_refused_with_its_path(tmp_path, result):
    replace(result, schema=99).save(tmp_path)
    with pytest.raises(InputError, match=r"result.json: RunResult of schema 99; .* reads schema 3"):
        RunResult.read(tmp_path / "result.json")


def test_a_result_with_a_spec_of_another_schema_is_refused(tmp_path, result):
    replace(result, spec=replace(result.spec, schema=0)).save(tmp_path)
    with pytest.raises(InputError, match="RunSpec of schema 0"):
        RunResult.read(tmp_path / "result.json")


def test_a_missing_schema_is_refused(spec):
    value = spec.to_dict()
    del value["schema"]
    with pytest.raises(InputError, match="here states no schema, so chinchilla did not write it"):
        RunSpec.from_dict(value, "here")


def test_missing_and_unknown_fields_are_named(spec):
    value = {**spec.to_dict(), "learning_rate": 1.0}
    del value["steps"]
    with pytest.raises(
        InputError, match="here: not a RunSpec: steps, learning_rate missing or unknown"
    ):
        RunSpec.from_dict(value, "here")


def test_fields_of_the_shape_are_checked_as_well(spec):
    value = spec.to_dict()
    del value["model"]["d_model"]
    with pytest.raises(
        InputError, match="here: model: not a ModelShape: d_model missing or unknown"
    ):
        RunSpec.from_dict(value, "here")


@pytest.mark.parametrize("value", [None, [], "spec", 3])
def test_a_spec_that_is_not_an_object_is_refused(spec, value):
    with pytest.raises(InputError, match="here: not a RunSpec"):
        RunSpec.from_dict(value, "here")
    with pytest.raises(InputError, match="here: model: not a ModelShape"):
        RunSpec.from_dict({**spec.to_dict(), "model": value}, "here")


def test_a_result_contains_no_nan(tmp_path, result):
    """NaN is not JSON; a run without a loss has None."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(result, final_loss=float("nan")).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"",
        lambda b: b"PK\x03\x04",
        lambda b: b[: len(b) // 2],
        lambda b: b[:-10],
        lambda b: b"no archive",
        lambda b: b[:300] + bytes(50) + b[350:],
    ],
    ids=["empty", "header", "half", "no end", "text", "bits lost"],
)
def test_a_damaged_curve_is_reported_in_one_line(tmp_path, damage):
    rng = np.random.default_rng(0)
    Curve(np.arange(1000), rng.random(1000)).save(tmp_path)
    path = tmp_path / "curve.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"^training curve .*curve.npz is damaged \(.+\)\. .+\.$"):
        Curve.load(tmp_path)


def test_a_missing_curve_and_missing_arrays_are_reported(tmp_path):
    with pytest.raises(InputError, match=r"training curve .* is missing"):
        Curve.load(tmp_path)
    np.savez(tmp_path / "curve.npz", step=np.arange(3), loss=np.ones(3))
    with pytest.raises(InputError, match="validation_step"):
        Curve.load(tmp_path)


def test_a_curve_never_runs_pickled_code(tmp_path):
    np.savez(tmp_path / "curve.npz", step=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="is damaged"):
        Curve.load(tmp_path)

"""Observations of finished runs: final losses and training curves."""

from dataclasses import replace

import numpy as np
import pytest
from tables import assert_identical

from chinchilla.core.errors import InputError
from chinchilla.core.provenance import Code
from chinchilla.core.shapes import ModelShape
from chinchilla.observations import Observations, from_runs
from chinchilla.plan.records import Curve, RunResult, RunSpec


def make_result(seed=0, **changes) -> RunResult:
    spec = RunSpec(
        sweep="s", budget_flops=1e12, flop_convention="with_head",
        model=ModelShape(32, 128, 16, 2, 3, 100, 64), data_id="d", batch_tokens=1024, steps=10,
        cosine_steps=10, warmup_steps=1, peak_lr=1e-3, final_lr_ratio=0.1, weight_decay=0.1,
        beta1=0.9, beta2=0.95, adam_eps=1e-8, grad_clip=1.0, precision="fp32", seed=seed,
    )  # fmt: skip
    result = RunResult(
        spec=spec, status="finished", reason="", final_loss=3.0 + seed, final_loss_se=0.01,
        final_loss_steps=3, validation_loss={"validation": 3.5, "other": 4.5}, validation_tokens={},
        bits_per_byte={}, n_params=spec.N, n_params_non_embedding=1, steps_done=10,
        flops_spent=spec.C, train_seconds=1, tokens_per_second=1, mfu=None, peak_memory_bytes=1,
        device="cpu", versions={}, code=Code("0.1.0"), started_utc="", finished_utc="",
    )  # fmt: skip
    return replace(result, **changes)


def with_spec(result: RunResult, **changes) -> RunResult:
    return replace(result, spec=replace(result.spec, **changes))


CURVE = Curve(np.arange(10), np.linspace(4, 3, 10), np.array([0, 5, 10]), np.array([9.0, 4.0, 3.5]))


def test_unique_tokens_of_a_run():
    runs = [make_result(), make_result(seed=1, unique_tokens=5120)]
    assert Observations.from_results(runs, "train").epochs.tolist()[1:] == [2]
    along = Observations.from_curves(runs, [CURVE, CURVE], "train")
    of_second = along.where(along.run_id == runs[1].spec.run_id)
    assert of_second.unique_tokens.tolist() == [1024.0 * min(k, 5) for k in range(1, 11)]
    assert along.repeating().epochs.tolist() == [2]


def test_epochs_of_a_run_on_a_mixture():
    run = make_result(unique_tokens=9850, epochs={"large": 0.1, "small": 6.34})
    assert Observations.from_results([run], "train").epochs.tolist() == [6.34]
    along = Observations.from_curves([run], [CURVE], "train")
    np.testing.assert_allclose(along.max_epochs, np.maximum(6.34 * np.arange(1, 11) / 10, 1))


def test_a_finished_run_becomes_a_row_with_the_FLOPs_spent():
    result = make_result()
    obs = Observations.from_results([result], "train")
    assert list(obs.run_id) == [result.spec.run_id]
    assert (obs.N[0], obs.D[0], obs.C[0]) == (result.spec.N, 10_240, result.spec.C)
    assert obs.budget_flops[0] == 1e12  # as asked for, not as achieved
    assert obs.C[0] != obs.budget_flops[0]
    assert (obs.L[0], obs.loss_kind) == (3.0, "train")
    assert (obs.flop_convention, obs.n_convention) == ("with_head", "total")


def test_validation_loss_is_the_mean_over_the_sets():
    assert Observations.from_results([make_result()], "validation").L[0] == 4.0


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_unfinished_runs_are_left_out_with_a_note(status):
    lost = make_result(seed=1, status=status, final_loss=None, reason="loss is NaN")
    obs = Observations.from_results([make_result(), lost], "train")
    assert list(obs.run_id) == [make_result().spec.run_id]
    assert obs.notes == (f"1 of 2 runs left out: not finished (1 {status}).",)
    assert Observations.from_results([make_result()], "train").notes == ()
    curves = Observations.from_curves([make_result(), lost], [CURVE, CURVE], "train")
    assert set(curves.run_id) == {make_result().spec.run_id}


def test_no_finished_run_is_an_error():
    with pytest.raises(InputError, match=r"no run has finished yet.*chinchilla status"):
        Observations.from_results([make_result(status="failed")], "train")


def test_a_run_without_budget():
    obs = Observations.from_results([with_spec(make_result(), budget_flops=None)], "train")
    assert np.isnan(obs.budget_flops[0])


def test_runs_of_two_flop_conventions_are_refused():
    other = with_spec(make_result(), flop_convention="six_nd")
    with pytest.raises(InputError, match=r"different flop_convention \(six_nd, with_head\)"):
        Observations.from_results([make_result(), other], "train")


def test_the_tokens_of_a_loss_include_its_batch():
    """loss[i] is measured on batch i before update i: the tokens seen include that batch."""
    obs = Observations.from_curves([make_result()], [CURVE], "train")
    assert obs.D.tolist() == [1024.0 * k for k in range(1, 11)]
    assert obs.L.tolist() == CURVE.loss.tolist()
    assert obs.is_final.tolist() == [False] * 9 + [True]
    assert obs.C[-1] == make_result().spec.C
    assert np.ptp(obs.C / obs.D) == 0


def test_validation_points_exclude_the_untrained_model():
    obs = Observations.from_curves([make_result()], [CURVE], "validation")
    assert obs.D.tolist() == [5120.0, 10_240.0]
    assert obs.L.tolist() == [4.0, 3.5]


def test_a_run_without_validation_loss_is_refused():
    with pytest.raises(InputError, match=r"no validation loss. Fit with loss=train"):
        Observations.from_results([make_result(validation_loss={})], "validation")


def test_an_unknown_loss_is_refused():
    with pytest.raises(InputError, match="loss='val': choose one of train, validation"):
        Observations.from_results([make_result()], "val")
    with pytest.raises(InputError, match="loss='val'"):
        Observations.from_curves([make_result()], [CURVE], "val")


def test_rows_of_a_sweep_survive_save(tmp_path):
    obs = Observations.from_curves([make_result(), make_result(seed=1)], [CURVE, CURVE], "train")
    obs = replace(obs, budget_flops=np.full(len(obs), obs.C.max()))
    obs.save(tmp_path / "o.csv")
    assert_identical(Observations.from_csv(tmp_path / "o.csv"), obs)


def test_runs_with_different_validation_tokens_are_refused():
    few = make_result(validation_tokens={"validation": 16_384})
    many = make_result(seed=1, validation_tokens={"validation": 65_536})
    with pytest.raises(InputError, match="different validation tokens"):
        Observations.from_results([few, many], "validation")
    assert len(Observations.from_results([few, many], "train")) == 2


def test_work_on_a_run_does_not_grow_with_its_points(monkeypatch):
    """Python work per step would call this once per step."""
    calls = []
    real = from_runs.flops_per_token
    monkeypatch.setattr(from_runs, "flops_per_token", lambda *a: calls.append(a) or real(*a))
    step = np.arange(1000)
    results, curves = [make_result(seed=i) for i in range(3)], [Curve(step, 5 - step / 1000.0)] * 3
    obs = Observations.from_curves(results, curves, "train")
    assert (len(obs), obs.n_runs, len(calls)) == (3000, 3, 3)
    assert obs.C[1500] == pytest.approx(real(results[1].spec.model, "with_head") * 501 * 1024)

"""The waist between training and fitting: what enters it is right, or is refused by line."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chinchilla.core.errors import InputError
from chinchilla.core.shapes import ModelShape
from chinchilla.observations.read_table import ALIASES, COLUMNS, CONVENTIONS, OPTIONAL
from chinchilla.observations.table import Observations
from chinchilla.plan.records import Curve, RunResult, RunSpec


def observations(run_id, D=None, **columns) -> Observations:
    n = len(run_id)
    D = np.arange(1.0, n + 1) if D is None else np.array(D, float)
    values = {"C": D * 6e8, "N": np.full(n, 1e8), "D": D, "L": np.linspace(4, 3, n), **columns}
    return Observations(np.array(run_id), np.full(n, np.nan), **values)


def same(a: Observations, b: Observations) -> None:
    for name in (*COLUMNS, *OPTIONAL):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in CONVENTIONS:
        assert getattr(a, name) == getattr(b, name)


# ------------------------------------------------------------------ the file

run_ids = st.from_regex(r"[A-Za-z0-9_.,;'\"é -]{1,12}", fullmatch=True).filter(
    lambda s: s == s.strip()
)
ROWS = st.lists(  # run_id, budget / C, N, tokens per parameter, C / (6*N*D), L, unique / D, epochs
    st.tuples(
        run_ids,
        st.none() | st.floats(0.5, 2),
        st.floats(1e4, 1e12),
        st.floats(0.1, 1e3),
        st.floats(0.5, 2),
        st.floats(0.5, 12),
        st.none() | st.floats(0.01, 1),
        st.none() | st.floats(1, 50),
    ),
    min_size=1,
    max_size=6,
    unique_by=(lambda r: (r[0], r[2] * r[3]), lambda r: r[2:6]),
)
IN_TMP = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def drawn(rows) -> Observations:
    run_id, budget, N, ratio, factor, L, unique, epochs = zip(*rows, strict=True)
    N, ratio, factor, L = (np.array(x, float) for x in (N, ratio, factor, L))
    C = 6 * N * (ratio * N) * factor
    return Observations(
        np.array(run_id),
        C * np.array([np.nan if b is None else b for b in budget], float),
        C=C,
        N=N,
        D=ratio * N,
        L=L,
        flop_convention="paper",
        n_convention="total",
        loss_kind="train",
        unique_tokens=ratio * N * np.array([np.nan if u is None else u for u in unique], float),
        max_epochs=np.array([np.nan if e is None else e for e in epochs], float),
    )


@IN_TMP
@given(rows=ROWS)
def test_every_digit_survives_the_file(tmp_path, rows):
    told = drawn(rows)
    told.save(tmp_path / "o.csv")
    same(Observations.from_csv(tmp_path / "o.csv"), told)


@IN_TMP
@given(rows=ROWS, seed=st.integers(0, 2**32 - 1))
def test_columns_may_stand_in_any_order_under_any_known_name(tmp_path, rows, seed):
    told = drawn(rows)
    told.save(tmp_path / "o.csv")
    with open(tmp_path / "o.csv", newline="") as f:
        header, *lines = csv.reader(f)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(header))
    names = {name: [name] for name in header}
    for alias, name in ALIASES.items():
        names[name] += [alias, alias.upper(), alias.title()]
    with open(tmp_path / "other.csv", "w", newline="") as f:
        writer = csv.writer(f, delimiter=str(rng.choice([",", ";", "\t"])))
        writer.writerow([rng.choice(names[header[i]]) for i in order])
        writer.writerows([[line[i] for i in order] for line in lines])
    same(Observations.from_csv(tmp_path / "other.csv"), told)


def test_what_was_left_out_is_written_above_the_rows(tmp_path):
    obs = replace(observations(["a"], D=[1e9]), notes=("one run left out.",))
    obs.save(tmp_path / "o.csv")
    assert (tmp_path / "o.csv").read_text().startswith("# one run left out.\nrun_id,")
    same(Observations.from_csv(tmp_path / "o.csv"), obs)


# ------------------------------------------------------------------ rows and runs


@pytest.mark.parametrize("name", ["C", "N", "D", "L"])
@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0, np.inf])
def test_bad_values_are_refused_however_they_come(name, bad):
    with pytest.raises(InputError, match=f"run b: {name}=.* is not a positive finite number"):
        observations(["a", "b"], **{name: np.array([1.0, bad])})


def test_integers_are_refused_because_6nd_overflows_them():
    with pytest.raises(InputError, match="N must be 2 float64 values"):
        observations(["a", "b"], N=np.array([10**9, 10**9]))


def test_the_final_row_of_a_run_is_the_one_with_most_tokens():
    obs = observations(["a", "b", "a", "b", "c"], D=[5, 1, 3, 9, 2])
    assert obs.is_final.tolist() == [True, False, False, True, True]
    assert obs.has_curves
    assert sorted(obs.finals().D) == [2, 5, 9]
    assert not obs.finals().has_curves


def test_no_rows_have_no_final():
    assert observations([]).is_final.tolist() == []


def test_where_takes_masks_and_repeated_rows_and_keeps_the_conventions():
    obs = replace(observations(["a", "b", "c"]), flop_convention="paper")
    assert list(obs.where(np.array([True, False, True])).run_id) == ["a", "c"]
    drawn = obs.where(np.array([2, 2, 0]))
    assert list(drawn.run_id) == ["c", "c", "a"]
    assert drawn.D.tolist() == [3, 3, 1]
    assert drawn.flop_convention == "paper"


# ------------------------------------------------------------------ a run counts once


def test_the_same_run_twice_is_refused_wherever_the_rows_come_from():
    obs = observations(["a", "b", "c"])
    obs.check_distinct()
    with pytest.raises(
        InputError, match=r"row 2: the same run as row 0 .*run_id=a.*every interval"
    ):
        obs.where(np.array([0, 1, 0])).check_distinct()
    rounded = observations(["a", "a"], D=[2, 2 * (1 + 1e-12)], L=np.array([3.0, 3 * (1 - 1e-12)]))
    with pytest.raises(InputError, match="row 1: the same run as row 0"):
        rounded.check_distinct()


def test_seeds_and_points_of_a_curve_are_no_copies():
    observations(["a", "a", "b"], D=[1, 2, 2]).check_distinct()
    observations(["seed0", "seed1"], D=[5, 5], L=np.array([3.0, 3.01])).check_distinct()
    observations(["lr0", "lr1"], D=[5, 5], L=np.array([3.01, 3.01])).check_distinct()


# ------------------------------------------------------------------ repeated data


def test_epochs_are_tokens_over_those_that_differ_and_nothing_where_nobody_says():
    obs = observations(["a", "b", "c", "d"], D=[4e9, 4e9, 4e9, 4e9])
    assert np.isnan(obs.epochs).all()
    assert not len(obs.repeating())
    obs = replace(obs, unique_tokens=np.array([1e9, 4e9, np.nan, 9e9]))  # d: a corpus, not all read
    np.testing.assert_array_equal(obs.epochs, [4, 1, np.nan, 1])
    assert list(obs.repeating().run_id) == ["a"]
    assert "1 runs repeat data, up to 4 epochs" in str(obs)


def test_a_run_says_how_many_of_its_tokens_differ():
    runs = [make_result(), make_result(seed=1, unique_tokens=5120)]
    assert Observations.from_results(runs, "train").epochs.tolist()[1:] == [2]
    along = Observations.from_curves(runs, [CURVE, CURVE], "train")
    of_second = along.where(along.run_id == runs[1].spec.run_id)
    assert of_second.unique_tokens.tolist() == [1024.0 * min(k, 5) for k in range(1, 11)]
    assert along.repeating().epochs.tolist() == [2]


def test_of_a_mixture_the_most_repeated_source_counts():
    """A small source read 6.34 times is 4% more tokens than differ: all sources as one hide it."""
    said = {"D": [4e9, 4e9, 4e9], "unique_tokens": np.array([4e9 / 1.04, np.nan, 2e9])}
    obs = observations(["a", "b", "c"], max_epochs=np.array([6.34, 3, np.nan]), **said)
    np.testing.assert_array_equal(obs.epochs, [6.34, 3, 2])
    assert "3 runs repeat data, up to 6.34 epochs of the most repeated source" in str(obs)
    assert obs.where(np.array([1])).most_epochs() == "3 epochs of the most repeated source"
    assert obs.where(np.array([2])).most_epochs() == "2 epochs"


def test_a_run_of_a_mixture_says_how_often_it_read_its_most_repeated_source():
    run = make_result(unique_tokens=9850, epochs={"large": 0.1, "small": 6.34})
    assert Observations.from_results([run], "train").epochs.tolist() == [6.34]
    along = Observations.from_curves([run], [CURVE], "train")
    np.testing.assert_allclose(along.max_epochs, np.maximum(6.34 * np.arange(1, 11) / 10, 1))


# ------------------------------------------------------------------ windows and curves


def test_a_window_of_tokens_per_param_keeps_whole_runs_and_says_how_many_it_left_out():
    obs = observations(["a", "a", "b", "c"], D=[1e8, 2e9, 1e8, 3e10])
    kept = obs.within([2, 200])
    assert list(kept.run_id) == ["a", "a"]  # the early point of a run that ends inside stays
    assert kept.notes == ("2 of 3 runs left out: tokens per parameter outside [2, 200].",)
    assert obs.within([1, 300]).notes[0].startswith("0 of 3 runs")


def test_a_window_without_runs_says_where_they_are():
    with pytest.raises(
        InputError, match=r"tokens_per_param=\[1e\+06,1e\+07\] leaves no run.* 1 to 3"
    ):
        observations(["a", "b"], D=[1e8, 3e8]).within([1e6, 1e7])


def test_a_curve_stands_in_only_for_runs_without_a_row():
    finals = observations(["a"], D=[2e9], L=np.array([3.0]))
    curves = observations(["a", "a", "b", "b"], D=[1e9, 2e9, 1e9, 4e9])
    both = finals.completed_by(curves)
    assert list(both.run_id) == ["a", "b"]
    assert both.L.tolist() == [3.0, curves.L[3]]  # a's own row, b's last point
    assert both.notes == (
        "1 runs are known by their curve alone: its last point stands for the final loss, unsmoothed.",
    )
    assert len(both.completed_by(curves)) == 2
    others = observations(["x", "x"], D=[1e9, 2e9])
    with pytest.raises(
        InputError, match=r"share no run_id \(a, ... and x, ...\).*one run_id in both"
    ):
        finals.completed_by(others)
    assert len(finals.where(np.zeros(len(finals), bool)).completed_by(others)) == 1


def test_curves_of_other_runs_or_other_counts_are_not_joined():
    finals = observations(["a"], D=[2e9])
    with pytest.raises(
        InputError, match="run a: N=100000000 in observations and 200000000 in curves"
    ):
        finals.completed_by(observations(["a", "a"], D=[1e9, 2e9], N=np.full(2, 2e8)))
    paper, six = (replace(finals, flop_convention=name) for name in ("paper", "six_nd"))
    with pytest.raises(InputError, match="two ways: flop_convention=paper and six_nd"):
        paper.completed_by(six)
    assert finals.completed_by(six).flop_convention == "six_nd"


# ------------------------------------------------------------------ arrays and frames


def test_arrays_without_C_cost_6ND_and_say_so():
    obs = Observations.of(N=[10**8, 10**9], D=[2 * 10**9, 10**10], L=[3.4, 2.9])
    assert obs.C.tolist() == [1.2e18, 6e19]  # as integers, 6*N*D of a larger pair would overflow
    assert list(obs.run_id) == ["run0000", "run0001"]
    assert np.isnan(obs.budget_flops).all()
    assert obs.flop_convention == "six_nd"
    assert obs.notes == ("C = 6*N*D on every row: the table gives no C.",)


def test_one_value_counts_for_every_row():
    obs = Observations.of(N=[1e8, 2e8], D=1e9, L=[3.4, 3.2], C=[6e17, 1.2e18], budget_flops=1e18)
    assert obs.budget_flops.tolist() == [1e18, 1e18]
    assert obs.D.tolist() == [1e9, 1e9]
    assert (obs.flop_convention, obs.notes) == ("unknown", ())


def test_arrays_of_unequal_length_are_refused():
    with pytest.raises(InputError, match=r"equal length; these are N \(2,\), D \(3,\)"):
        Observations.of(N=[1e8, 2e8], D=[1e9, 2e9, 3e9], L=3.0)
    with pytest.raises(InputError, match=r"equal length; these are .*N \(2,\).*D \(3,\)"):
        Observations.from_frame({"N": [1e8, 2e8], "D": [1e9] * 3, "L": [3, 3], "C": [1, 1]})


class Frame:
    """What pandas and polars have in common: .columns, and columns by name."""

    def __init__(self, **columns):
        self.data = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return self.data[name]


@pytest.mark.parametrize("make", [Frame, dict], ids=["columns", "mapping"])
def test_a_frame_is_read_by_the_names_a_csv_may_have(make):
    frame = make(
        Loss=[3.4, 3.2],
        Parameters=np.array([10**8, 2 * 10**8]),
        tokens=["2e9", "2e9"],  # as a frame of text holds them
        compute=[1.2e18, 2.4e18],
        lr=[1e-3, 1e-3],
    )
    obs = Observations.from_frame(frame, n_convention="total")
    assert (obs.N.tolist(), obs.D.tolist()) == ([1e8, 2e8], [2e9, 2e9])
    assert obs.N.dtype == np.float64
    assert obs.n_convention == "total"


def test_a_frame_says_row_and_column_of_what_is_wrong():
    good = {"C": [6e17, 1.2e18], "N": [1e8, 2e8], "D": [1e9, 1e9], "L": [3.4, 3.2]}
    for column, value, why in (
        ("L", np.nan, "L=nan is not a positive finite number"),
        ("N", -1, "N=-1.0 is not a positive"),
        ("D", "1 zillion", r"D='1 zillion' is not a number"),
        ("C", None, "C='' is not a number"),
        ("N", 10**400, "N=10+ is not a positive finite"),
        ("budget_flops", 0, "budget_flops=0 is not a positive finite"),
    ):
        frame = {**good, column: [good.get(column, [""])[0], value]}
        with pytest.raises(InputError, match=f"the frame row 1: {why}"):
            Observations.from_frame(frame)
    with pytest.raises(InputError, match="a list has no named columns"):
        Observations.from_frame([1, 2])
    with pytest.raises(InputError, match="flops_convention: say one of flop_convention"):
        Observations.from_frame(good, flops_convention="six_nd")


def test_observations_print_what_they_cover():
    text = str(observations(["a", "a", "b"], D=[1e9, 2e9, 4e10]))
    assert "2 runs in 3 points, no isoFLOP budget named" in text
    assert "N 100m to 100m parameters (unknown)" in text
    assert "D 2b to 40b tokens, D/N 20 to 400" in text
    assert "nats per token" in text


# ------------------------------------------------------------------ from runs


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
        device="cpu", versions={}, git="", started_utc="", finished_utc="",
    )  # fmt: skip
    return replace(result, **changes)


def with_spec(result: RunResult, **changes) -> RunResult:
    return replace(result, spec=replace(result.spec, **changes))


CURVE = Curve(np.arange(10), np.linspace(4, 3, 10), np.array([0, 5, 10]), np.array([9.0, 4.0, 3.5]))


def test_a_finished_run_becomes_a_row_with_its_achieved_flops():
    result = make_result()
    obs = Observations.from_results([result], "train")
    assert list(obs.run_id) == [result.spec.run_id]
    assert (obs.N[0], obs.D[0], obs.C[0]) == (result.spec.N, 10_240, result.spec.C)
    assert obs.budget_flops[0] == 1e12  # as asked for, not as achieved
    assert obs.C[0] != obs.budget_flops[0]
    assert (obs.L[0], obs.loss_kind) == (3.0, "train")
    assert (obs.flop_convention, obs.n_convention) == ("with_head", "total")


def test_held_out_loss_is_the_mean_over_the_sets():
    assert Observations.from_results([make_result()], "validation").L[0] == 4.0


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_runs_that_did_not_finish_are_dropped(status):
    lost = make_result(seed=1, status=status, final_loss=None, reason="loss is NaN")
    obs = Observations.from_results([make_result(), lost], "train")
    assert list(obs.run_id) == [make_result().spec.run_id]
    assert obs.notes == (f"1 of 2 runs left out, which did not finish: 1 {status}.",)
    assert Observations.from_results([make_result()], "train").notes == ()
    curves = Observations.from_curves([make_result(), lost], [CURVE, CURVE], "train")
    assert set(curves.run_id) == {make_result().spec.run_id}


def test_no_finished_run_says_where_to_look():
    with pytest.raises(InputError, match=r"no run has finished yet.*chinchilla status"):
        Observations.from_results([make_result(status="failed")], "train")


def test_a_horizon_run_belongs_to_no_budget():
    obs = Observations.from_results([with_spec(make_result(), budget_flops=None)], "train")
    assert np.isnan(obs.budget_flops[0])


def test_runs_that_count_flops_differently_do_not_mix():
    other = with_spec(make_result(), flop_convention="six_nd")
    with pytest.raises(InputError, match=r"different flop_convention \(six_nd, with_head\)"):
        Observations.from_results([make_result(), other], "train")


def test_the_loss_before_an_update_is_that_of_one_batch_more():
    """loss[i] is measured on batch i before update i: the tokens seen include that batch."""
    obs = Observations.from_curves([make_result()], [CURVE], "train")
    assert obs.D.tolist() == [1024.0 * k for k in range(1, 11)]
    assert obs.L.tolist() == CURVE.loss.tolist()
    assert obs.is_final.tolist() == [False] * 9 + [True]
    assert obs.C[-1] == make_result().spec.C
    assert np.ptp(obs.C / obs.D) == 0


def test_held_out_points_leave_out_the_untrained_model():
    obs = Observations.from_curves([make_result()], [CURVE], "validation")
    assert obs.D.tolist() == [5120.0, 10_240.0]
    assert obs.L.tolist() == [4.0, 3.5]


def test_a_run_without_held_out_loss_points_to_the_training_loss():
    with pytest.raises(InputError, match=r"no validation loss. Fit with loss=train"):
        Observations.from_results([make_result(validation_loss={})], "validation")


def test_unknown_losses_are_refused():
    with pytest.raises(InputError, match="loss='val': choose one of train, validation"):
        Observations.from_results([make_result()], "val")
    with pytest.raises(InputError, match="loss='val'"):
        Observations.from_curves([make_result()], [CURVE], "val")


def test_rows_of_a_sweep_survive_their_file(tmp_path):
    obs = Observations.from_curves([make_result(), make_result(seed=1)], [CURVE, CURVE], "train")
    obs = replace(obs, budget_flops=np.full(len(obs), obs.C.max()))
    obs.save(tmp_path / "o.csv")
    same(Observations.from_csv(tmp_path / "o.csv"), obs)


def test_runs_scored_on_different_held_out_tokens_are_not_compared():
    few = make_result(validation_tokens={"validation": 16_384})
    many = make_result(seed=1, validation_tokens={"validation": 65_536})
    with pytest.raises(InputError, match="different validation tokens"):
        Observations.from_results([few, many], "validation")
    assert len(Observations.from_results([few, many], "train")) == 2


def test_a_budget_in_another_unit_is_told_from_C():
    N = np.geomspace(1e8, 1e9, 6)
    with pytest.raises(InputError, match=r"C is 1e\+18 times budget_flops in the median"):
        Observations.of(N=N, D=20 * N, L=3 - 0.1 * np.arange(6), budget_flops=6 * 20 * N**2 / 1e18)


def test_arrays_of_unequal_length_are_not_stretched():
    with pytest.raises(InputError, match="arrays must be of equal length"):
        Observations.of(N=[1e8, 2e8], D=[1e9], L=[3.0, 2.9])

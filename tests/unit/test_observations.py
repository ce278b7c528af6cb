"""The waist between training and fitting: what enters it is right, or is refused by line."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chinchilla.errors import InputError
from chinchilla.observations import COLUMNS, Observations
from chinchilla.records import Curve, RunResult, RunSpec
from chinchilla.shapes import ModelShape

HEADER = "run_id,budget_flops,C,N,D,L\n"
GOOD = HEADER + "a,1e18,1e18,1e8,1.7e9,3.5\nb,,2e18,2e8,1.7e9,3.2\n"


@pytest.fixture
def csv(tmp_path):
    """csv(text) -> Observations read from a file with that text or those bytes."""

    def read(text: str | bytes, **conventions) -> Observations:
        path = tmp_path / "runs.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Observations.from_csv(path, **conventions)

    return read


def observations(run_id, D=None, **columns) -> Observations:
    n = len(run_id)
    D = np.arange(1.0, n + 1) if D is None else np.array(D, float)
    values = {"C": D * 6e8, "N": np.full(n, 1e8), "D": D, "L": np.linspace(4, 3, n), **columns}
    return Observations(np.array(run_id), np.full(n, np.nan), **values)


def same(a: Observations, b: Observations) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("flop_convention", "params_convention", "loss_kind"):
        assert getattr(a, name) == getattr(b, name)


# ------------------------------------------------------------------ the CSV

positive = st.floats(min_value=1e-300, max_value=1e300, allow_subnormal=False)
run_ids = st.from_regex(r"[A-Za-z0-9_.,;'\"é -]{1,12}", fullmatch=True).filter(
    lambda s: s == s.strip()
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(run_ids, st.none() | positive, positive, positive, positive, positive),
        min_size=1, max_size=6, unique_by=(lambda r: (r[0], r[4]), lambda r: r[2:]),
    )
)  # fmt: skip
def test_every_digit_survives_the_file(tmp_path, rows):
    run_id, budget, *numbers = zip(*rows, strict=True)
    told = Observations(
        np.array(run_id),
        np.array([np.nan if b is None else b for b in budget], float),
        *(np.array(x, float) for x in numbers),
        flop_convention="paper",
        params_convention="total",
        loss_kind="train",
    )
    told.save(tmp_path / "o.csv")
    same(Observations.from_csv(tmp_path / "o.csv"), told)


def test_a_plain_csv_is_read(csv):
    obs = csv(GOOD)
    assert list(obs.run_id) == ["a", "b"]
    assert obs.C.tolist() == [1e18, 2e18]
    assert obs.budget_flops[0] == 1e18
    assert np.isnan(obs.budget_flops[1])
    assert obs.flop_convention == "unknown"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        "# measured in spring\n\n" + GOOD.replace("b,", "# one more remark\n\nb,"),
        GOOD.replace("run_id,budget_flops", " run_id , budget_flops "),
        GOOD.replace("a,1e18,", " a , 1e18 , "),
        GOOD.removesuffix("\n"),
        GOOD.replace("b,,", "b,nan,"),
        GOOD.replace("L\n", "L,\n").replace("3.5\n", "3.5,\n"),
    ],
    ids=["BOM", "CRLF", "comments", "spaces in header", "spaces", "no last newline", "nan budget",
         "trailing comma"],
)  # fmt: skip
def test_spelling_does_not_matter(csv, text):
    same(csv(text), csv(GOOD))


def test_columns_in_any_order_with_others_among_them(csv):
    shuffled = (
        "L,note,D,N,C,run_id,budget_flops\n3.5,x,1.7e9,1e8,1e18,a,1e18\n3.2,,1.7e9,2e8,2e18,b,\n"
    )
    same(csv(shuffled), csv(GOOD))


def test_conventions_come_from_the_file_unless_the_caller_says_them(csv):
    text = "run_id,budget_flops,C,N,D,L,flop_convention\na,,6e18,1e9,1e9,3,six_nd\n"
    assert csv(text).flop_convention == "six_nd"
    assert csv(text, flop_convention="paper").flop_convention == "paper"
    assert csv(text, params_convention="without embedding").params_convention == "without embedding"


def test_rows_counted_in_two_ways_are_not_read_as_one(csv):
    text = "run_id,budget_flops,C,N,D,L,flop_convention\na,,6e18,1e9,1e9,3,six_nd\nb,,6e18,2e9,1e9,2,paper\n"
    with pytest.raises(InputError, match="line 3: flop_convention=paper, but six_nd before"):
        csv(text)


@pytest.mark.parametrize("missing", COLUMNS)
def test_a_missing_column_is_named_beside_those_found(csv, missing):
    kept = [c for c in COLUMNS if c != missing]
    with pytest.raises(InputError, match=rf"no column {missing} \(found {', '.join(kept)}\)"):
        csv(",".join(kept) + "\na,1,2,3,4\n")


@pytest.mark.parametrize("column", ["C", "N", "D", "L"])
@pytest.mark.parametrize(
    ("value", "why"),
    [("nan", "not a positive finite"), ("-1", "not a positive finite"), ("0", "not a positive"),
     ("inf", "not a positive finite"), ("1e400", "not a positive finite"), ("", "is not a number"),
     ("7B", "is not a number"), ("0x10", "is not a number")],
)  # fmt: skip
def test_a_bad_number_is_named_by_line_and_column(csv, column, value, why):
    row = {"run_id": "c", "budget_flops": "", "C": "3e18", "N": "1e9", "D": "5e8", "L": "3"}
    row[column] = value
    with pytest.raises(InputError, match=rf"runs.csv line 4: {column}=.*{why}"):
        csv(GOOD + ",".join(row[c] for c in COLUMNS) + "\n")


@pytest.mark.parametrize("value", ["0", "-1e18", "inf", "big"])
def test_a_budget_may_be_empty_but_not_wrong(csv, value):
    with pytest.raises(InputError, match=rf"line 2: budget_flops='?{value}'? is not a"):
        csv(GOOD.replace("a,1e18,", f"a,{value},"))


def test_lines_are_counted_as_an_editor_counts_them(csv):
    with pytest.raises(InputError, match=r"line 6: L=x|line 6: L='x'"):
        csv("# remark\n\n" + HEADER + "# remark\n\nb,,2e18,2e8,1.7e9,x\n")


def test_a_row_cut_short_is_refused(csv):
    with pytest.raises(InputError, match="line 4: D='' is not a number"):
        csv(GOOD + "c,,3e18,1e9\n")


def test_a_thousands_separator_shifts_no_numbers(csv):
    """1,700,000,000 would be read as D=1 and L=700."""
    with pytest.raises(InputError, match=r"line 4: more values than the 6 columns"):
        csv(GOOD + "c,,3e18,1e9,1,700,000,000,3.1\n")


def test_a_column_that_occurs_twice_is_refused(csv):
    with pytest.raises(InputError, match="the column L occurs twice"):
        csv("run_id,budget_flops,C,N,D,L,L\na,,1,2,3,4,5\n")


def test_the_same_run_twice_is_refused_with_both_lines(csv):
    with pytest.raises(InputError, match=r"line 4: the same run as line 2 .*narrow every interval"):
        csv(GOOD + "a,1e18,1.1e18,1e8,1.7e9,3.4\n")


def test_the_same_numbers_under_another_name_are_refused(csv):
    with pytest.raises(InputError, match="line 4: the same run as line 2"):
        csv(GOOD + "copy,,1e18,1e8,1.7e9,3.5\n")


def test_points_along_one_run_are_no_duplicates(csv):
    assert csv(GOOD + "a,1e18,5e17,1e8,8.5e8,3.9\n").has_curves


@pytest.mark.parametrize("run_id", ["", "  ", '"#1"'])
def test_a_run_needs_a_name_that_is_no_comment(csv, run_id):
    with pytest.raises(InputError, match=r"line 4: run_id (is empty|starts with #)"):
        csv(GOOD + f"{run_id},,3e18,1e9,5e8,3\n")


@pytest.mark.parametrize("text", ["", "\n\n", "# only remarks\n", "\ufeff"])
def test_an_empty_file_says_what_a_csv_of_runs_has(csv, text):
    with pytest.raises(InputError, match=r"\(found none\).*run_id,budget_flops,C,N,D,L"):
        csv(text)


def test_a_header_alone_is_no_run(csv):
    with pytest.raises(InputError, match="no runs, only a header"):
        csv(HEADER)


@pytest.mark.parametrize(
    "content",
    [GOOD.encode("utf-16"), b"run_id\xff", b"\x00\x01\x02"],
    ids=["UTF-16", "Latin-1", "binary"],
)
def test_what_is_not_utf8_text_is_refused(csv, content):
    with pytest.raises(InputError, match=r"runs.csv(: no column| cannot be read)"):
        csv(content)


def test_a_field_without_end_is_refused(csv):
    with pytest.raises(InputError, match=r"is not a CSV .*field larger"):
        csv(GOOD + '"' + "x" * 200_000)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"observations=.*none.csv cannot be read .*No such file"):
        Observations.from_csv(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"cannot be read .*directory"):
        Observations.from_csv(tmp_path)


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
        final_loss_steps=3, held_out_loss={"heldout": 3.5, "other": 4.5}, held_out_tokens={},
        bits_per_byte={}, n_params=spec.N, n_params_non_embedding=1, steps_done=10,
        flops_spent=spec.C, wall_seconds=1, tokens_per_second=1, mfu=None, peak_memory_bytes=1,
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
    assert (obs.flop_convention, obs.params_convention) == ("with_head", "total")


def test_held_out_loss_is_the_mean_over_the_sets():
    assert Observations.from_results([make_result()], "heldout").L[0] == 4.0


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_runs_that_did_not_finish_are_dropped(status):
    lost = make_result(seed=1, status=status, final_loss=None, reason="loss is NaN")
    obs = Observations.from_results([make_result(), lost], "train")
    assert list(obs.run_id) == [make_result().spec.run_id]
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
    obs = Observations.from_curves([make_result()], [CURVE], "heldout")
    assert obs.D.tolist() == [5120.0, 10_240.0]
    assert obs.L.tolist() == [4.0, 3.5]


def test_a_run_without_held_out_loss_points_to_the_training_loss():
    with pytest.raises(InputError, match=r"no held-out loss. Fit with loss=train"):
        Observations.from_results([make_result(held_out_loss={})], "heldout")


def test_unknown_losses_are_refused():
    with pytest.raises(InputError, match="loss='val': choose one of train, heldout"):
        Observations.from_results([make_result()], "val")
    with pytest.raises(InputError, match="loss='val'"):
        Observations.from_curves([make_result()], [CURVE], "val")


def test_rows_of_a_sweep_survive_their_file(tmp_path):
    obs = Observations.from_curves([make_result(), make_result(seed=1)], [CURVE, CURVE], "train")
    # Two seeds with one curve would be the same numbers twice, which a CSV may not hold.
    obs = obs.where(obs.run_id == obs.run_id[0])
    obs.save(tmp_path / "o.csv")
    same(Observations.from_csv(tmp_path / "o.csv"), obs)


def test_runs_scored_on_different_held_out_tokens_are_not_compared():
    few = make_result(held_out_tokens={"heldout": 16_384})
    many = make_result(seed=1, held_out_tokens={"heldout": 65_536})
    with pytest.raises(InputError, match="different held-out tokens"):
        Observations.from_results([few, many], "heldout")
    assert len(Observations.from_results([few, many], "train")) == 2

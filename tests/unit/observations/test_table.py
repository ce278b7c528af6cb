"""Observations: rows, runs, repeated data, windows, curves, arrays, frames, files."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import assert_identical

from chinchilla.core.errors import InputError
from chinchilla.observations import Observations
from chinchilla.observations.columns import EXAMPLES


def observations(run_id, D=None, **columns) -> Observations:
    n = len(run_id)
    D = np.arange(1.0, n + 1) if D is None else np.array(D, float)
    values = {"C": D * 6e8, "N": np.full(n, 1e8), "D": D, "L": np.linspace(4, 3, n), **columns}
    return Observations(np.array(run_id), np.full(n, np.nan), **values)


run_ids = st.from_regex(r"[A-Za-z0-9_.,;'\"é=+@ -]{1,12}", fullmatch=True).filter(
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
    """Observations of ROWS; all points of a run have the budget of its last one."""
    run_id, budget, N, ratio, factor, L, unique, epochs = zip(*rows, strict=True)
    N, ratio, factor, L = (np.array(x, float) for x in (N, ratio, factor, L))
    D = ratio * N
    C = 6 * N * D * factor
    budgets = C * np.array([np.nan if b is None else b for b in budget], float)
    last = [
        max((i for i in range(len(rows)) if run_id[i] == name), key=lambda i: D[i])
        for name in run_id
    ]
    return Observations(
        np.array(run_id),
        budgets[last],
        C=C,
        N=N,
        D=D,
        L=L,
        flop_convention="paper",
        n_convention="total",
        loss_kind="train",
        unique_tokens=D * np.array([np.nan if u is None else u for u in unique], float),
        max_epochs=np.array([np.nan if e is None else e for e in epochs], float),
    )


@IN_TMP
@given(rows=ROWS)
def test_save_keeps_every_digit(tmp_path, rows):
    expected = drawn(rows)
    expected.save(tmp_path / "o.csv")
    assert_identical(Observations.from_csv(tmp_path / "o.csv"), expected)


@IN_TMP
@given(rows=ROWS, seed=st.integers(0, 2**32 - 1))
def test_columns_in_any_order_under_any_alias(tmp_path, rows, seed):
    expected = drawn(rows)
    expected.save(tmp_path / "o.csv")
    with open(tmp_path / "o.csv", newline="") as f:
        header, *lines = csv.reader(f)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(header))
    names = {name: [name] for name in header}
    for name in ("C", "N", "D", "L"):
        for alias in EXAMPLES[name].split(", "):
            names[name] += [alias, alias.upper(), alias.title()]
    with open(tmp_path / "other.csv", "w", newline="") as f:
        writer = csv.writer(f, delimiter=str(rng.choice([",", ";", "\t"])))
        writer.writerow([rng.choice(names[header[i]]) for i in order])
        writer.writerows([[line[i] for i in order] for line in lines])
    assert_identical(Observations.from_csv(tmp_path / "other.csv"), expected)


def test_notes_are_saved_as_comments(tmp_path):
    obs = replace(observations(["a"], D=[1e9]), notes=("one run left out.",))
    obs.save(tmp_path / "o.csv")
    assert (tmp_path / "o.csv").read_text().startswith("# one run left out.\nrun_id,")
    assert_identical(Observations.from_csv(tmp_path / "o.csv"), obs)


FORMULAS = ["=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "'=a", "''@b", "-x"]


def test_no_cell_is_a_formula_of_a_spreadsheet(tmp_path):
    """Names come back as they were; notes are comments, whose commas divide them into cells."""
    names = [*FORMULAS, "-5", "+1e3", "'plain'", "a=b"]
    note = 'left out: a,=HYPERLINK("x"),"=b";@c\n=d'
    obs = replace(observations(names, D=np.linspace(1e9, 9e9, len(names))), notes=(note,))
    obs.save(tmp_path / "o.csv")
    with open(tmp_path / "o.csv", newline="") as file:
        cells = [cell for row in csv.reader(file) for part in row for cell in part.split(";")]
    assert {cell for cell in cells if cell[:1] in "=+-@\t\r" and cell} == {"-5", "+1e3"}
    assert Observations.from_csv(tmp_path / "o.csv").run_id.tolist() == names


@pytest.mark.parametrize("name", ["C", "N", "D", "L"])
@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0, np.inf])
def test_invalid_values_are_refused(name, bad):
    with pytest.raises(InputError, match=f"run b: {name}=.* is not a positive finite number"):
        observations(["a", "b"], **{name: np.array([1.0, bad])})


def test_integers_are_refused_because_6ND_overflows_them():
    with pytest.raises(InputError, match=r"N has type int64 and shape .*Give 2 float64 values"):
        observations(["a", "b"], N=np.array([10**9, 10**9]))


def test_the_final_row_of_a_run_has_the_most_tokens():
    obs = observations(["a", "b", "a", "b", "c"], D=[5, 1, 3, 9, 2])
    assert obs.is_final.tolist() == [True, False, False, True, True]
    assert obs.has_curves
    assert sorted(obs.finals().D) == [2, 5, 9]
    assert not obs.finals().has_curves


def test_an_empty_table_has_no_final_rows():
    assert observations([]).is_final.tolist() == []


def test_where_accepts_masks_and_repeated_indices():
    obs = replace(observations(["a", "b", "c"]), flop_convention="paper")
    assert list(obs.where(np.array([True, False, True])).run_id) == ["a", "c"]
    drawn = obs.where(np.array([2, 2, 0]))
    assert list(drawn.run_id) == ["c", "c", "a"]
    assert drawn.D.tolist() == [3, 3, 1]
    assert drawn.flop_convention == "paper"


def test_a_run_that_occurs_twice_is_refused():
    obs = observations(["a", "b", "c"])
    obs.check_distinct()
    with pytest.raises(
        InputError, match=r"row 2: the same run as row 0 .*run_id=a.*every interval"
    ):
        obs.where(np.array([0, 1, 0])).check_distinct()
    rounded = observations(["a", "a"], D=[2, 2 * (1 + 1e-12)], L=np.array([3.0, 3 * (1 - 1e-12)]))
    with pytest.raises(InputError, match="row 1: the same run as row 0"):
        rounded.check_distinct()


def test_seeds_and_points_of_a_curve_are_distinct():
    observations(["a", "a", "b"], D=[1, 2, 2]).check_distinct()
    observations(["seed0", "seed1"], D=[5, 5], L=np.array([3.0, 3.01])).check_distinct()
    observations(["lr0", "lr1"], D=[5, 5], L=np.array([3.01, 3.01])).check_distinct()


def test_epochs_are_tokens_over_unique_tokens():
    obs = observations(["a", "b", "c", "d"], D=[4e9, 4e9, 4e9, 4e9])
    assert np.isnan(obs.epochs).all()
    assert not len(obs.repeating())
    obs = replace(obs, unique_tokens=np.array([1e9, 4e9, np.nan, 9e9]))  # d: a corpus, not all read
    np.testing.assert_array_equal(obs.epochs, [4, 1, np.nan, 1])
    assert list(obs.repeating().run_id) == ["a"]
    assert "1 runs repeat data, up to 4 epochs" in str(obs)


def test_epochs_of_a_mixture_are_those_of_the_most_repeated_source():
    """A small source read 6.34 times is 4% more tokens than differ: all sources as one hide it."""
    columns = {"D": [4e9, 4e9, 4e9], "unique_tokens": np.array([4e9 / 1.04, np.nan, 2e9])}
    obs = observations(["a", "b", "c"], max_epochs=np.array([6.34, 3, np.nan]), **columns)
    np.testing.assert_array_equal(obs.epochs, [6.34, 3, 2])
    assert "3 runs repeat data, up to 6.34 epochs of the most repeated source" in str(obs)
    assert obs.where(np.array([1])).most_epochs() == "3 epochs of the most repeated source"
    assert obs.where(np.array([2])).most_epochs() == "2 epochs"


def test_within_keeps_whole_runs_and_notes_how_many_are_left_out():
    obs = observations(["a", "a", "b", "c"], D=[1e8, 2e9, 1e8, 3e10])
    kept = obs.within([2, 200])
    assert list(kept.run_id) == ["a", "a"]  # the early point of a run that ends inside stays
    assert kept.notes == ("2 of 3 runs left out: tokens per parameter outside [2, 200].",)
    assert obs.within([1, 300]).notes[0].startswith("0 of 3 runs")


def test_within_refuses_a_window_without_runs():
    with pytest.raises(
        InputError, match=r"tokens_per_param=\[1e\+06,1e\+07\] leaves no run.* 1 to 3"
    ):
        observations(["a", "b"], D=[1e8, 3e8]).within([1e6, 1e7])


def test_curves_complete_only_runs_without_a_row():
    finals = observations(["a"], D=[2e9], L=np.array([3.0]))
    curves = observations(["a", "a", "b", "b"], D=[1e9, 2e9, 1e9, 4e9])
    both = finals.completed_by(curves)
    assert list(both.run_id) == ["a", "b"]
    assert both.L.tolist() == [3.0, curves.L[3]]  # a's own row, b's last point
    assert both.notes == (
        "1 runs have no row in observations: the last point of their curve, unsmoothed, is used as their "
        "final loss.",
    )
    assert len(both.completed_by(curves)) == 2
    others = observations(["x", "x"], D=[1e9, 2e9])
    with pytest.raises(
        InputError, match=r"share no run_id \(a, ... and x, ...\).*one run_id per run in both"
    ):
        finals.completed_by(others)
    assert len(finals.where(np.zeros(len(finals), bool)).completed_by(others)) == 1


def test_curves_of_other_conventions_are_refused():
    finals = observations(["a"], D=[2e9])
    with pytest.raises(
        InputError, match="run a: N=100000000 in observations and 200000000 in curves"
    ):
        finals.completed_by(observations(["a", "a"], D=[1e9, 2e9], N=np.full(2, 2e8)))
    paper, six = (replace(finals, flop_convention=name) for name in ("paper", "six_nd"))
    with pytest.raises(InputError, match="differ in flop_convention: paper and six_nd"):
        paper.completed_by(six)
    assert finals.completed_by(six).flop_convention == "six_nd"


def test_arrays_without_C_use_6ND_with_a_note():
    obs = Observations.of(N=[10**8, 10**9], D=[2 * 10**9, 10**10], L=[3.4, 2.9])
    assert obs.C.tolist() == [1.2e18, 6e19]  # as integers, 6*N*D of a larger pair would overflow
    assert list(obs.run_id) == ["run0000", "run0001"]
    assert np.isnan(obs.budget_flops).all()
    assert obs.flop_convention == "six_nd"
    assert obs.notes == ("C = 6*N*D in every row: the table has no column C.",)


def test_a_scalar_applies_to_every_row():
    obs = Observations.of(N=[1e8, 2e8], D=1e9, L=[3.4, 3.2], C=[6e17, 1.2e18], budget_flops=1e18)
    assert obs.budget_flops.tolist() == [1e18, 1e18]
    assert obs.D.tolist() == [1e9, 1e9]
    assert (obs.flop_convention, obs.notes) == ("unknown", ())


def test_arrays_of_unequal_length_are_refused():
    with pytest.raises(InputError, match=r"equal length; the shapes are N \(2,\), D \(3,\)"):
        Observations.of(N=[1e8, 2e8], D=[1e9, 2e9, 3e9], L=3.0)
    with pytest.raises(InputError, match="arrays must be of equal length"):  # and not stretched
        Observations.of(N=[1e8, 2e8], D=[1e9], L=[3.0, 2.9])
    with pytest.raises(InputError, match=r"equal length; the shapes are .*N \(2,\).*D \(3,\)"):
        Observations.from_frame({"N": [1e8, 2e8], "D": [1e9] * 3, "L": [3, 3], "C": [1, 1]})


class Frame:
    """What pandas and polars have in common: .columns, and columns by name."""

    def __init__(self, **columns):
        self.data = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return self.data[name]


@pytest.mark.parametrize("make", [Frame, dict], ids=["columns", "mapping"])
def test_a_frame_is_read_by_alias(make):
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


def test_errors_in_a_frame_name_row_and_column():
    good = {"C": [6e17, 1.2e18], "N": [1e8, 2e8], "D": [1e9, 1e9], "L": [3.4, 3.2]}
    for column, value, why in (
        ("L", np.nan, "L=nan is not a positive finite number"),
        ("N", -1, "N=-1.0 is not a positive"),
        ("D", "1 zillion", r"D='1 zillion' is not a number"),
        ("C", None, "C='' is not a number"),
        ("N", 10**400, r"N=10+ \.\.\. is not a positive finite"),
        ("budget_flops", 0, "budget_flops=0 is not a positive finite"),
    ):
        frame = {**good, column: [good.get(column, [""])[0], value]}
        with pytest.raises(InputError, match=f"the frame row 1: {why}"):
            Observations.from_frame(frame)
    with pytest.raises(InputError, match="a list has no named columns"):
        Observations.from_frame([1, 2])
    with pytest.raises(
        InputError, match=r"flops_convention: no such convention\. Use flop_convention"
    ):
        Observations.from_frame(good, flops_convention="six_nd")


def test_str_shows_ranges_and_conventions():
    text = str(observations(["a", "a", "b"], D=[1e9, 2e9, 4e10]))
    assert "2 runs in 3 points, no IsoFLOP budgets" in text
    assert "N 100m to 100m parameters (unknown)" in text
    assert "D 2b to 40b tokens, D/N 20 to 400" in text
    assert "nats per token" in text

"""Runs of a table: derived columns, copies, seeds, searches, IsoFLOP budgets."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from public_data import public
from tables import BUDGET_RUNS, LAW, RUNS, SIX_ND, assert_same_runs, distinct_runs

from chinchilla import cli
from chinchilla.core.errors import InputError
from chinchilla.fit.isoflop.approach2 import fit_isoflop
from chinchilla.fit.parametric.approach3 import fit_parametric
from chinchilla.observations import Observations
from chinchilla.observations.columns import COLUMNS, OPTIONAL


@pytest.mark.parametrize("missing", ["C", "N", "D"])
def test_one_of_C_N_D_is_computed_with_six_nd(csv, missing):
    values = {"C": "6e17", "N": "1e8", "D": "1e9", "L": "3.5"}
    given = {name: text for name, text in values.items() if name != missing}
    text = ",".join(given) + "\n" + ",".join(given.values()) + "\n"
    obs = csv(text, flop_convention="six_nd")
    assert getattr(obs, missing)[0] == pytest.approx(float(values[missing]), rel=1e-15)
    assert f"the table has no column {missing}" in obs.notes[0]
    with pytest.raises(InputError, match=f"With flop_convention=six_nd, {missing} is computed"):
        csv(text)


# Copies and seeds


def test_equal_rounded_losses_are_different_runs(csv):
    text = "run_id,C,N,D,L,lr\na,6e20,1e9,1e11,2.1399,1e-3\nb,6e20,1e9,1e11,2.1399,2e-3\n"
    assert len(csv(text)) == 2
    without = "".join(",".join(line.split(",")[:-1]) + "\n" for line in text.splitlines())
    assert len(csv(without)) == 2  # two names, five digits: possibly two seeds
    assert len(csv(text.replace("2.1399", "2.139912345"))) == 2  # another learning rate
    assert len(csv(without.replace("2.1399", "2.139912345"))) == 1
    assert len(csv(text.replace("b,", "a,").replace("2e-3", "1e-3"))) == 1
    assert len(csv(text.replace("2e-3", "1e-3").replace("run_id", "x").replace("b,", "a,"))) == 1


def test_the_fits_count_seeds_with_equal_rounded_losses():
    C = np.repeat([1e18, 1e19, 1e20], 9)
    N = 0.6 * (C / 6) ** 0.4565 * np.tile(np.geomspace(0.25, 4, 9), 3)
    L = np.round(LAW(N, C / (6 * N)), 4)
    columns = {
        k: np.append(x, x[:5]) for k, x in (("C", C), ("N", N), ("D", C / (6 * N)), ("L", L))
    }
    obs = Observations.of(**columns, run_id=[f"r{i}" for i in range(32)])
    assert len(obs) == 32
    assert fit_isoflop(obs, n_bootstrap=0).refusals == []
    assert fit_parametric(obs, n_bootstrap=0).n_runs == 32


def test_exact_copies_are_dropped_with_a_note_or_refused(csv):
    rows = RUNS.splitlines()
    text = "\n".join([*rows, rows[1], rows[1]]) + "\n"
    obs = csv(text)
    assert_same_runs(obs, csv(RUNS))
    assert obs.notes[0].startswith("2 of 4 rows left out: exact copies of other rows (")
    assert "line 4: the same run as line 2" in obs.notes[0]
    with pytest.raises(InputError, match=r"line 4: the same run as line 2 \(2 of 4.*narrows every"):
        csv(text, duplicates="refuse")
    with pytest.raises(InputError, match="duplicates='keep': choose one of drop, refuse"):
        csv(text, duplicates="keep")


def test_public_tables_of_rounded_losses_and_of_copies():
    assert len(Observations.from_csv(public("equal_rounded_losses.csv"))) == 4
    obs = Observations.from_csv(public("farseer_dup_rows.csv"))
    assert len(obs) == 4
    assert "4 of 8 rows left out" in obs.notes[0]


def test_a_curve_is_a_copy_only_if_all_its_points_are(csv):
    shared = [f"{6e8 * D!r},1e8,{D!r},{float(LAW(1e8, D))!r}" for D in (1e9, 2e9, 3e9)]
    text = "run_id,C,N,D,L\n" + "".join(f"stable phase,{row}\n" for row in shared)
    text += "".join(f"branch,{row}\n" for row in shared[:2])
    assert len(csv(text)) == 5
    obs = csv(
        text + f"branch,{shared[2]}\n"
    )  # every point of the branch is one of the stable phase
    assert set(obs.run_id) == {"stable phase"}


def test_seeds_under_one_name_are_refused():
    path = public("../cases/12/seeds.csv")
    with pytest.raises(InputError, match=r"line 3: .*give each seed a run_id of its own"):
        Observations.from_csv(path)


def test_seeds_of_one_configuration_are_kept(csv):
    text = "run_id,N,D,L\ns0,1e8,2e9,3.50\ns1,1e8,2e9,3.51\ns2,1e8,2e9,3.50\nb,2e8,4e9,3.2\n"
    obs = csv(text, **SIX_ND)
    assert (len(obs), len(obs.notes)) == (4, 1)


def test_two_losses_of_one_run_at_one_D_are_refused(csv):
    with pytest.raises(
        InputError,
        match=r"line 4: the same run as line 2 .*narrows every.*give each seed a run_id of its own",
    ):
        csv(BUDGET_RUNS + "a,1e18,1.1e18,1e8,1.7e9,3.4\n")


def test_points_of_one_curve_are_not_duplicates(csv):
    assert csv(BUDGET_RUNS + "a,1e18,5e17,1e8,8.5e8,3.9\n").has_curves


def search() -> str:
    """Three configurations with five learning rates each, the third the best."""
    lines = ["N,D,L,lr"]
    for N, D in ((1e8, 2e9), (2e8, 4e9), (4e8, 8e9)):
        lines += [f"{N!r},{D!r},{float(LAW(N, D)) + 0.01 * abs(k - 2)!r},{k}" for k in range(5)]
    return "\n".join(lines) + "\n"


def test_a_search_is_noted_and_best_keeps_the_lowest_losses(csv):
    obs = csv(search(), **SIX_ND)
    assert any("15 of 15 runs share" in note and "best=true" in note for note in obs.notes)
    best = obs.best()
    np.testing.assert_allclose(best.L, LAW(best.N, best.D), rtol=1e-12)
    assert len(best) == 3
    assert best.notes[-1] == "12 of 15 runs left out: not the lowest loss of their (N, D)."
    assert not any("best=true" in note for note in best.notes)


def test_the_command_keeps_the_best(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs.csv").write_text(search())
    words = ["observations=runs.csv", "flop_convention=six_nd", "n_bootstrap=0", "out_dir=fits"]
    cli.main(["fit", *words, "best=true"])
    assert "note: 12 of 15 runs left out" in capsys.readouterr().out
    assert len(Observations.from_csv(Path("fits/observations.csv"))) == 3


# Budgets


def sweep(budgets, jitter=0.0, n_sizes=5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    C = np.repeat(np.asarray(budgets, float), n_sizes)
    N = 0.6 * (C / 6) ** 0.45 * np.tile(np.geomspace(0.25, 4, n_sizes), len(budgets))
    C = C * (1 + jitter * rng.uniform(-1, 1, len(C)))
    return {"C": C, "N": N, "D": C / (6 * N), "L": LAW(N, C / (6 * N))}


@pytest.mark.parametrize("jitter", [0.0, 0.008])
def test_runs_of_equal_C_form_budgets(jitter):
    obs = Observations.of(**sweep([1e18, 1e19, 1e20], jitter))
    np.testing.assert_array_equal(obs.budget_flops, np.repeat([1e18, 1e19, 1e20], 5))
    assert "15 of 15 runs end at 3 values of C to within 2%" in obs.notes[0]


def test_given_budgets_are_not_extended():
    columns = sweep([1e18, 1e19])
    named = np.where(columns["C"] == 1e18, 1e18, np.nan)
    obs = Observations.of(**columns, budget_flops=named)
    np.testing.assert_array_equal(obs.budget_flops, named)
    assert obs.notes == ()


@pytest.mark.parametrize(
    "columns",
    [
        distinct_runs(24),
        sweep([1e18, 1e19, 1e20], n_sizes=2),
        sweep(np.geomspace(1e18, 1e19, 150), n_sizes=1),
        sweep([1e18, 1e19], jitter=0.1),
    ],
    ids=["24 different C", "two sizes", "close together", "spread"],
)
def test_unclear_groups_form_no_budgets(columns):
    obs = Observations.of(**columns)
    assert np.isnan(obs.budget_flops).all()
    assert obs.notes == ()


def test_random_runs_form_no_budgets():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        N = 10 ** rng.uniform(7, 10, 200)
        D = N * 10 ** rng.uniform(0, 2, 200)
        assert np.isnan(Observations.of(N=N, D=D, L=LAW(N, D)).budget_flops).all()


def test_a_curve_belongs_to_the_budget_of_its_end():
    ends = sweep([1e18, 1e19])
    share = np.array([0.25, 0.5, 1.0])
    columns = {name: np.repeat(x, 3) for name, x in ends.items()}
    for name in ("C", "D"):
        columns[name] = columns[name] * np.tile(share, 10)
    columns["L"] = columns["L"] + 1 - np.tile(share, 10)
    obs = Observations.of(**columns, run_id=np.repeat([f"r{i}" for i in range(10)], 3))
    np.testing.assert_array_equal(obs.budget_flops, np.repeat([1e18, 1e19], 15))


def test_the_public_table_without_budgets_has_nine():
    obs = Observations.from_csv(public("isoflop_without_budget_column.csv"), **SIX_ND)
    assert len(np.unique(obs.budget_flops)) == 9
    np.testing.assert_array_equal(obs.budget_flops, obs.C)


def test_inferred_budgets_survive_save(tmp_path):
    columns = sweep([1e18, 1e19])
    obs = Observations.of(**{name: np.append(x, x[0]) for name, x in columns.items()})
    obs.save(tmp_path / "o.csv")
    again = Observations.from_csv(tmp_path / "o.csv")
    for name in (*COLUMNS, *OPTIONAL):
        np.testing.assert_array_equal(getattr(again, name), getattr(obs, name))


# Time and properties


def test_twenty_thousand_rows_take_at_most_a_second(csv):
    """The slow path: suffixes and a copy of every row."""
    rng = np.random.default_rng(0)
    N, ratio = 10 ** rng.uniform(8, 10, 10_000), 10 ** rng.uniform(0, 2, 10_000)
    rows = [
        f"r{i};{n / 1e6:.4f}M;{r * n / 1e9:.6f}B;{L:.8f}"
        for i, (n, r, L) in enumerate(zip(N, ratio, LAW(N, ratio * N), strict=True))
    ]
    text = "run_id;params;tokens;loss\n" + "\n".join(rows * 2) + "\n"
    start = time.process_time()
    obs = csv(text, **SIX_ND)
    assert time.process_time() - start < 1.0
    np.testing.assert_allclose(obs.N, N, rtol=1e-4)


ROWS = st.lists(
    st.tuples(
        st.floats(1e6, 1e11), st.floats(0.5, 500), st.floats(1.5, 6), st.sampled_from([0, 1])
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda row: row[:2],
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=ROWS, budgets=st.booleans(), random=st.randoms(use_true_random=False))
def test_the_order_of_rows_and_other_columns_do_not_matter(tmp_path, rows, budgets, random):
    """Some tables have runs of equal C, which form budgets; some runs have two points."""
    lines = []
    for i, (N, ratio, L, twin) in enumerate(rows):
        D = 1e19 / (6 * N) if budgets else ratio * N
        lines.append(f"r{i},{6 * N * D!r},{N!r},{D!r},{L!r}")
        if twin:
            lines.append(f"r{i},{3 * N * D!r},{N!r},{D / 2!r},{L + 1!r}")

    def read(lines: list[str], header: str) -> Observations | str:
        path = tmp_path / "runs.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        try:
            return Observations.from_csv(path)
        except InputError as error:
            return type(error).__name__

    expected = read(lines, "run_id,C,N,D,L")
    shuffled = random.sample(lines, len(lines))
    wider = [f"{line},{random.random()},x{k}" for k, line in enumerate(shuffled)]
    for other in (
        read(shuffled, "run_id,C,N,D,L"),
        read(wider, "run_id,C,N,D,L,learning rate,remark"),
    ):
        if isinstance(expected, str) or isinstance(other, str):
            assert expected == other
            continue
        one, two = (np.lexsort((x.D, x.run_id)) for x in (expected, other))
        for name in (*COLUMNS, *OPTIONAL):
            np.testing.assert_array_equal(getattr(expected, name)[one], getattr(other, name)[two])

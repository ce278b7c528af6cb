"""Tables as other programs write them: names, units, numbers, copies, seeds, budgets."""

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chinchilla import cli
from chinchilla.errors import InputError
from chinchilla.fit.isoflop import fit_isoflop
from chinchilla.fit.loss_law import named_law
from chinchilla.fit.parametric import fit_parametric
from chinchilla.observations import Observations
from chinchilla.table_names import SYNONYMS
from chinchilla.tables_in import COLUMNS, OPTIONAL

LAW = named_law("hoffmann")
BESIDE = Path(__file__).parents[2].parent / "shared" / "data"
PUBLIC = Path(os.environ.get("CHINCHILLA_PUBLIC_DATA", BESIDE))
SIX = {"flop_convention": "six_nd"}


def public(name: str) -> Path:
    """A table of public measurements or a case beside them; skips where the folder is not there."""
    path = PUBLIC / name
    if not path.exists():
        pytest.skip(f"{path} is not here: set CHINCHILLA_PUBLIC_DATA to the folder of public data")
    return path


@pytest.fixture
def csv(tmp_path):
    """csv(text) -> Observations read from a file with that text or those bytes."""

    def read(text: str | bytes, **said) -> Observations:
        path = tmp_path / "runs.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Observations.from_csv(path, **said)

    return read


RUNS = "run_id,C,N,D,L\na,1.2e18,1e8,2e9,3.5\nb,4.8e18,2e8,4e9,3.2\n"


def same(a: Observations, b: Observations) -> None:
    for name in ("C", "N", "D", "L"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12)


# ------------------------------------------------------------------ names and units


@pytest.mark.parametrize(
    "header",
    [
        "run_name,total_flops,n_params,train_tokens,final_loss",
        "ID,train_flops,num_params,n_tokens,lm_loss",
        "run,compute_budget,parameters,training_tokens,loss",
        "run,FLOPs,Model Size,Tokens Seen,Final Loss",
        "id,training compute,#params,tokens-seen,cross-entropy",
        "Name,compute,Num. Params,throughput/total_tokens,train/loss",
        "run_id,compute (FLOPs),N (count),D (tokens),loss (nats/token)",
        "run_id,compute,non_embedding_params,dataset_tokens,loss/val",
    ],
)
def test_common_names_of_columns_are_understood(csv, header):
    same(csv(RUNS.replace("run_id,C,N,D,L", header)), csv(RUNS))


def test_a_name_that_states_a_convention_is_taken_at_its_word(csv):
    obs = csv(RUNS.replace("N,D,L", "non_embedding_params,D,val/loss"))
    assert (obs.n_convention, obs.loss_kind) == ("non_embedding", "heldout")
    obs = csv(RUNS.replace("N,D,L", "total_params,D,train_loss"), n_convention="non_embedding")
    assert (obs.n_convention, obs.loss_kind) == ("non_embedding", "train")  # the person wins


def test_our_letter_beside_a_name_that_says_which_of_several_is_no_clash(csv):
    text = RUNS.replace("L\n", "L,val_loss,params_no_embed\n").replace("3.5\n", "3.5,3.6,9e7\n")
    same(csv(text.replace("3.2\n", "3.2,3.3,1.9e8\n")), csv(RUNS))


@pytest.mark.parametrize(
    ("header", "clash"),
    [
        ("run_id,C,N,train_loss,val_loss", "train_loss and val_loss both give L"),
        ("run_id,C,params,n_params,L", "params and n_params both give N"),
        ("run_id,C,N,D,L,final_loss", "L and final_loss both give L"),
        ("run_id,C,params,non_embedding_params,L", "params and non_embedding_params both give N"),
    ],
)
def test_two_columns_for_one_of_ours_are_refused_and_either_may_be_chosen(csv, header, clash):
    with pytest.raises(InputError, match=rf"columns {clash}. Rename one, or say .*columns\."):
        csv(header + "\na,1,2,3,4,5\n")
    if "val_loss" in header:
        text = RUNS.replace("L\n", "train_loss,val_loss\n").replace("3.5\n", "9,3.5\n")
        same(csv(text.replace("3.2\n", "9,3.2\n"), columns={"L": "val_loss"}), csv(RUNS))


def test_a_missing_column_lists_the_names_that_are_accepted(csv):
    with pytest.raises(InputError, match="no column D ") as told:
        csv(RUNS.replace(",D,", ",corpus,"))
    for name in ("D", *SYNONYMS["D"], 'columns.D="NAME"'):
        assert name in str(told.value)


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("run_id,C,Size (M),D,L", {"N": "Size (M)"}),
        ("run_id,C,Size,D,L", {"N": "Size (M)"}),
        ("run_id,C,size,D,L", {"N": "Size (millions)"}),
        ("run_id,C,Params (M),D,L", {}),
        ("run_id,C,N [in millions],D,L", {}),
    ],
)
def test_a_mapped_name_and_its_unit_multiply(csv, header, columns):
    text = RUNS.replace("run_id,C,N,D,L", header).replace("1e8", "100").replace("2e8", "200")
    obs = csv(text, columns=columns)
    same(obs, csv(RUNS))
    assert any("N is read from the column" in note and "1e+06" in note for note in obs.notes)


def test_units_of_compute_and_tokens_multiply(csv):
    text = "run_id,Compute (EFLOPs),N,Tokens (B),L\na,1.2,1e8,2,3.5\nb,4.8,2e8,4,3.2\n"
    same(csv(text), csv(RUNS))
    days = 1.2e18 / 8.64e19
    text = f"C (PFLOP/s-days),N,D,L\n{days!r},1e8,2e9,3.5\n{4 * days!r},2e8,4e9,3.2\n"
    same(csv(text), csv(RUNS))


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"N": "Width"}, r"columns.N='Width' is not a column of .*found run_id, C, N, D, L"),
        ({"P": "N"}, r"columns.P: there is no such column.*Columns are run_id"),
        ({"N": "N (zillions)"}, "'zillions' is not a unit of N"),
        ({"N": "L", "D": "L"}, "'L' is given for two columns"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(csv, columns, why):
    with pytest.raises(InputError, match=why):
        csv(RUNS, columns=columns)


def test_the_command_line_maps_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    N = np.repeat(np.geomspace(1e8, 1e10, 8), 3)
    D = np.tile([8.0, 20.0, 50.0], 8) * N
    rows = zip((N / 1e6).tolist(), D.tolist(), LAW(N, D).tolist(), strict=True)
    text = "Model Size (M),D,L\n" + "".join(f"{n!r},{d!r},{x!r}\n" for n, d, x in rows)
    Path("runs.csv").write_text(text)
    words = [
        "observations=runs.csv",
        "flop_convention=six_nd",
        "approaches=parametric",
        "n_bootstrap=0",
    ]
    for k, word in enumerate(
        ("columns.N=Model Size (M)", "columns={N: 'Model Size (M)'}", "columns.N='Model Size (M)'")
    ):
        assert cli.main(["fit", *words, f"out_dir=fits{k}", word]) == 0, word
        obs = Observations.from_csv(Path(f"fits{k}/observations.csv"))
        np.testing.assert_allclose(obs.N, N, rtol=1e-15)
    capsys.readouterr()
    assert cli.main(["fit", *words, "out_dir=x", "columns.N=Size"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1B", 1e9), ("20M", 2e7), ("1T", 1e12), ("1.5e9", 1.5e9), ("300000k", 3e8), ("2.4G", 2.4e9),
        ("2.4 B", 2.4e9), ("0.4bn", 4e8), ("410 million", 4.1e8), ('"1,500,000,000"', 1.5e9),
        ("1 500 000 000", 1.5e9), ("1\u202f500\u202f000\u202f000", 1.5e9), ("1'500'000'000", 1.5e9),
        ("1.500.000.000", 1.5e9), ('"1,500,000.5"', 1500000.5), ("1_000_000_000", 1e9),
        ('"1e9"', 1e9), ("+1E+9", 1e9),
    ],
)  # fmt: skip
def test_a_count_is_read_as_it_was_written(csv, text, value):
    obs = csv(f"N,D,L\n{text},{value * 20!r},3\n{2 * value!r},{value * 30!r},2.9\n", **SIX)
    assert obs.N[0] == value


def test_a_loss_has_no_suffix(csv):
    with pytest.raises(InputError, match="line 2: L='3k' is not a number"):
        csv(RUNS.replace("3.5", "3k"))


def test_a_spreadsheet_with_decimal_commas_is_read(csv):
    text = (
        "run_id;C;N;D;L;;\n"
        "a;1,2E+18;100.000.000;2.000.000.000;3,512;;\n"
        "b;4,8E+18;200.000.000;4.000.000.000;3,2;;\n;;;;;;\n;;;;;;\n"
    )
    expected = csv(RUNS.replace("3.5\n", "3.512\n"))
    for raw in (text, "\ufeff" + text, "sep=;\r\n" + text.replace("\n", "\r\n")):
        same(csv(raw), expected)
    same(csv(text.replace(";", "\t").encode("utf-16")), expected)  # "Unicode text"
    same(
        csv(text.replace("3,2;", "3,201;")),
        csv(RUNS.replace("3.5", "3.512").replace("3.2", "3.201")),
    )


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        (RUNS.replace("1e8", '"1,000"'), "N='1,000'"),
        (RUNS.replace("3.5", '"3,5"'), "L='3.2'"),
        (RUNS.replace(",", ";").replace("3.5", "3,5").replace("3.2", "3,2").replace("2e8", "900.000"),
         "N='900.000'"),
        (RUNS.replace("3.5", "#DIV/0!"), "L='#DIV/0!'"),
    ],
)  # fmt: skip
def test_a_number_that_may_be_two_is_refused(csv, text, cell):
    with pytest.raises(InputError, match=rf"line \d: {cell} is not a number\. \w+"):
        csv(text)


def test_runs_without_a_loss_are_counted_in_the_refusal(csv):
    with pytest.raises(
        InputError, match=r"line 2: L=NaN is .*, and 1 more rows have none.*Leave out"
    ):
        csv(RUNS.replace("3.5", '"NaN"').replace("3.2", ""))


# ------------------------------------------------------------------ what programs write


def test_a_table_of_runs_from_weights_and_biases(csv):
    text = (
        '"Name","State","Notes","Runtime","n_params","tokens","total_flops","loss/val","eval/acc"\n'
        '"sage-sun-1","finished","-","3600","100000000","2000000000","1.2e18","3.5","NaN"\n'
        '"sage-sun-2","finished","-","7200","200000000","4000000000","4.8e18","3.2","Infinity"\n'
    )
    obs = csv(text)
    same(obs, csv(RUNS))
    assert list(obs.run_id) == ["sage-sun-1", "sage-sun-2"]
    assert obs.loss_kind == "heldout"


def test_a_chart_from_weights_and_biases_says_what_to_export(csv):
    with pytest.raises(InputError, match=r"export of a chart.*export the table of runs instead"):
        csv('"Step","sun-1 - train/loss","sun-1 - train/loss__MIN"\n"1","3.2","3.2"\n')


@pytest.mark.parametrize(
    ("text", "what"),
    [('[{"N": 1}]\n', "JSON"), ("<table>\n", "HTML"), ("| N | D |\n|---|---|\n", "Markdown")],
)
def test_other_text_is_named_with_the_way_to_a_csv(csv, text, what):
    with pytest.raises(InputError, match=f"no column C, N, D, L.*looks like .*{what}.*CSV"):
        csv(text)


def test_names_that_are_no_names_of_runs_leave_runs_apart(csv):
    """Two models of one name are two runs, and no curve."""
    obs = csv(RUNS.replace("run_id", "name").replace("b,", "a,"))
    assert list(obs.run_id) == ["run0000", "run0001"]


def test_what_numpy_writes_is_read(csv):
    x = np.array([[1.2e18, 1e8, 2e9, 3.5], [4.8e18, 2e8, 4e9, 3.2]])
    for delimiter in (",", "\t", " "):
        out = io.StringIO()
        np.savetxt(out, x, delimiter=delimiter, header=delimiter.join("CNDL"))
        same(csv("# from run 7\n" + out.getvalue()), csv(RUNS))


def test_what_pandas_writes_is_read(csv, tmp_path):
    pandas = pytest.importorskip("pandas")
    df = pandas.DataFrame(
        {"params": [10**8, 2 * 10**8], "tokens": [2 * 10**9, 4 * 10**9], "final_loss": [3.5, 3.2]}
    )
    for text in (df.to_csv(), df.reset_index().to_csv(), df.to_csv(sep=";", decimal=",")):
        same(csv(text, **SIX), csv(RUNS))
    same(Observations.from_frame(df), csv(RUNS))
    df["name of run"] = ["a", "b"]
    named = df.set_index("name of run").rename_axis("run_id")
    assert list(Observations.from_frame(named).run_id) == ["a", "b"]
    twice = pandas.concat([df, df], ignore_index=True)
    assert len(Observations.from_frame(twice.reset_index())) == 2  # the row number is no column


def test_a_frame_may_name_its_columns():
    frame = {"Model Size (M)": [100, 200], "D": ["2B", "4B"], "L": [3.5, 3.2]}
    obs = Observations.from_frame(frame, columns={"N": "Model Size (M)"})
    assert (obs.N.tolist(), obs.D.tolist()) == ([1e8, 2e8], [2e9, 4e9])


# ------------------------------------------------------------------ comments and runs


def test_a_row_whose_run_id_begins_with_a_hash_is_a_run(csv):
    obs = csv("# lr 3e-4, seed 1, N, D, L\n" + RUNS.replace("b,", "#b,") + "# a, b, c, d, e\n")
    assert list(obs.run_id) == ["a", "#b"]
    assert obs.notes[0].startswith("1 lines start with # and hold a row each (line 4 is the first)")
    assert csv(RUNS.replace("b,", '"#b",')).notes == ()


def test_such_a_run_survives_our_own_file(csv, tmp_path):
    obs = csv(RUNS.replace("b,", '"#b",'))
    obs.save(tmp_path / "o.csv")
    again = Observations.from_csv(tmp_path / "o.csv")
    assert (list(again.run_id), again.notes) == (["a", "#b"], ())


def test_a_row_that_was_commented_out_behind_another_first_column_is_none(csv):
    text = "C,N,D,L\n1.2e18,1e8,2e9,3.5\n#4.8e18,2e8,4e9,3.2\n"
    assert len(csv(text)) == 1


def test_the_case_of_hashes_reads_all_rows():
    obs = Observations.from_csv(public("../cases/01/runs.csv"))
    plain = Observations.from_csv(public("../cases/01/runs_without_hash.csv"))
    assert len(obs) == 60
    same(obs, plain)
    assert "20 lines start with #" in obs.notes[0]


# ------------------------------------------------------------------ copies, seeds, the best of a search


def test_equal_rounded_losses_are_different_runs(csv):
    text = "run_id,C,N,D,L,lr\na,6e20,1e9,1e11,2.1399,1e-3\nb,6e20,1e9,1e11,2.1399,2e-3\n"
    assert len(csv(text)) == 2
    without = "".join(",".join(line.split(",")[:-1]) + "\n" for line in text.splitlines())
    assert len(csv(without)) == 2  # two names, and five digits: seeds may well agree
    assert len(csv(text.replace("2.1399", "2.139912345"))) == 2  # another rate is another run
    assert len(csv(without.replace("2.1399", "2.139912345"))) == 1
    assert len(csv(text.replace("b,", "a,").replace("2e-3", "1e-3"))) == 1
    assert len(csv(text.replace("2e-3", "1e-3").replace("run_id", "x").replace("b,", "a,"))) == 1


def test_two_seeds_of_one_rounded_loss_are_no_copies_for_the_fits():
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


def test_exact_copies_are_dropped_with_a_count_or_refused(csv):
    rows = RUNS.splitlines()
    text = "\n".join([*rows, rows[1], rows[1]]) + "\n"
    obs = csv(text)
    same(obs, csv(RUNS))
    assert obs.notes[0].startswith("2 of 4 rows left out: exact copies of other rows (")
    assert "line 4: the same run as line 2" in obs.notes[0]
    with pytest.raises(InputError, match=r"line 4: the same run as line 2 \(2 of 4.*narrow every"):
        csv(text, duplicates="refuse")
    with pytest.raises(InputError, match="duplicates='keep': choose one of drop, refuse"):
        csv(text, duplicates="keep")


def test_public_tables_of_rounded_losses_and_of_copies():
    assert len(Observations.from_csv(public("equal_rounded_losses.csv"))) == 4
    obs = Observations.from_csv(public("farseer_dup_rows.csv"))
    assert len(obs) == 4
    assert "4 of 8 rows left out" in obs.notes[0]


def test_a_curve_that_shares_its_first_points_with_another_is_no_copy(csv):
    shared = [f"{6e8 * D!r},1e8,{D!r},{float(LAW(1e8, D))!r}" for D in (1e9, 2e9, 3e9)]
    text = "run_id,C,N,D,L\n" + "".join(f"trunk,{row}\n" for row in shared)
    text += "".join(f"branch,{row}\n" for row in shared[:2])
    longer = text + "branch,2.4e18,1e8,4e9,2.9\n"
    assert len(csv(longer)) == 6
    obs = csv(text)  # a part of another curve and nothing else
    assert set(obs.run_id) == {"trunk"}


def test_three_seeds_under_one_name_are_asked_for_names_of_their_own():
    path = public("../cases/12/seeds.csv")
    with pytest.raises(InputError, match=r"line 3: .*give each seed a run_id of its own"):
        Observations.from_csv(path)


def test_seeds_of_one_configuration_are_kept(csv):
    text = "run_id,N,D,L\ns0,1e8,2e9,3.50\ns1,1e8,2e9,3.51\ns2,1e8,2e9,3.50\nb,2e8,4e9,3.2\n"
    obs = csv(text, **SIX)
    assert (len(obs), len(obs.notes)) == (4, 1)


def search() -> str:
    """Three configurations with five learning rates each, the third the best."""
    lines = ["N,D,L,lr"]
    for N, D in ((1e8, 2e9), (2e8, 4e9), (4e8, 8e9)):
        lines += [f"{N!r},{D!r},{float(LAW(N, D)) + 0.01 * abs(k - 2)!r},{k}" for k in range(5)]
    return "\n".join(lines) + "\n"


def test_many_losses_of_one_N_and_D_name_best_and_best_keeps_the_lowest(csv):
    obs = csv(search(), **SIX)
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


# ------------------------------------------------------------------ units, row by row


def test_three_rows_in_another_unit_are_refused_by_line():
    path = public("../cases/02/runs.csv")
    with pytest.raises(InputError, match=r"runs.csv lines 7, 11 and 49: .*D looks like thousands"):
        Observations.from_csv(path)


def grid(n: int = 12) -> dict[str, np.ndarray]:
    N = np.geomspace(1e8, 1e10, n)
    D = 20 * N * np.tile([0.5, 1.0, 2.0], n)[:n]
    return {"C": 6 * N * D, "N": N, "D": D, "L": LAW(N, D)}


@pytest.mark.parametrize(
    ("column", "factor", "what"),
    [("N", 1e-6, "N looks like millions"), ("D", 1e-9, "D looks like billions"),
     ("D", 1e-3, "D looks like thousands"), ("C", 1 / 8.64e19, "C looks like PFLOP/s-days")],
)  # fmt: skip
def test_one_row_in_another_unit_is_refused_with_the_unit(column, factor, what):
    columns = grid()
    columns[column] = columns[column] * np.where(np.arange(12) == 7, factor, 1)
    with pytest.raises(InputError, match=rf"the frame row 7: .*{what}"):
        Observations.of(**columns)


def test_a_row_in_another_unit_is_seen_where_C_is_derived():
    columns = grid()
    del columns["C"]
    columns["D"] = columns["D"] * np.where(np.arange(12) == 7, 1e-9, 1)
    with pytest.raises(InputError, match=r"the frame row 7: D/N is .* D looks like"):
        Observations.of(**columns)


def test_one_perplexity_among_losses_is_refused_by_row():
    columns = grid()
    columns["L"] = np.where(np.arange(12) == 7, 31.0, columns["L"])
    with pytest.raises(InputError, match="the frame row 7: L=31 is no loss"):
        Observations.of(**columns)


def test_a_factor_of_ten_in_one_row_is_a_note():
    columns = grid()
    assert Observations.of(**columns).notes == ()
    columns["D"] = columns["D"] * np.where(np.arange(12) == 7, 10, 1)
    (note,) = Observations.of(**columns).notes
    assert note.startswith("row 7: 6*N*D/C is 10, and 1 in the median")


# ------------------------------------------------------------------ budgets


def sweep(budgets, jitter=0.0, n_sizes=5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    C = np.repeat(np.asarray(budgets, float), n_sizes)
    N = 0.6 * (C / 6) ** 0.45 * np.tile(np.geomspace(0.25, 4, n_sizes), len(budgets))
    C = C * (1 + jitter * rng.uniform(-1, 1, len(C)))
    return {"C": C, "N": N, "D": C / (6 * N), "L": LAW(N, C / (6 * N))}


@pytest.mark.parametrize("jitter", [0.0, 0.008])
def test_equal_C_forms_budgets_where_none_is_named(jitter):
    obs = Observations.of(**sweep([1e18, 1e19, 1e20], jitter))
    np.testing.assert_array_equal(obs.budget_flops, np.repeat([1e18, 1e19, 1e20], 5))
    assert "15 of 15 runs end at 3 values of C to within 2%" in obs.notes[0]


def test_a_table_that_names_a_budget_gets_no_others():
    columns = sweep([1e18, 1e19])
    named = np.where(columns["C"] == 1e18, 1e18, np.nan)
    obs = Observations.of(**columns, budget_flops=named)
    np.testing.assert_array_equal(obs.budget_flops, named)
    assert obs.notes == ()


@pytest.mark.parametrize(
    "columns",
    [
        grid(24),
        sweep([1e18, 1e19, 1e20], n_sizes=2),
        sweep(np.geomspace(1e18, 1e19, 150), n_sizes=1),
        sweep([1e18, 1e19], jitter=0.1),
    ],
    ids=["24 different C", "two sizes", "close together", "spread"],
)
def test_what_is_no_clear_group_is_no_budget(columns):
    obs = Observations.of(**columns)
    assert np.isnan(obs.budget_flops).all()
    assert obs.notes == ()


def test_runs_drawn_anywhere_form_no_budget_by_chance():
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


def test_the_public_table_without_budgets_gets_its_nine():
    obs = Observations.from_csv(public("isoflop_without_budget_column.csv"), **SIX)
    assert len(np.unique(obs.budget_flops)) == 9
    np.testing.assert_array_equal(obs.budget_flops, obs.C)


def test_what_was_inferred_survives_our_own_file(tmp_path):
    columns = sweep([1e18, 1e19])
    obs = Observations.of(**{name: np.append(x, x[0]) for name, x in columns.items()})
    obs.save(tmp_path / "o.csv")
    again = Observations.from_csv(tmp_path / "o.csv")
    for name in (*COLUMNS, *OPTIONAL):
        np.testing.assert_array_equal(getattr(again, name), getattr(obs, name))


# ------------------------------------------------------------------ time


def test_twenty_thousand_rows_take_a_second_at_most(csv):
    """Suffixes, decimal commas and a copy of every row: the slow way through."""
    rng = np.random.default_rng(0)
    N, ratio = 10 ** rng.uniform(8, 10, 10_000), 10 ** rng.uniform(0, 2, 10_000)
    rows = [
        f"r{i};{n / 1e6:.4f}M;{r * n / 1e9:.6f}B;{L:.8f}".replace(".", ",")
        for i, (n, r, L) in enumerate(zip(N, ratio, LAW(N, ratio * N), strict=True))
    ]
    text = "run_id;params;tokens;loss\n" + "\n".join(rows * 2) + "\n"
    start = time.process_time()
    obs = csv(text, **SIX)
    assert time.process_time() - start < 1.0
    np.testing.assert_allclose(obs.N, N, rtol=1e-4)


# ------------------------------------------------------------------ properties

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
    """Some runs of equal C, so that budgets form; a curve where two rows have one run_id."""
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

    told = read(lines, "run_id,C,N,D,L")
    shuffled = random.sample(lines, len(lines))
    wider = [f"{line},{random.random()},x{k}" for k, line in enumerate(shuffled)]
    for other in (
        read(shuffled, "run_id,C,N,D,L"),
        read(wider, "run_id,C,N,D,L,learning rate,remark"),
    ):
        if isinstance(told, str) or isinstance(other, str):
            assert told == other
            continue
        one, two = (np.lexsort((x.D, x.run_id)) for x in (told, other))
        for name in (*COLUMNS, *OPTIONAL):
            np.testing.assert_array_equal(getattr(told, name)[one], getattr(other, name)[two])

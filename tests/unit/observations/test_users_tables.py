"""Tables as other programs write them: names, units, numbers, comments."""

import io
from pathlib import Path

import numpy as np
import pytest
from public_data import public

from chinchilla import cli
from chinchilla.core.errors import InputError
from chinchilla.fit.loss_law import named_law
from chinchilla.observations.column_names import SYNONYMS
from chinchilla.observations.table import Observations

LAW = named_law("hoffmann")
SIX = {"flop_convention": "six_nd"}


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
    assert (obs.n_convention, obs.loss_kind) == ("non_embedding", "validation")
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
    assert obs.loss_kind == "validation"


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

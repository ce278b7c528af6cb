"""Files of other programs: encodings, delimiters, comments, conventions; errors name the line."""

import bz2
import gzip
import io
import lzma
import tracemalloc

import numpy as np
import pytest
from public_data import public
from tables import BUDGET_RUNS, HEADER, RUNS, SIX_ND, assert_same_runs

from chinchilla.core.errors import InputError, clean
from chinchilla.core.units import CONVENTIONS
from chinchilla.observations import Observations
from chinchilla.observations.columns import COLUMNS
from chinchilla.observations.read_table import read_csv


def assert_same_columns(a: Observations, b: Observations) -> None:
    for name in (*COLUMNS, *CONVENTIONS):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_plain_csv(csv):
    obs = csv(BUDGET_RUNS)
    assert list(obs.run_id) == ["a", "b"]
    assert obs.C.tolist() == [1e18, 2e18]
    assert obs.budget_flops[0] == 1e18
    assert np.isnan(obs.budget_flops[1])
    assert obs.flop_convention == "unknown"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + BUDGET_RUNS,
        BUDGET_RUNS.replace("\n", "\r\n"),
        "# measured in spring\n\n" + BUDGET_RUNS.replace("b,", "# one more remark\n\nb,"),
        BUDGET_RUNS.replace("run_id,budget_flops", " run_id , budget_flops "),
        BUDGET_RUNS.replace("a,1e18,", " a , 1e18 , "),
        BUDGET_RUNS.removesuffix("\n"),
        BUDGET_RUNS.replace("b,,", "b,nan,"),
        BUDGET_RUNS.replace("L\n", "L,\n").replace("3.5\n", "3.5,\n"),
    ],
    ids=["BOM", "CRLF", "comments", "spaces in header", "spaces", "no last newline", "nan budget",
         "trailing comma"],
)  # fmt: skip
def test_equivalent_files(csv, text):
    assert_same_columns(csv(text), csv(BUDGET_RUNS))


def test_columns_in_any_order_among_others(csv):
    shuffled = (
        "L,note,D,N,C,run_id,budget_flops\n3.5,x,1.7e9,1e8,1e18,a,1e18\n3.2,,1.7e9,2e8,2e18,b,\n"
    )
    assert_same_columns(csv(shuffled), csv(BUDGET_RUNS))


@pytest.mark.parametrize("delimiter", ["\t", ";"])
def test_other_delimiters(csv, delimiter):
    assert_same_columns(csv(BUDGET_RUNS.replace(",", delimiter)), csv(BUDGET_RUNS))


def test_unique_tokens_may_be_empty(csv):
    header = HEADER.replace("L\n", "L,Unique\n")
    obs = csv(header + "a,1e18,1e18,1e8,1.7e9,3.5,1e8\nb,,2e18,2e8,1.7e9,3.2,\n")
    np.testing.assert_array_equal(obs.unique_tokens, [1e8, np.nan])
    with pytest.raises(InputError, match="line 2: unique_tokens=0 is not a positive"):
        csv(header + "a,1e18,1e18,1e8,1.7e9,3.5,0\n")


def test_budgets_may_be_missing(csv):
    assert np.isnan(csv("C,N,D,L\n1e18,1e8,1.7e9,3.5\n").budget_flops).all()


def test_runs_without_run_id_are_numbered(csv):
    obs = csv(BUDGET_RUNS.replace("run_id,", "").replace("a,", "").replace("b,", ""))
    assert list(obs.run_id) == ["run0000", "run0001"]
    assert obs.N.tolist() == [1e8, 2e8]


def test_a_stated_convention_takes_precedence_over_the_file(csv):
    text = "run_id,budget_flops,C,N,D,L,flop_convention\na,,6e18,1e9,1e9,3,six_nd\n"
    assert csv(text).flop_convention == "six_nd"
    assert csv(text, flop_convention="paper").flop_convention == "paper"
    assert csv(text, n_convention="non_embedding").n_convention == "non_embedding"


def test_two_conventions_in_one_table_are_refused(csv):
    text = "run_id,budget_flops,C,N,D,L,flop_convention\na,,6e18,1e9,1e9,3,six_nd\nb,,6e18,2e9,1e9,2,paper\n"
    with pytest.raises(
        InputError, match="line 3: flop_convention=paper, but six_nd in earlier rows"
    ):
        csv(text)


@pytest.mark.parametrize(
    ("name", "stated"),
    [("flop_convention", "6nd"), ("n_convention", "all"), ("loss_kind", "valid")],
)
def test_an_unknown_convention_is_refused(csv, name, stated):
    text = BUDGET_RUNS.replace("L\n", f"L,{name}\n").replace("3.5\n", f"3.5,{stated}\n")
    with pytest.raises(InputError, match=rf"line 2: {name}='{stated}': choose one of unknown"):
        csv(text.replace("3.2\n", f"3.2,{stated}\n"))
    with pytest.raises(InputError, match=f"{name}='{stated}': choose one of unknown"):
        csv(BUDGET_RUNS, **{name: stated})


def test_the_former_name_of_validation_is_refused_with_its_new_name(csv):
    text = BUDGET_RUNS.replace("L\n", "L,loss_kind\n").replace("3.5\n", "3.5,heldout\n")
    with pytest.raises(InputError, match="line 2: loss_kind=heldout is called validation"):
        csv(text.replace("3.2\n", "3.2,heldout\n"))


def test_line_numbers_include_comments_and_empty_lines(csv):
    with pytest.raises(InputError, match=r"line 6: L=x|line 6: L='x'"):
        csv("# remark\n\n" + HEADER + "# remark\n\nb,,2e18,2e8,1.7e9,x\n")


def test_a_short_row_is_refused(csv):
    with pytest.raises(InputError, match="line 4: fewer values than the 6 columns"):
        csv(BUDGET_RUNS + "c,,3e18,1e9\n")


def test_a_long_row_is_refused(csv):
    """1,700,000,000 would be read as D=1 and L=700."""
    with pytest.raises(InputError, match=r"line 4: more values than the 6 columns"):
        csv(BUDGET_RUNS + "c,,3e18,1e9,1,700,000,000,3.1\n")


@pytest.mark.parametrize("run_id", ["", "  ", '""'])
def test_an_empty_run_id_is_refused(csv, run_id):
    with pytest.raises(InputError, match=r"line 4: run_id is empty"):
        csv(BUDGET_RUNS + f"{run_id},,3e18,1e9,5e8,3\n")


@pytest.mark.parametrize("text", ["", "\n\n", "# only remarks\n", "\ufeff"])
def test_an_empty_file_is_reported_with_the_expected_columns(csv, text):
    with pytest.raises(InputError, match=r"\(found none\).*run_id,budget_flops,C,N,D,L"):
        csv(text)


def test_a_header_alone_is_refused(csv):
    with pytest.raises(InputError, match="no runs, only a header"):
        csv(HEADER)


@pytest.mark.parametrize(
    "content",
    [
        BUDGET_RUNS.encode("utf-16")[:-1],
        BUDGET_RUNS.encode("utf-16-le"),
        BUDGET_RUNS.encode() + b"caf\xe9",
        b"PK\x03\x04\x14\x00\x06\x00",
    ],
    ids=["half a character", "UTF-16 without a mark", "Latin-1", "spreadsheet"],
)
def test_a_file_that_is_not_utf8_text_is_refused(csv, content):
    with pytest.raises(InputError, match=r"observations=.*runs.csv is not a text file in UTF-8"):
        csv(content)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (gzip.compress(BUDGET_RUNS.encode()), "gzip"),
        (lzma.compress(BUDGET_RUNS.encode()), "xz"),
        (bz2.compress(BUDGET_RUNS.encode()), "bzip2"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "zstd"),
    ],
    ids=["gzip", "xz", "bzip2", "zstd"],
)
def test_a_compressed_file_is_recognised(csv, content, name):
    with pytest.raises(InputError, match=rf"runs.csv is compressed \({name}\). Decompress it"):
        csv(content)


def test_an_unclosed_quote_is_reported_by_line(csv):
    with pytest.raises(
        InputError, match=r"is not a valid CSV from line 4 on .*field larger.* quote"
    ):
        csv(BUDGET_RUNS + '"' + "x" * 200_000)
    with pytest.raises(
        InputError, match=r"is not a valid CSV from line 3 on .*unexpected end.* quote"
    ):
        csv(BUDGET_RUNS.replace("\nb,", '\n"b,'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BUDGET_RUNS + '"' + "\n" * 4 + "x,1,2,3,4,5\n" * 200_000, "from line 4 on .*field larger"),
        (",".join(f"c{i}" for i in range(300_000)) + "\n", "the header has over 10,000 columns"),
    ],
    ids=["unclosed quote", "wide"],
)
def test_an_invalid_file_is_refused_with_memory_in_proportion_to_it(tmp_path, text, message):
    path = tmp_path / "large.csv"
    path.write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message):
            read_csv(path, "observations")
        assert tracemalloc.get_traced_memory()[1] < 20 * len(text)
    finally:
        tracemalloc.stop()


def test_a_row_takes_memory_in_proportion_to_its_text(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + "".join(f"run{i},1e18,1e18,1e9,{i}e8,3\n" for i in range(1, 10_001)))
    tracemalloc.start()
    try:
        assert len(read_csv(path, "observations")) == 10_000
        assert tracemalloc.get_traced_memory()[1] / 10_000 < 600
    finally:
        tracemalloc.stop()


def test_a_run_id_shows_only_characters_in_every_output(csv, tmp_path):
    obs = csv(RUNS.replace("\na,", "\n\x1b[31mRED\u202e\x9b\x07,"))
    assert obs.run_id[0] == "RED"
    obs.save(tmp_path / "observations.csv")
    assert (
        clean((tmp_path / "observations.csv").read_text(), lines=True).splitlines()
        == (tmp_path / "observations.csv").read_text().splitlines()
    )


def test_run_ids_that_become_equal_are_refused(csv):
    with pytest.raises(InputError, match=r"line 3: its run_id differs from that of line 2 only in"):
        csv(RUNS.replace("\na,", "\nb\x07,"))


def test_a_long_value_is_truncated(csv):
    for value, problem in (("9" * 20_000, "positive"), ("1 x" * 9_000, "number")):
        with pytest.raises(InputError, match=f"is not a {problem}") as refused:
            csv(RUNS + f"z,1e18,1e9,{value},3\n")
        assert len(str(refused.value)) < 500


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"observations=.*none.csv cannot be read .*No such file"):
        Observations.from_csv(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"cannot be read .*directory"):
        Observations.from_csv(tmp_path)


def test_a_table_of_runs_of_weights_and_biases(csv):
    text = (
        '"Name","State","Notes","Runtime","n_params","tokens","total_flops","loss/val","eval/acc"\n'
        '"sage-sun-1","finished","-","3600","100000000","2000000000","1.2e18","3.5","NaN"\n'
        '"sage-sun-2","finished","-","7200","200000000","4000000000","4.8e18","3.2","Infinity"\n'
    )
    obs = csv(text)
    assert_same_runs(obs, csv(RUNS))
    assert list(obs.run_id) == ["sage-sun-1", "sage-sun-2"]
    assert obs.loss_kind == "validation"


def test_a_name_column_with_repeats_is_not_run_id(csv):
    """Two models of one name are two runs, and no curve."""
    obs = csv(RUNS.replace("run_id", "name").replace("b,", "a,"))
    assert list(obs.run_id) == ["run0000", "run0001"]


def test_a_file_of_numpy_savetxt(csv):
    x = np.array([[1.2e18, 1e8, 2e9, 3.5], [4.8e18, 2e8, 4e9, 3.2]])
    for delimiter in (",", "\t"):
        out = io.StringIO()
        np.savetxt(out, x, delimiter=delimiter, header=delimiter.join("CNDL"))
        assert_same_runs(csv("# from run 7\n" + out.getvalue()), csv(RUNS))


def test_files_and_frames_of_pandas(csv, tmp_path):
    pandas = pytest.importorskip("pandas")
    df = pandas.DataFrame(
        {"params": [10**8, 2 * 10**8], "tokens": [2 * 10**9, 4 * 10**9], "final_loss": [3.5, 3.2]}
    )
    for text in (df.to_csv(), df.reset_index().to_csv(), df.to_csv(sep=";")):
        assert_same_runs(csv(text, **SIX_ND), csv(RUNS))
    assert_same_runs(Observations.from_frame(df), csv(RUNS))
    df["name of run"] = ["a", "b"]
    named = df.set_index("name of run").rename_axis("run_id")
    assert list(Observations.from_frame(named).run_id) == ["a", "b"]
    twice = pandas.concat([df, df], ignore_index=True)
    assert len(Observations.from_frame(twice.reset_index())) == 2  # row numbers are ignored


def test_a_comment_that_may_be_a_run_is_refused(csv):
    """A run whose name starts with #, also with a wrong value, or a run that was commented out."""
    header, *rows = RUNS.splitlines(keepends=True)
    prose = "# lr 3e-4, seed 1, N, D, L\n"
    for line in (rows[1], rows[1].rpartition(",")[0] + ",diverged\n"):
        with pytest.raises(InputError, match=r"runs.csv lines 4 and 5: # begins a comment.*quotes"):
            csv(prose + header + rows[0] + f"#{line}#{line}")
    assert list(csv(header + f'"#a"{rows[0][1:]}' + "# a, b, c, d, e\n").run_id) == ["#a"]


def test_a_run_id_that_starts_with_a_hash_survives_save(csv, tmp_path):
    obs = csv(RUNS.replace("b,", '"#b",'))
    obs.save(tmp_path / "o.csv")
    again = Observations.from_csv(tmp_path / "o.csv")
    assert (list(again.run_id), again.notes) == (["a", "#b"], ())


def test_a_commented_number_is_not_a_row(csv):
    text = "C,N,D,L\n1.2e18,1e8,2e9,3.5\n#4.8e18,2e8,4e9,3.2\n"
    assert len(csv(text)) == 1


def test_a_table_with_twenty_hashed_run_ids():
    with pytest.raises(InputError, match=r"lines 2, 5, \d+, \d+, \d+ and 15 more: # begins"):
        Observations.from_csv(public("../cases/01/runs.csv"))
    assert len(Observations.from_csv(public("../cases/01/runs_without_hash.csv"))) == 60

"""Other people's tables: what can be read is read, the rest is refused by file, line and column."""

import numpy as np
import pytest

from chinchilla.core.errors import InputError
from chinchilla.observations.read_table import COLUMNS, CONVENTIONS
from chinchilla.observations.table import Observations

HEADER = "run_id,budget_flops,C,N,D,L\n"
GOOD = HEADER + "a,1e18,1e18,1e8,1.7e9,3.5\nb,,2e18,2e8,1.7e9,3.2\n"


def same(a: Observations, b: Observations) -> None:
    for name in (*COLUMNS, *CONVENTIONS):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_unique_tokens_may_stand_in_a_csv_and_be_empty(csv):
    header = HEADER.replace("L\n", "L,Unique\n")
    obs = csv(header + "a,1e18,1e18,1e8,1.7e9,3.5,1e8\nb,,2e18,2e8,1.7e9,3.2,\n")
    np.testing.assert_array_equal(obs.unique_tokens, [1e8, np.nan])
    with pytest.raises(InputError, match="line 2: unique_tokens=0 is not a positive"):
        csv(header + "a,1e18,1e18,1e8,1.7e9,3.5,0\n")


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
    assert csv(text, n_convention="non_embedding").n_convention == "non_embedding"


def test_rows_counted_in_two_ways_are_not_read_as_one(csv):
    text = "run_id,budget_flops,C,N,D,L,flop_convention\na,,6e18,1e9,1e9,3,six_nd\nb,,6e18,2e9,1e9,2,paper\n"
    with pytest.raises(InputError, match="line 3: flop_convention=paper, but six_nd before"):
        csv(text)


@pytest.mark.parametrize("missing", ["C", "N", "D", "L"])
def test_a_missing_column_is_named_beside_those_found(csv, missing):
    kept = [c for c in COLUMNS if c != missing]
    with pytest.raises(InputError, match=rf"no column {missing} \(found {', '.join(kept)}\)"):
        csv(",".join(kept) + "\na,1,2,3,4\n")


@pytest.mark.parametrize("column", ["C", "N", "D", "L"])
@pytest.mark.parametrize(
    ("value", "why"),
    [("nan", "not a positive finite"), ("-1", "not a positive finite"), ("0", "not a positive"),
     ("inf", "not a positive finite"), ("1e400", "not a positive finite"), ("", "is not a number"),
     ("7 zillion", "is not a number"), ("0x10", "is not a number")],
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
    with pytest.raises(InputError, match="line 4: 4 values for the 6 columns"):
        csv(GOOD + "c,,3e18,1e9\n")


def test_a_thousands_separator_shifts_no_numbers(csv):
    """1,700,000,000 would be read as D=1 and L=700."""
    with pytest.raises(InputError, match=r"line 4: more values than the 6 columns"):
        csv(GOOD + "c,,3e18,1e9,1,700,000,000,3.1\n")


def test_a_column_that_occurs_twice_is_refused(csv):
    with pytest.raises(InputError, match="the column L occurs twice"):
        csv("run_id,budget_flops,C,N,D,L,L\na,,1,2,3,4,5\n")


def test_one_run_at_one_D_with_two_losses_asks_for_a_name_for_each_seed(csv):
    with pytest.raises(
        InputError,
        match=r"line 4: the same run as line 2 .*narrow every.*give each seed a run_id of its own",
    ):
        csv(GOOD + "a,1e18,1.1e18,1e8,1.7e9,3.4\n")


def test_one_run_at_one_D_with_another_C_is_refused(csv):
    with pytest.raises(InputError, match=r"line 4: the same run as line 2 .*narrow every interval"):
        csv(GOOD + "a,1e18,1.1e18,1e8,1.7e9,3.5\n")


def test_points_along_one_run_are_no_duplicates(csv):
    assert csv(GOOD + "a,1e18,5e17,1e8,8.5e8,3.9\n").has_curves


@pytest.mark.parametrize("run_id", ["", "  ", '""'])
def test_a_run_needs_a_name(csv, run_id):
    with pytest.raises(InputError, match=r"line 4: run_id is empty"):
        csv(GOOD + f"{run_id},,3e18,1e9,5e8,3\n")


@pytest.mark.parametrize("text", ["", "\n\n", "# only remarks\n", "\ufeff"])
def test_an_empty_file_says_what_a_csv_of_runs_has(csv, text):
    with pytest.raises(InputError, match=r"\(found none\).*run_id,budget_flops,C,N,D,L"):
        csv(text)


def test_a_header_alone_is_no_run(csv):
    with pytest.raises(InputError, match="no runs, only a header"):
        csv(HEADER)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (GOOD.encode("utf-16")[:-1], "is damaged UTF-16 text: save it as UTF-8"),
        (GOOD.encode("utf-16-le"), "holds NUL bytes"),
        (GOOD.encode() + b"caf\xe9", r"byte \d+ is not UTF-8"),
        (b"\x00\x01\x02", "holds NUL bytes"),
        (b"PK\x03\x04rest", "is a spreadsheet or a zip: export"),
        (b"\x1f\x8b\x08rest", "is compressed: unpack"),
        (b"PAR1rest", "is a Parquet file"),
    ],
)
def test_what_is_not_utf8_text_is_refused_by_what_it_is(csv, content, why):
    with pytest.raises(InputError, match=f"observations=.*runs.csv .*{why}"):
        csv(content)


def test_a_field_without_end_is_refused(csv):
    with pytest.raises(InputError, match=r"is not a CSV from line 4 on .*field larger.* quote"):
        csv(GOOD + '"' + "x" * 200_000)
    with pytest.raises(InputError, match=r"is not a CSV from line 3 on .*unexpected end.* quote"):
        csv(GOOD.replace("\nb,", '\n"b,'))


def test_a_run_without_name_column_is_numbered(csv):
    obs = csv(GOOD.replace("run_id,", "").replace("a,", "").replace("b,", ""))
    assert list(obs.run_id) == ["run0000", "run0001"]
    assert obs.N.tolist() == [1e8, 2e8]


def test_budgets_may_be_missing(csv):
    assert np.isnan(csv("C,N,D,L\n1e18,1e8,1.7e9,3.5\n").budget_flops).all()


@pytest.mark.parametrize("delimiter", ["\t", ";"])
def test_tabs_and_semicolons_separate_too(csv, delimiter):
    same(csv(GOOD.replace(",", delimiter)), csv(GOOD))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("run_id,budget_flops,C,N,D,L,loss", "the columns L and loss both give L. Rename one"),
        (
            "run_id,budget_flops,C,params,D,L,Parameters",
            "columns params and Parameters both give N",
        ),
        ("run_id,budget_flops,C,N,D,L,Run", "the columns run_id and Run both give run_id"),
        ("run_id,budget_flops,C,N,D,L,tokens", "the columns D and tokens both give D"),
        ("run_id,budget_flops,C,N,D,loss,loss", "the column loss occurs twice"),
    ],
)
def test_two_names_of_one_column_are_refused(csv, header, why):
    with pytest.raises(InputError, match=why):
        csv(header + "\na,,1e18,1e8,1.7e9,3.5,3.5\n")


def test_small_letters_are_other_peoples_columns(csv):
    """l, d and n are layers and widths as often as losses and tokens."""
    text = GOOD.replace("D,L\n", "D,L,l,d,n\n").replace("3.5\n", "3.5,12,768,1\n")
    same(csv(text.replace("3.2\n", "3.2,24,1024,2\n")), csv(GOOD))


@pytest.mark.parametrize("missing", ["C", "N", "D"])
def test_one_of_C_N_D_follows_from_the_others_where_C_is_6ND(csv, missing):
    values = {"C": "6e17", "N": "1e8", "D": "1e9", "L": "3.5"}
    given = {name: text for name, text in values.items() if name != missing}
    text = ",".join(given) + "\n" + ",".join(given.values()) + "\n"
    obs = csv(text, flop_convention="six_nd")
    assert getattr(obs, missing)[0] == pytest.approx(float(values[missing]), rel=1e-15)
    assert f"the table gives no {missing}" in obs.notes[0]
    with pytest.raises(InputError, match=f"With flop_convention=six_nd, {missing} is computed"):
        csv(text)


@pytest.mark.parametrize(
    ("name", "stated"),
    [("flop_convention", "6nd"), ("n_convention", "all"), ("loss_kind", "valid")],
)
def test_a_convention_must_be_a_known_one(csv, name, stated):
    text = GOOD.replace("L\n", f"L,{name}\n").replace("3.5\n", f"3.5,{stated}\n")
    with pytest.raises(InputError, match=rf"line 2: {name}='{stated}': choose one of unknown"):
        csv(text.replace("3.2\n", f"3.2,{stated}\n"))
    with pytest.raises(InputError, match=f"{name}='{stated}': choose one of unknown"):
        csv(GOOD, **{name: stated})


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"observations=.*none.csv cannot be read .*No such file"):
        Observations.from_csv(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"cannot be read .*directory"):
        Observations.from_csv(tmp_path)


# ------------------------------------------------------------------ units


def table(C, N, D, L) -> str:
    """Four runs about these values, as a CSV."""
    rows = [
        f"{C * k!r},{N * k**0.5!r},{D * k**0.5!r},{L / k**0.05!r}" for k in (1.0, 2.0, 4.0, 8.0)
    ]
    return "C,N,D,L\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("C", "N", "D", "L", "why"),
    [
        (8.4e18, 70, 2e10, 3, r"6\*N\*D/C is 1e-06 in the median: N looks like millions"),
        (5.9e23, 70, 1.4e12, 3, "N looks like billions"),
        (8.4e18, 7e7, 20, 3, "D looks like billions"),
        (8.4e18, 7e7, 2e4, 3, "D looks like millions"),
        (5.9e23, 70, 1.4, 3, "N looks like billions and D looks like trillions"),
        (8.4e18 / 8.64e19, 7e7, 2e10, 3, "C looks like PFLOP/s-days"),
        (8.4, 7e7, 2e10, 3, "C looks like EFLOPs"),
        (8.4e18, 7e7, 2e10, 22, "L=22 is no loss in nats per token: it looks like perplexity"),
    ],
)
def test_a_slip_of_units_is_named(csv, C, N, D, L, why):
    with pytest.raises(InputError, match=f"runs.csv: .*{why}"):
        csv(table(C, N, D, L))


@pytest.mark.parametrize(("N", "D"), [(70, 1400), (70, 1.4e9), (7e7, 1.4)])
def test_a_slip_of_units_is_seen_even_where_C_is_derived(csv, N, D):
    text = f"N,D,L\n{N},{D},3\n{2 * N},{2 * D},2.9\n"
    with pytest.raises(InputError, match=r"looks like millions or billions"):
        csv(text, flop_convention="six_nd")


def test_another_way_of_counting_is_a_note_and_no_error(csv):
    assert csv(table(8.4e18, 7e7, 2e10, 3)).notes == ()
    (note,) = csv(table(8.4e18, 2e7, 2e10, 3)).notes
    assert "6*N*D/C is 0.29 in the median" in note


def test_an_untrained_point_of_a_curve_may_lose_more_than_a_final_loss(csv):
    assert csv("run_id,C,N,D,L\na,6e17,1e8,1e9,3\na,6e14,1e8,1e6,25\n").has_curves

"""Numbers with suffixes and thousands separators; ambiguous ones are refused."""

import pytest
from tables import BUDGET_RUNS, RUNS, SIX_ND

from chinchilla.core.errors import InputError
from chinchilla.observations.columns import COLUMNS


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1B", 1e9), ("20M", 2e7), ("1T", 1e12), ("1.5e9", 1.5e9), ("300000k", 3e8), ("2.4G", 2.4e9),
        ("2.4 B", 2.4e9), ("0.4bn", 4e8), ("410 million", 4.1e8), ('"1,500,000,000"', 1.5e9),
        ("1 500 000 000", 1.5e9), ("1\u202f500\u202f000\u202f000", 1.5e9), ("1'500'000'000", 1.5e9),
        ('"1,500,000.5"', 1500000.5), ("1_000_000_000", 1e9),
        ('"1e9"', 1e9), ("+1E+9", 1e9),
    ],
)  # fmt: skip
def test_notations_of_counts(csv, text, value):
    obs = csv(f"N,D,L\n{text},{value * 20!r},3\n{2 * value!r},{value * 30!r},2.9\n", **SIX_ND)
    assert obs.N[0] == value


def test_a_loss_has_no_suffix(csv):
    with pytest.raises(InputError, match="line 2: L='3k' is not a number"):
        csv(RUNS.replace("3.5", "3k"))


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        (RUNS.replace("1e8", '"1,000"'), "N='1,000'"),
        (RUNS.replace(",", ";").replace("3.5", "3,5"), "L='3,5'"),
        (RUNS.replace("2e9", "2.000.000.000"), "D='2.000.000.000'"),
    ],
)  # fmt: skip
def test_decimal_commas_and_ambiguous_numbers_are_refused(csv, text, cell):
    with pytest.raises(
        InputError, match=rf"line 2: {cell} is not a number\. Write .* decimal point"
    ):
        csv(text)


@pytest.mark.parametrize("column", ["C", "N", "D", "L"])
@pytest.mark.parametrize(
    ("value", "why"),
    [("nan", "not a positive finite"), ("-1", "not a positive finite"), ("0", "not a positive"),
     ("inf", "not a positive finite"), ("1e400", "not a positive finite"), ("", "is not a number"),
     ("7 zillion", "is not a number"), ("0x10", "is not a number")],
)  # fmt: skip
def test_an_invalid_number_is_reported_by_line_and_column(csv, column, value, why):
    row = {"run_id": "c", "budget_flops": "", "C": "3e18", "N": "1e9", "D": "5e8", "L": "3"}
    row[column] = value
    with pytest.raises(InputError, match=rf"runs.csv line 4: {column}=.*{why}"):
        csv(BUDGET_RUNS + ",".join(row[c] for c in COLUMNS) + "\n")


@pytest.mark.parametrize("value", ["0", "-1e18", "inf", "big"])
def test_a_budget_may_be_empty_but_not_invalid(csv, value):
    with pytest.raises(InputError, match=rf"line 2: budget_flops='?{value}'? is not a"):
        csv(BUDGET_RUNS.replace("a,1e18,", f"a,{value},"))


def test_a_run_without_a_loss_is_refused_with_advice(csv):
    with pytest.raises(InputError, match=r"line 2: L=NaN is not a positive finite number\. Leave"):
        csv(RUNS.replace("3.5", '"NaN"'))
    with pytest.raises(InputError, match=r"line 3: L='' is not a number\. Leave"):
        csv(RUNS.replace("3.2", ""))

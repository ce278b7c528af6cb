"""Wrong units are refused with the likely unit, in the whole table or by line."""

import numpy as np
import pytest
from public_data import public
from tables import distinct_runs

from chinchilla.core.errors import InputError
from chinchilla.observations import Observations


def four_runs(C, N, D, L) -> str:
    """Four runs about these values, as a CSV."""
    rows = [
        f"{C * k!r},{N * k**0.5!r},{D * k**0.5!r},{L / k**0.05!r}" for k in (1.0, 2.0, 4.0, 8.0)
    ]
    return "C,N,D,L\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("C", "N", "D", "L", "why"),
    [
        (8.4e18, 70, 2e10, 3, r"the median of 6\*N\*D/C is 1e-06: N looks like millions"),
        (5.9e23, 70, 1.4e12, 3, "N looks like billions"),
        (8.4e18, 7e7, 20, 3, "D looks like billions"),
        (8.4e18, 7e7, 2e4, 3, "D looks like millions"),
        (5.9e23, 70, 1.4, 3, "N looks like billions and D looks like trillions"),
        (8.4e18 / 8.64e19, 7e7, 2e10, 3, "C looks like PFLOP/s-days"),
        (8.4, 7e7, 2e10, 3, "C looks like EFLOPs"),
        (8.4e18, 7e7, 2e10, 22, "L=22 is not a loss in nats per token: it looks like perplexity"),
    ],
)
def test_wrong_units_of_the_table_are_refused(csv, C, N, D, L, why):
    with pytest.raises(InputError, match=f"runs.csv: .*{why}"):
        csv(four_runs(C, N, D, L))


@pytest.mark.parametrize(("N", "D"), [(70, 1400), (70, 1.4e9), (7e7, 1.4)])
def test_wrong_units_are_found_when_C_is_derived(csv, N, D):
    text = f"N,D,L\n{N},{D},3\n{2 * N},{2 * D},2.9\n"
    with pytest.raises(InputError, match=r"looks like millions or billions"):
        csv(text, flop_convention="six_nd")


def test_an_unusual_count_is_a_note(csv):
    assert csv(four_runs(8.4e18, 7e7, 2e10, 3)).notes == ()
    (note,) = csv(four_runs(8.4e18, 2e7, 2e10, 3)).notes
    assert "median of 6*N*D/C is 0.29" in note


def test_only_final_losses_are_checked_for_perplexity(csv):
    assert csv("run_id,C,N,D,L\na,6e17,1e8,1e9,3\na,6e14,1e8,1e6,25\n").has_curves


def test_three_rows_in_another_unit_are_refused_by_line():
    path = public("../cases/02/runs.csv")
    with pytest.raises(InputError, match=r"runs.csv lines 7, 11 and 49: .*D looks like thousands"):
        Observations.from_csv(path)


@pytest.mark.parametrize(
    ("column", "factor", "what"),
    [("N", 1e-6, "N looks like millions"), ("D", 1e-9, "D looks like billions"),
     ("D", 1e-3, "D looks like thousands"), ("C", 1 / 8.64e19, "C looks like PFLOP/s-days")],
)  # fmt: skip
def test_one_row_in_another_unit_is_refused_with_the_unit(column, factor, what):
    columns = distinct_runs()
    columns[column] = columns[column] * np.where(np.arange(12) == 7, factor, 1)
    with pytest.raises(InputError, match=rf"the frame row 7: .*{what}"):
        Observations.of(**columns)


def test_a_row_in_another_unit_is_found_when_C_is_derived():
    columns = distinct_runs()
    del columns["C"]
    columns["D"] = columns["D"] * np.where(np.arange(12) == 7, 1e-9, 1)
    with pytest.raises(InputError, match=r"the frame row 7: D/N is .* D looks like"):
        Observations.of(**columns)


@pytest.mark.parametrize(("column", "factor"), [("D", 1e-3), ("N", 1e-3)])
def test_a_row_in_thousands_is_a_note_when_C_is_derived(column, factor):
    columns = distinct_runs()
    del columns["C"]
    columns[column] = columns[column] * np.where(np.arange(12) == 7, factor, 1)
    notes = Observations.of(**columns).notes
    assert any(n.startswith("row 7: D/N is ") and "Check N and D there" in n for n in notes)


def losses_of_a_law(n: int = 40) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    N, D = np.exp(draw.uniform(17, 22, n)), np.exp(draw.uniform(20, 25, n))
    L = (1.7 + 400 / N**0.34 + 410 / D**0.28) * np.exp(0.003 * draw.standard_normal(n))
    return {"C": 6 * N * D, "N": N, "D": D, "L": L}


@pytest.mark.parametrize("factor", [1 / np.log(2), np.log(2)])
@pytest.mark.parametrize("rows", [[3, 17, 20, 30], list(range(0, 40, 4))])
def test_losses_in_bits_among_losses_in_nats_are_refused_by_row(factor, rows):
    columns = losses_of_a_law()
    columns["L"][rows] *= factor
    with pytest.raises(
        InputError,
        match=rf"rows {rows[0]}.*ln 2 in {len(rows)} of 40 runs.*multiply them by 0.6931",
    ):
        Observations.of(**columns)


def test_a_few_losses_as_if_in_bits_are_a_note():
    """They may also come from runs with a bad learning rate."""
    columns = losses_of_a_law()
    columns["L"][[3, 17, 20]] /= np.log(2)
    (note,) = Observations.of(**columns).notes
    assert note.startswith("rows 3, 17 and 20: L differs")
    assert "in 3 of 40 runs" in note
    assert note.endswith("leave them out.")


@pytest.mark.parametrize("factor", [1 / np.log(2), 1.2, 2.0])
def test_one_unusual_loss_is_for_the_fit_to_judge(factor):
    columns = losses_of_a_law()
    columns["L"][3] *= factor
    assert Observations.of(**columns).notes == ()


def test_one_perplexity_among_losses_is_refused_by_row():
    columns = distinct_runs()
    columns["L"] = np.where(np.arange(12) == 7, 31.0, columns["L"])
    with pytest.raises(InputError, match="the frame row 7: L=31 is not a loss"):
        Observations.of(**columns)


def test_a_factor_of_ten_in_one_row_is_a_note():
    columns = distinct_runs()
    assert Observations.of(**columns).notes == ()
    columns["D"] = columns["D"] * np.where(np.arange(12) == 7, 10, 1)
    (note,) = Observations.of(**columns).notes
    assert note.startswith("row 7: 6*N*D/C is 10, the median of the table is 1.")


def test_a_budget_in_another_unit_is_refused():
    N = np.geomspace(1e8, 1e9, 6)
    with pytest.raises(InputError, match=r"the median of C / budget_flops is 1e\+18"):
        Observations.of(N=N, D=20 * N, L=3 - 0.1 * np.arange(6), budget_flops=6 * 20 * N**2 / 1e18)

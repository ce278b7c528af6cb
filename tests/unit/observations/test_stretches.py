"""Rows of runs: the same whether or not the rows of a run are stored together and in order."""

import numpy as np

from chinchilla.observations.stretches import final_of, rows_of_runs, run_numbers, six_digits

NAMES = np.array(["b", "b", "b", "a", "a", "c"], dtype=object)
D = np.array([1.0, 2.0, 3.0, 1.0, 5.0, 4.0])


def test_rows_of_runs_in_order_are_slices_by_name():
    assert rows_of_runs(NAMES, D) == [slice(3, 5), slice(0, 3), slice(5, 6)]


def test_shuffled_rows_give_the_same_points_of_each_run():
    order = np.random.default_rng(0).permutation(len(D))
    names, tokens = NAMES[order].astype(str), D[order]
    rows = rows_of_runs(names, tokens)
    assert [tokens[x].tolist() for x in rows] == [[1, 5], [1, 2, 3], [4]]
    assert tokens[final_of(run_numbers(names), tokens)].tolist() == [
        x for x in tokens if x in (5, 3, 4)
    ]


def test_no_rows():
    assert rows_of_runs(NAMES[:0], D[:0]) == []
    assert len(six_digits(D[:0])) == 0

"""The same runs counted in other ways: known shapes, Table A9 by size, Pearce and Song's relation."""

from dataclasses import replace

import numpy as np
import pytest

from chinchilla.config import FitCommand
from chinchilla.core.errors import FitError
from chinchilla.core.shapes import (
    flops_per_token,
    n_params,
    n_params_non_embedding,
    named_shapes,
    shape_named,
)
from chinchilla.diagnose.context import Context
from chinchilla.diagnose.conventions import (
    conventions,
    count_runs,
    local_exponent,
    non_embedding_from_total,
    total_from_non_embedding,
)
from chinchilla.fit import fit_all
from chinchilla.fit.loss_law import named_law

A9 = [s for name, s in named_shapes().items() if not name.endswith(("70b", "280b"))]


def context_of(obs, **more) -> Context:
    command = FitCommand(
        observations="r.csv", out_dir="f", approaches=["isoflop", "parametric"], n_bootstrap=0
    )
    return Context(obs, fit_all(obs, None, command), 1e23, 0, **more)


def rows_of(context: Context) -> dict[tuple[str, str], dict]:
    return {(r["N"], r["C"]): r for r in conventions(context).values["rows"]}


def test_pearce_and_songs_relation_inverts_and_describes_table_a9():
    """Within 5% of the exact count on all 50 rows (3% over 110M)."""
    n = np.geomspace(1e3, 1e12, 50)
    assert non_embedding_from_total(total_from_non_embedding(n)) == pytest.approx(n, rel=1e-5)
    exact = np.array([n_params_non_embedding(s) for s in A9], float)
    total = np.array([n_params(s) for s in A9], float)
    assert total_from_non_embedding(exact) == pytest.approx(total, rel=0.05)
    assert total_from_non_embedding(exact[5:]) == pytest.approx(total[5:], rel=0.03)


@pytest.mark.parametrize(("name", "printed"), [("hoffmann", 0.740), ("besiroglu", 0.775)])
def test_kaplans_exponent_follows_from_a_law_in_total_parameters(name, printed):
    """Pearce and Song: .74 to .78 over 768 to 1.5e9 parameters without embedding."""
    assert local_exponent(named_law(name), 768, 1.5e9) == pytest.approx(printed, abs=2e-3)


def test_the_local_exponent_is_the_slope_of_the_best_sizes(law):
    """Against a search: the best n at each C = 6 n D on a fine grid, around n = 1e8."""
    n = np.geomspace(1e6, 1e10, 200_001)
    N = total_from_non_embedding(n)
    C = np.geomspace(0.8, 1.25, 3)[[0, 2]] * 2e18
    best = [n[np.argmin(law(N, c / (6 * n)))] for c in C]
    slope = np.log(best[1] / best[0]) / np.log(C[1] / C[0])
    assert local_exponent(law, best[0], best[1]) == pytest.approx(slope, abs=3e-3)
    large = local_exponent(law, 1e20, 1e21)  # the embedding no longer counts
    assert large == pytest.approx(law.beta / (law.alpha + law.beta), abs=1e-4)


def test_shapes_of_a_sweep_are_counted_exactly(observe, law):
    names = ("64x4", "96x4", "128x5", "160x6", "192x6", "256x8")
    shapes = [shape_named(n, 512, 128, 16, "rope") for n in names for _ in range(5)]
    N = np.array([n_params(s) for s in shapes], float)
    D = N * np.tile([4, 10, 20, 50, 120], len(names))
    C = D * [flops_per_token(s, "with_head") for s in shapes]
    obs = observe(N, D, law(N, D), C=C, flop_convention="with_head", n_convention="total")
    context = context_of(obs, shapes=dict(zip(obs.run_id.tolist(), shapes, strict=True)))
    counts = count_runs(context)
    assert counts.N_non_embedding.tolist() == [n_params_non_embedding(s) for s in shapes]
    rows = rows_of(context)
    assert ("total", "with_head") not in rows  # that is how C was recorded
    assert rows["total", "six_nd"]["parametric"] == pytest.approx(
        law.beta / (law.alpha + law.beta), abs=1e-6
    )
    assert rows["total", "as_recorded"]["parametric"] == pytest.approx(context.a)
    assert conventions(context).values["exact"]


def test_sizes_of_table_a9_are_recognised_and_others_approximated(observe, law):
    N = np.repeat([float(n_params(s)) for s in A9[::6]], 5) * 1.004
    D = N * np.tile([4.0, 10, 20, 50, 120], len(A9[::6]))
    counts = count_runs(context_of(observe(N, D, law(N, D))))
    assert "Table A9" in counts.source
    assert counts.N_total.tolist() == N.tolist()
    assert set(counts.per_token) == {
        "six_nd", "six_n_non_embedding_d", "paper", "with_head", "appendix_f",
    }  # fmt: skip
    other = count_runs(context_of(observe(1.03 * N, D, law(N, D))))
    assert "Pearce and Song" in other.source
    assert set(other.per_token) == {"six_nd", "six_n_non_embedding_d"}


def test_non_embedding_sizes_are_turned_into_total_ones(observe, law):
    n = np.repeat(np.geomspace(1e6, 1e9, 8), 5)
    N = total_from_non_embedding(n)
    D = N * np.tile([4.0, 10, 20, 50, 120], 8)
    obs = observe(n, D, law(N, D), n_convention="non_embedding")
    counts = count_runs(context_of(obs))
    assert counts.N_total == pytest.approx(N)
    rows = rows_of(context_of(obs))
    assert rows["total", "six_nd"]["parametric"] == pytest.approx(
        law.beta / (law.alpha + law.beta), abs=1e-6
    )
    assert rows["non_embedding", "as_recorded"]["parametric"] > 0.5
    with pytest.raises(FitError, match="neither total nor non-embedding"):
        count_runs(context_of(replace(obs, n_convention="experts")))


def test_approach_2_follows_another_count_of_c(isoflop_runs, law):
    """Profiles planned at equal 6ND, asked about another count: near the law's own frontier.

    Not nearer than .03, for the optima drift away from the middle of the sizes.
    """
    obs = isoflop_runs(np.geomspace(1e17, 1e20, 5), half_width=3)
    rows = rows_of(context_of(obs))
    for row in rows.values():
        assert row["isoflop_levelled"] == pytest.approx(row["parametric"], abs=0.03)
    kaplan = rows["non_embedding", "six_n_non_embedding_d"]["parametric"]
    assert kaplan > rows["total", "as_recorded"]["parametric"] + 0.03


def test_a_run_that_cannot_be_levelled_leaves_the_rest_of_the_answer(isoflop_runs):
    """Far below the law: moved along it, its loss would be negative."""
    obs = isoflop_runs(np.geomspace(1e17, 1e20, 5), half_width=3)
    low = obs.L.copy()
    low[0] = 0.01
    context = replace(context_of(obs), obs=replace(obs, L=low))
    rows = rows_of(context)
    assert all(row["parametric"] is not None for row in rows.values())
    (why,) = rows["non_embedding", "six_n_non_embedding_d"]["why_not"]
    assert "cannot be moved to its budget's mean C" in why

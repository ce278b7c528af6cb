"""The same runs counted in other ways: known shapes, or Pearce and Song's relation."""

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
    non_embedding_from_total,
    total_from_non_embedding,
)
from chinchilla.fit import fit_all

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


def test_shapes_of_a_sweep_are_counted_exactly(observe, law):
    names = ("64x4", "96x4", "128x5", "160x6", "192x6", "256x8")
    shapes = [shape_named(n, 512, 128, 16, "rope") for n in names for _ in range(5)]
    N = np.array([n_params(s) for s in shapes], float)
    D = N * np.tile([4, 10, 20, 50, 120], len(names))
    C = D * [flops_per_token(s, "with_head") for s in shapes]
    obs = observe(N, D, law(N, D), C=C, flop_convention="with_head", n_convention="total")
    context = context_of(obs, shapes=dict(zip(obs.run_id.tolist(), shapes, strict=True)))
    counts = count_runs(context)
    assert counts.N["non_embedding"].tolist() == [n_params_non_embedding(s) for s in shapes]
    rows = rows_of(context)
    assert ("total", "with_head") not in rows  # that is how C was recorded
    assert rows["total", "six_nd"]["a"] == pytest.approx(
        law.beta / (law.alpha + law.beta), abs=1e-6
    )
    assert rows["total", "as_recorded"]["a"] == pytest.approx(context.a)
    assert conventions(context).values["source"] == "the sweep's own shapes"


def test_without_shapes_the_counts_are_approximate(observe, law):
    N = np.repeat([float(n_params(s)) for s in A9[::6]], 5)
    D = N * np.tile([4.0, 10, 20, 50, 120], len(A9[::6]))
    counts = count_runs(context_of(observe(N, D, law(N, D))))
    assert "Pearce and Song" in counts.source
    assert counts.N["total"].tolist() == N.tolist()
    assert set(counts.per_token) == {"six_nd", "six_n_non_embedding_d"}


def test_non_embedding_sizes_are_turned_into_total_ones(observe, law):
    n = np.repeat(np.geomspace(1e6, 1e9, 8), 5)
    N = total_from_non_embedding(n)
    D = N * np.tile([4.0, 10, 20, 50, 120], 8)
    obs = observe(n, D, law(N, D), n_convention="non_embedding")
    counts = count_runs(context_of(obs))
    assert counts.N["total"] == pytest.approx(N)
    rows = rows_of(context_of(obs))
    assert rows["total", "six_nd"]["a"] == pytest.approx(
        law.beta / (law.alpha + law.beta), abs=1e-6
    )
    assert rows["non_embedding", "as_recorded"]["a"] > 0.5
    with pytest.raises(FitError, match="neither total nor non-embedding"):
        count_runs(context_of(replace(obs, n_convention="experts")))

"""A sweep of curves on a law."""

import numpy as np
import pytest

from chinchilla.fit.loss_law import six_nd_frontier

BUDGETS = 6e18 * 2.0 ** np.arange(4)


@pytest.fixture
def demo_sweep(law, observe):
    """The demo's design on a law: four budgets a factor two apart, five sizes at each, eight points a run.

    `horizons` adds three sizes at three horizons. A mid-run loss is up to 6% above the law's. With a
    `seed` each run ends up to half a step before or after its budget, of 50 to 600 steps.
    """

    def build(seed=None, *, horizons=True, named=True, noise=0.0):
        (log_k, a), _, _ = six_nd_frontier(law)
        N_opt = np.exp(log_k) * BUDGETS**a
        sizes = N_opt[0] * 1.35 ** (np.arange(-4, 9) + 0.75)
        runs = [
            (C, N, C)
            for C, best in zip(BUDGETS, N_opt, strict=True)
            for N in sizes[np.argsort(np.abs(np.log(sizes / best)))[:5]]
        ]
        if horizons:
            runs += [
                (np.nan, N, BUDGETS[0] * (N / N_opt[0]) ** 2 * ratio)
                for N in sizes[1:6:2]
                for ratio in (0.36, 0.73, 1.45)
            ]
        budget, N, C = np.array(runs).T
        rng = np.random.default_rng(seed)
        if seed is not None:
            C = C * (1 + rng.uniform(-0.5, 0.5, len(C)) / rng.integers(50, 600, len(C)))
        done = np.arange(1, 9) / 8
        D = (C / (6 * N))[:, None] * done  # (n_runs, 8)
        L = law(N[:, None], D) * (1 + 0.03 * (1 + np.cos(np.pi * done)))
        L *= np.exp(noise * rng.normal(size=(len(N), 1)))
        return observe(
            np.repeat(N, 8),
            D.ravel(),
            L.ravel(),
            run_id=np.repeat([f"run{i:02d}" for i in range(len(N))], 8),
            budget=np.repeat(budget if named else np.full(len(N), np.nan), 8),
            loss_kind="validation",
        )

    return build

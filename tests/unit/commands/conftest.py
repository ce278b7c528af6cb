"""Fits for the commands that use them."""

from pathlib import Path

import numpy as np
import pytest

from chinchilla.fit.loss_law import named_law


@pytest.fixture
def fits(say, tmp_path: Path) -> Path:
    """Approach 3 on 35 runs of Besiroglu's law with .3% noise, in fits/."""
    law, rng = named_law("besiroglu"), np.random.default_rng(2)
    lines = ["run_id,budget_flops,C,N,D,L"]
    for i, N in enumerate(np.repeat(np.geomspace(5e7, 2e9, 7), 5).tolist()):
        D = N * (5, 10, 20, 40, 80)[i % 5]
        L = float(law(N, D) * np.exp(0.003 * rng.normal()))
        lines.append(f"r{i},,{6 * N * D!r},{N!r},{D!r},{L!r}")
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    words = "approaches=parametric n_bootstrap=100 loss=train flop_convention=six_nd"
    assert say(f"fit observations=runs.csv out_dir=fits {words}").code == 0
    return tmp_path / "fits"

"""A small sweep whose losses are drawn from a law, so that a report has something to show."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from chinchilla.config import FitCommand
from chinchilla.core.provenance import Code
from chinchilla.core.shapes import flops_per_token, shape_named
from chinchilla.fit import FitResult, FitResults, LossLaw
from chinchilla.observations.table import Observations
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.recommend import fit_and_recommend

LAW = LossLaw(E=1.7, A=40.0, B=170.0, alpha=0.34, beta=0.32)
BUDGETS = (1e13, 3e13, 1e14, 3e14)
SHAPES = ("16x2", "32x2", "48x3", "64x4", "96x4", "128x5", "160x6")


@dataclass(frozen=True)
class World:
    """What `chinchilla report` would have read from a sweep's folder."""

    results: list[RunResult]
    curves: dict[str, Curve]
    curve_obs: Observations
    finals: Observations
    fits: FitResults

    @property
    def fitted(self) -> dict[str, FitResult]:
        return self.fits.fitted

    @property
    def refusals(self) -> dict[str, str]:
        return {a: r.reason for a, r in self.fits.refused.items()}

    def report_inputs(self) -> dict:
        return {
            "title": "small sweep",
            "results": self.results,
            "curves": self.curves,
            "finals": self.finals,
            "fits": self.fits,
        }


def make_run(budget: float, name: str, rng: np.random.Generator) -> tuple[RunResult, Curve]:
    """One run that spends its budget: loss by the law, 0.2% noise, a curve that ends there."""
    shape = shape_named(name, vocab_size=512, seq_len=128, kv_size=16, positions="rope")
    tokens = budget / flops_per_token(shape, "with_head")
    steps = 400
    batch = round(tokens / steps)
    spec = RunSpec(
        sweep="small", budget_flops=budget, flop_convention="with_head", model=shape,
        data_id="d0", batch_tokens=batch, steps=steps, cosine_steps=steps,
        warmup_steps=max(1, steps // 20), peak_lr=3e-3, final_lr_ratio=0.1, weight_decay=0.1,
        beta1=0.9, beta2=0.95, adam_eps=1e-8, grad_clip=1.0, precision="fp32", seed=0,
    )  # fmt: skip
    final = float(LAW(spec.N, spec.D)) * (1 + 0.002 * rng.standard_normal())
    step = np.arange(steps)
    unfinished = 0.1 * (1 - (step + 1) / steps) ** 0.5
    curve = LAW(spec.N, np.maximum(step, 1) * batch) / LAW(spec.N, spec.D) * final + unfinished
    curve = np.minimum(curve, np.log(512)) + 0.02 * rng.standard_normal(steps)
    result = RunResult(
        spec=spec, status="finished", reason="", final_loss=final, final_loss_se=0.004,
        final_loss_steps=50, validation_loss={"held_out": final + 0.03},
        validation_tokens={"held_out": 65_536}, bits_per_byte={"held_out": (final + 0.03) / 2.1},
        n_params=spec.N, n_params_non_embedding=spec.N - 512 * shape.d_model, steps_done=steps,
        flops_spent=spec.C, train_seconds=30.0, tokens_per_second=1e5, mfu=None,
        peak_memory_bytes=10**8, device="cpu", versions={"torch": "2.11.0", "python": "3.11"},
        code=Code("0.1.0"), started_utc="2026-01-01T00:00:00Z", finished_utc="2026-01-01T00:00:30Z",
    )  # fmt: skip
    return result, Curve(step=step, loss=curve)


def diverged(run: tuple[RunResult, Curve]) -> tuple[RunResult, Curve]:
    """The same run, but its loss climbs from a third of the way and ends in NaN."""
    result, curve = run
    half = max(len(curve.loss) // 3, 2)
    loss = curve.loss[:half] + np.linspace(0, 1, half) ** 4
    loss[-1] = np.nan
    result = replace(
        result, status="diverged", reason=f"loss is NaN at step {half}", final_loss=None,
        final_loss_se=None, validation_loss={}, validation_tokens={}, bits_per_byte={},
        steps_done=half, flops_spent=result.flops_spent / 3,
    )  # fmt: skip
    return result, Curve(step=curve.step[:half], loss=loss)


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """Build a world; `edit` may change the runs before they are fitted."""

    def build(edit: Callable[[list], list] | None = None, n_bootstrap: int = 60) -> World:
        rng = np.random.default_rng(0)
        runs = [
            make_run(budget, name, rng)
            for k, budget in enumerate(BUDGETS)
            for name in SHAPES[max(0, k - 1) : k + 5]
        ]
        runs = edit(runs) if edit else runs
        results = [result for result, _ in runs]
        curves = {result.spec.run_id: curve for result, curve in runs}
        finals = Observations.from_results(results, "train")
        curve_obs = Observations.from_curves(results, list(curves.values()), "train")
        command = FitCommand(sweep_dir="runs/small", n_bootstrap=n_bootstrap)
        fits = fit_and_recommend(finals, curve_obs, command)
        return World(results, curves, curve_obs, finals, fits)

    return build


@pytest.fixture(scope="session")
def world(make_world: Callable[..., World]) -> World:
    """Four budgets, five or six sizes each; one run diverged."""
    return make_world(lambda runs: [*runs[:-1], diverged(runs[-1])])

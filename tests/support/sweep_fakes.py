"""Fake runs: specs, a training function whose behaviour depends on the seed, and worker processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chinchilla.config import ClusterConfig, GridConfig, RuntimeConfig, SweepCommand
from chinchilla.core.files.sealed import KEY, sealed
from chinchilla.core.provenance import code_here
from chinchilla.core.shapes import ModelShape
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.plan.unwritten import save_curve_or_keep
from chinchilla.sweep.run_files import save_runtime

FINE, DIVERGES, RAISES, SLOW, DIES, BREAKS = (
    0,
    1000,
    2000,
    3000,
    4000,
    5000,
)  # seeds from here on behave so


def make_specs(n: int, first_seed: int = FINE, sweep: str = "toy") -> list[RunSpec]:
    shape = ModelShape(64, 256, 32, 2, 2, 512, 64)
    return [
        RunSpec(
            sweep=sweep,
            budget_flops=1e12,
            flop_convention="with_head",
            model=shape,
            data_id="none",
            batch_tokens=1024,
            steps=20 + i,
            cosine_steps=20 + i,
            warmup_steps=2,
            peak_lr=1e-3,
            final_lr_ratio=0.1,
            weight_decay=0.1,
            beta1=0.9,
            beta2=0.95,
            adam_eps=1e-8,
            grad_clip=1.0,
            precision="fp32",
            seed=first_seed + i,
        )
        for i in range(n)
    ]


def make_sweep(sweep_dir: Path, specs: list[RunSpec]) -> Path:
    """A prepared sweep folder, as `launch` leaves it."""
    sweep_dir.mkdir(exist_ok=True)
    save_plan(specs, sweep_dir / "plan.jsonl")
    save_runtime(RuntimeConfig(device="cpu"), sweep_dir)
    return sweep_dir


def command(**cluster: Any) -> SweepCommand:
    return SweepCommand(
        grid=GridConfig(budgets=[1e12], models=["64x2"]),
        cluster=ClusterConfig(**{"kind": "debug", **cluster}),
        runtime=RuntimeConfig(device="cpu"),
    )


def make_result(
    spec: RunSpec, status: str = "finished", reason: str = "", **more: Any
) -> RunResult:
    value: dict[str, Any] = {
        "final_loss": 3.0,
        "final_loss_se": 0.01,
        "final_loss_steps": 5,
        "validation_loss": {},
        "validation_tokens": {},
        "bits_per_byte": {},
        "n_params": spec.N,
        "n_params_non_embedding": spec.N,
        "steps_done": spec.steps,
        "flops_spent": spec.C,
        "train_seconds": 2.0,
        "tokens_per_second": spec.D / 2.0,
        "mfu": None,
        "peak_memory_bytes": 0,
        "device": "fake",
        "versions": {},
        "code": code_here(),
        "started_utc": "",
        "finished_utc": "",
    }
    return RunResult(spec=spec, status=status, reason=reason, **{**value, **more})


def save_curve(run_dir: Path, spec: RunSpec) -> dict[str, Any]:
    """Write `curve_of`; returns the fields that name it."""
    return curve_of(spec).save(run_dir)


def curve_of(spec: RunSpec, loss: float = 3.0) -> Curve:
    """The curve of a run with the results of `make_result`."""
    return Curve(np.arange(spec.steps), np.full(spec.steps, loss))


def fake_train(
    spec: RunSpec,
    run_dir: Path,
    data_dir: Path,
    runtime: RuntimeConfig,
    *,
    starts: int = 1,
    on_start: Callable[[int], None],
    on_progress: Callable[[int, float], None],
    should_stop: Callable[[], bool],
    still_mine: Callable[[], bool],
    stable_phases: Path | None = None,
) -> RunResult | None:
    """Substitute for train_run; appends each call to starts.txt (one process writes at a time).

    Writes or keeps its curve as it does.
    """
    with open(run_dir / "starts.txt", "a") as f:
        f.write(f"{os.getpid()}\n")
    on_start(runtime.micro_batch_tokens or spec.batch_tokens)
    kind = spec.seed // 1000 * 1000
    n = 10 * spec.steps if kind == SLOW else spec.steps
    for i in range(1, n + 1):
        step = -(-i * spec.steps // n)
        if should_stop():
            return None
        if kind == RAISES and step == 3:
            raise RuntimeError("the disk said no\nand more")
        if kind == BREAKS and n_starts(run_dir) == 1:
            raise RuntimeError("CUDA error: device-side assert triggered")
        if kind == DIES and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1 if kind == SLOW else 0.003)
        on_progress(step, 3.0)
    curve = save_curve_or_keep(run_dir, curve_of(spec))
    if kind == DIVERGES:
        return make_result(spec, "diverged", "loss is not finite", attempts=starts, **curve)
    return make_result(spec, attempts=starts, **curve)


def n_starts(run_dir: Path) -> int:
    return len((run_dir / "starts.txt").read_text().split())


PROGRAM = (sys.executable, str(Path(__file__).resolve()))  # a worker process with fake training


def start_worker(sweep_dir: Path, name: str, *words: str) -> subprocess.Popen[bytes]:
    folders = f"sweep_dir={sweep_dir}", f"data_dir={sweep_dir}"
    return subprocess.Popen([*PROGRAM, *folders, f"name={name}", *words])


def edit_record(path: Path, *without: str, **change: Any) -> None:
    """Change fields of a JSON record, leave out others, and renew its hash."""
    value = {**json.loads(path.read_text(encoding="utf-8")), **change}
    kept = {name: x for name, x in value.items() if name not in (KEY, *without)}
    path.write_text(json.dumps(sealed(kept)), encoding="utf-8")


def planted(folder: Path) -> Path:
    """A folder with files named like modules of Python, of a library and of this package."""
    folder.mkdir()
    for name in ("numpy", "random", "queue", "chinchilla"):
        (folder / f"{name}.py").write_text(
            f"raise SystemExit('{name}.py of the working folder ran')"
        )
    return folder


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return value


if __name__ == "__main__":
    from chinchilla.config.command_line.compose import compose
    from chinchilla.sweep.worker import run_worker

    sys.exit(run_worker(compose("worker", sys.argv[1:]), fake_train))

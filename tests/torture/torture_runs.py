"""Runs that are killed or whose newest checkpoint is damaged must end with bit-identical results.

The run is tiny, on one CPU thread, with gradient accumulation (two micro-batches a step), and
leaves a checkpoint after every update, so that most kills land in or near a save.
"""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from train_world import (
    EVERY_UPDATE,
    ROWS,
    SEQ_LEN,
    make_runtime,
    make_spec,
    stop_at,
    train_and_save,
)

from chinchilla.plan.records import Curve, RunResult, RunSpec
from chinchilla.train import saving, train_run
from chinchilla.train.checkpoint import files as checkpoint_files
from chinchilla.train.checkpoint import save as save_module

STEPS = 8
RUNTIME = make_runtime(micro_batch_tokens=ROWS * SEQ_LEN // 2, checkpoint_minutes=EVERY_UPDATE)
CALLS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "link")
FORKSERVER = multiprocessing.get_context("forkserver")
# Imported once, not per kill; the optimizer's first step would import torch._dynamo for seconds.
FORKSERVER.set_forkserver_preload(["chinchilla.train", "torch._dynamo"])


@dataclass
class Tally:
    """Number of cases and the problems of each failed one."""

    asked: int = 0
    wrong: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> int:
        return self.asked - len(self.wrong)

    def case(self, name: str, problems: list[str]) -> None:
        self.asked += 1
        if problems:
            self.wrong.append(f"{name}: {'; '.join(problems)}")


@dataclass(frozen=True)
class Bits:
    """The results of a run that must be bit-identical."""

    final_loss: float
    validation_loss: float
    losses: bytes
    weights: str  # SHA-256 of the last checkpoint's weights

    @classmethod
    def of(cls, run_dir: Path, result: RunResult | None = None) -> "Bits":
        result = result or RunResult.read(run_dir / "result.json")
        assert result.final_loss is not None
        last = run_dir / "checkpoints" / f"step-{STEPS:08d}" / checkpoint_files.WEIGHTS
        weights = hashlib.sha256(last.read_bytes()).hexdigest()
        losses = Curve.load(run_dir).loss.tobytes()
        return cls(result.final_loss, result.validation_loss["validation"], losses, weights)


def newest_step(run_dir: Path) -> int:
    """Step of the newest complete checkpoint; 0 without one."""
    return max((int(p.name[5:]) for p in (run_dir / "checkpoints").glob("step-*")), default=0)


# Kills


@contextlib.contextmanager
def calls_inside_saves(tell: Callable[[int, int], None]) -> Iterator[None]:
    """Call `tell(save, call)` after each system call of a save, both counted from 1.

    Before an fsync counts too: what was written is in memory only. Training waits for each save, so
    that there is one after each update.
    """
    saves = calls = 0
    writer, room = save_module.CheckpointWriter, checkpoint_files.available_memory
    write_tensors, start = save_module.write_tensors, writer.start
    starting = False

    def step() -> None:
        nonlocal calls
        if starting or threading.current_thread().name == "checkpoint":
            calls += 1
            tell(saves, calls)

    def hooked(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "fsync":
                step()
            value = real(*args, **kwargs)
            step()
            return value

        return call

    def hooked_start(*args: Any, **kwargs: Any) -> None:
        nonlocal saves, calls, starting
        saves, calls, starting = saves + 1, 0, True
        try:
            start(*args, **kwargs)
        finally:
            starting = False

    real = {name: getattr(os, name) for name in CALLS}
    try:
        checkpoint_files.available_memory = lambda device: 0.0
        writer.start = hooked_start  # type: ignore[method-assign]
        save_module.write_tensors = hooked("write_tensors", write_tensors)
        for name in CALLS:
            setattr(os, name, hooked(name, real[name]))
        yield
    finally:
        checkpoint_files.available_memory = room
        writer.start = start  # type: ignore[method-assign]
        save_module.write_tensors = write_tensors
        for name in CALLS:
            setattr(os, name, real[name])


def train_and_die(spec: RunSpec, run_dir: Path, data_dir: Path, at_save: int, at_call: int) -> None:
    """A process that kills itself after one system call of one save."""

    def tell(save: int, call: int) -> None:
        if (save, call) == (at_save, at_call):
            os.kill(os.getpid(), signal.SIGKILL)

    with calls_inside_saves(tell):
        train_and_save(spec, run_dir, data_dir, RUNTIME)


def count_calls(spec: RunSpec, run_dir: Path, data_dir: Path, out: Path) -> None:
    """A process that records how many calls each save makes."""
    counts: dict[int, int] = {}
    with calls_inside_saves(lambda save, call: counts.update({save: call})):
        train_and_save(spec, run_dir, data_dir, RUNTIME)
    out.write_text(json.dumps(list(counts.values())))


def resume(spec: RunSpec, run_dir: Path, data_dir: Path) -> None:
    """A process that resumes the run to its end and records from which step."""
    load = saving.load_checkpoint

    def noted(*args: Any, **kwargs: Any) -> Any:
        found, complaints = load(*args, **kwargs)
        output = {"step": found.step if found else 0, "complaints": complaints}
        (run_dir.parent / f"{run_dir.name}.resumed").write_text(json.dumps(output))
        return found, complaints

    saving.load_checkpoint = noted
    train_and_save(spec, run_dir, data_dir, RUNTIME)


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    process = FORKSERVER.Process(target=target, args=args)
    process.start()
    return process


def finish(spec: RunSpec, run_dir: Path, data_dir: Path, whole: Bits) -> list[str]:
    """Resume a killed run and return the problems found."""
    stood = newest_step(run_dir)
    process = start(resume, spec, run_dir, data_dir)
    process.join(120)
    if process.exitcode != 0:
        return [f"cannot resume: {(run_dir.parent / f'{run_dir.name}.out').read_text()[-300:]}"]
    problems = []
    output = json.loads((run_dir.parent / f"{run_dir.name}.resumed").read_text())
    if output["step"] != stood or output["complaints"]:
        problems.append(f"resumed at {output['step']}, not {stood}: {output['complaints']}")
    if Bits.of(run_dir) != whole:
        problems.append("other bits at the end")
    if left := [p.name for p in (run_dir / "checkpoints").iterdir() if p.name.startswith(".")]:
        problems.append(f"left behind: {left}")
    return problems


def killed_runs(data_dir: Path, work: Path, n: int, n_inside: int, seed: int = 0) -> Tally:
    """SIGKILL `n` runs, `n_inside` of them at chosen calls inside a save, the rest at any moment.

    The chosen calls are spread over every call of a first save and of one that also deletes.
    """
    spec, draw, tally = make_spec(data_dir, steps=STEPS), random.Random(seed), Tally()
    for name in ("first", "whole"):  # the first one also waits for the fork server to be ready
        began = time.perf_counter()
        start(count_calls, spec, work / name, data_dir, work / "calls.json").join()
        seconds = time.perf_counter() - began
    whole = Bits.of(work / "whole")
    calls = json.loads((work / "calls.json").read_text())
    points = [(save, call) for save in (1, 3) for call in range(1, calls[save - 1] + 1)]
    if n_inside < len(points):
        points = [points[i * len(points) // n_inside] for i in range(n_inside)]
    for save, call in points[:n_inside]:
        run_dir = work / f"save{save}-call{call}"
        process = start(train_and_die, spec, run_dir, data_dir, save, call)
        process.join(120)
        problems = [] if process.exitcode == -signal.SIGKILL else ["the kill did not land"]
        if newest_step(run_dir) not in (save - 1, save):
            problems.append(f"only step {newest_step(run_dir)} stands after save {save} was killed")
        tally.case(run_dir.name, problems + finish(spec, run_dir, data_dir, whole))
        shutil.rmtree(run_dir)
    kills = torn = 0
    for i in range(n - tally.asked):
        run_dir, landed = work / f"random{i}", 0
        wanted = draw.choice((1, 1, 2, 3))
        while landed < wanted:
            process = start(train_and_save, spec, run_dir, data_dir, RUNTIME)
            process.join(draw.uniform(0.02, seconds))
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:  # it was through before the kill
                if landed:
                    break
                shutil.rmtree(run_dir)  # once more: every run here is killed at least once
                continue
            landed += 1
            folder = run_dir / "checkpoints"
            torn += folder.is_dir() and any(p.name.startswith(".") for p in folder.iterdir())
        kills += landed
        tally.case(run_dir.name, finish(spec, run_dir, data_dir, whole))
        shutil.rmtree(run_dir)
    tally.details = {
        "inside_a_save_at_chosen_calls": len(points[:n_inside]),
        "calls_of_a_first_save": calls[0],
        "calls_of_a_save_that_deletes": calls[2],
        "runs_killed_at_random_moments": n - len(points[:n_inside]),
        "kills_at_random_moments": kills,
        "of_those_that_left_a_half_written_checkpoint": torn,
        "weights_sha256": whole.weights[:16],
        "final_loss": whole.final_loss,
    }
    return tally


# Damage


def flip_a_bit(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def delete(path: Path, draw: random.Random) -> None:
    path.unlink()


DAMAGES = (flip_a_bit, truncate, delete)
FILES = (*checkpoint_files.FILES, checkpoint_files.MANIFEST)


def damaged_checkpoints(data_dir: Path, work: Path, n: int, seed: int = 0) -> Tally:
    """Damage the newest checkpoint `n` times: each file and each kind in turn, at random positions."""
    torch.set_num_threads(1)
    spec, draw, tally = make_spec(data_dir, steps=STEPS), random.Random(seed), Tally()
    result = train_run(spec, work / "whole", data_dir, RUNTIME)
    whole = Bits.of(work / "whole", result)
    train_run(spec, work / "stopped", data_dir, RUNTIME, should_stop=stop_at(STEPS - 2, 2))
    newest = f"step-{STEPS - 2:08d}"
    combinations = [(file, damage) for file in FILES for damage in DAMAGES]
    for i in range(n):
        file, damage = combinations[i % len(combinations)]
        run_dir = work / "run"
        shutil.copytree(work / "stopped", run_dir)
        damage(run_dir / "checkpoints" / newest / file, draw)
        out = io.StringIO()
        with contextlib.redirect_stderr(out):
            result = train_run(spec, run_dir, data_dir, RUNTIME)
        warnings = [line for line in out.getvalue().splitlines() if "warning" in line]
        problems = []
        if len(warnings) != 1 or f"{newest} is damaged" not in warnings[0]:
            problems.append(f"not detected: {warnings}")
        if Bits.of(run_dir, result) != whole:
            problems.append("other bits at the end")
        tally.case(f"{damage.__name__} {file} ({i})", problems)
        shutil.rmtree(run_dir)
    return tally

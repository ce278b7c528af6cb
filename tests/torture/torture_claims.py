"""Many processes on one sweep's folder: each run is trained once and has one result.

    python tests/torture/torture_claims.py NAME FOLDER COUNT...

runs one of the tests in its own process, without torch so that 64 forks are cheap, and prints its
counts as JSON.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))

from sweep_fakes import make_result, make_specs, make_sweep, wait_until

from chinchilla.cli import main
from chinchilla.config import RuntimeConfig
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep import claims
from chinchilla.sweep.run_files import clean_sweep
from chinchilla.sweep.signals import Stop
from chinchilla.sweep.worker import Worker

RUNTIME = RuntimeConfig(device="cpu")
FORK = multiprocessing.get_context("fork")
CALLS = ("fsync", "rename", "replace", "mkdir", "unlink", "link")


def fake(
    name: str, before: Callable[[Path], None] = lambda run_dir: None
) -> Callable[..., RunResult]:
    """A training function that records its start and stores `name` in its result."""

    def train(spec: RunSpec, run_dir: Path, *args: Any, **kwargs: Any) -> RunResult:
        with open(run_dir / "starts.txt", "a") as f:
            f.write(f"{name}\n")
        before(run_dir)
        return make_result(spec, device=name)

    return train


def work_as(
    name: str, sweep_dir: Path, train: Callable[..., Any], stale: float = 60.0
) -> list[str]:
    """Run one worker to the end of the sweep; the runs that it reports as finished."""
    summary = Worker(
        sweep_dir, sweep_dir, RUNTIME, name, train, stop=Stop(), stale_seconds=stale
    ).run()
    return summary.finished


def starts(run_dir: Path) -> list[str]:
    return (run_dir / "starts.txt").read_text().split()


def leftovers(sweep_dir: Path) -> list[str]:
    return [p.name for p in sweep_dir.rglob(".*.tmp")]


def tally(cases: list[tuple[str, list[str]]], **details: Any) -> dict[str, Any]:
    wrong = [f"{name}: {'; '.join(problems)}" for name, problems in cases if problems]
    passed = len(cases) - len(wrong)
    return {"asked": len(cases), "passed": passed, "wrong": wrong, "details": details}


# Races


def race(work: Path, n_workers: int, n_runs: int) -> dict[str, Any]:
    """`n_workers` processes start at once on `n_runs` runs."""
    specs = make_specs(n_runs)
    sweep_dir = make_sweep(work / "sweep", specs)
    barrier = FORK.Barrier(n_workers)

    def worker(i: int) -> None:
        barrier.wait()
        done = work_as(f"w{i}", sweep_dir, fake(f"w{i}", lambda run_dir: time.sleep(0.02)))
        (work / f"w{i}.json").write_text(json.dumps(done))

    processes = [FORK.Process(target=worker, args=(i,)) for i in range(n_workers)]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    printed = [json.loads((work / f"w{i}.json").read_text()) for i in range(n_workers)]
    cases = []
    for spec in specs:
        run_dir, problems = sweep_dir / "runs" / spec.run_id, []
        if len(starts(run_dir)) != 1:
            problems.append(f"trained by {starts(run_dir)}")
        if [RunResult.load(run_dir).device] != starts(run_dir):
            problems.append("the result is not its trainer's")
        if sum(spec.run_id in done for done in printed) != 1:
            problems.append("not reported by exactly one worker")
        cases.append((spec.run_id, problems))
    cases.append(("leftovers", leftovers(sweep_dir)))
    return tally(cases, workers=n_workers, run_dirs=n_runs, busy_workers=sum(map(bool, printed)))


def writers(work: Path, n_writers: int, n_runs: int) -> dict[str, Any]:
    """`n_writers` processes that all believe they hold the run publish its result at once."""
    claims.HEARTBEAT_SECONDS = 3600.0
    cases = []
    for c in range(n_runs):
        run_dir = work / f"run{c}"
        record = claims.acquire(run_dir, "holder").record
        barrier = FORK.Barrier(n_writers + 1)

        def write(
            i: int, run_dir: Path = run_dir, record: Any = record, barrier: Any = barrier
        ) -> None:
            claim = claims.Claim(run_dir, record, None)
            barrier.wait()
            if claim.publish("result.json", {"by": i, "pad": "x" * 20_000}):
                (run_dir / f"won-{i}").touch()

        processes = [FORK.Process(target=write, args=(i,)) for i in range(n_writers)]
        for p in processes:
            p.start()
        barrier.wait()
        seen = set()
        while any(p.is_alive() for p in processes):
            with contextlib.suppress(FileNotFoundError):
                seen.add(json.loads((run_dir / "result.json").read_text())["by"])
        won = [int(p.name[4:]) for p in run_dir.glob("won-*")]
        stands = json.loads((run_dir / "result.json").read_text())["by"]
        problems = [] if won == [stands] else [f"{won} won, {stands} stands"]
        if seen - {stands}:
            problems.append(f"{seen} were seen")
        cases.append((run_dir.name, problems + leftovers(run_dir)))
    return tally(cases, writers=n_writers)


# Late originals


def late(work: Path, n: int) -> dict[str, Any]:
    """A worker on another machine stops sending heartbeats, another takes over, and the first one continues.

    It falls silent while it trains, just before it takes its last fence, or between that fence and
    the result; and it is stopped (and comes back) or killed (and does not).
    """
    stages = ("training", "before the fence", "after the fence")
    cases = []
    for i in range(n):
        stage, comes_back = stages[i % 3], i // 3 % 2 == 0
        [spec] = make_specs(1)
        sweep_dir = make_sweep(work / f"sweep{i}", [spec])
        run_dir, mark = sweep_dir / "runs" / spec.run_id, work / f"mark{i}"
        original = FORK.Process(target=original_worker, args=(sweep_dir, mark, stage))
        original.start()
        wait_until(mark.exists)
        os.kill(original.pid, signal.SIGSTOP if comes_back else signal.SIGKILL)
        try:
            wait_until(partial(work_as, "successor", sweep_dir, fake("successor"), stale=1.0))
            before = (run_dir / "result.json").read_bytes()
        finally:
            if comes_back:
                os.kill(original.pid, signal.SIGCONT)
            original.join()
        problems = []
        if starts(run_dir) != ["original", "successor"]:
            problems.append(f"trained by {starts(run_dir)}")
        if (run_dir / "result.json").read_bytes() != before or RunResult.load(
            run_dir
        ).device != "successor":
            problems.append("the original wrote over the result")
        if comes_back and original.exitcode != 0:
            problems.append("the original worker reported the run as finished")
        latest = claims.latest_claim(run_dir)
        if not latest or latest.worker != "successor" or not latest.released:
            problems.append("the last claim is not the successor's, released")
        cases.append((f"{stage}, {'stopped' if comes_back else 'killed'} ({i})", problems))
    return tally(cases, stages=list(stages))


def original_worker(sweep_dir: Path, mark: Path, stage: str) -> None:
    """The worker that stops sending heartbeats; exits with 0 if it reports no run as finished."""
    claims.process_table = lambda: "another machine"
    claims.HEARTBEAT_SECONDS = 0.1

    def fall_silent() -> None:
        mark.touch()
        time.sleep(0.5)  # the signal arrives in here

    create, commit = claims.create_once, claims.Claim.commit

    def create_once(path: Path, text: str) -> bool:
        if path.name == "result.json" and stage == "after the fence":
            fall_silent()
        return create(path, text)

    def late_commit(claim: claims.Claim) -> bool:
        if stage == "before the fence":
            fall_silent()
        return commit(claim)

    claims.create_once, claims.Claim.commit = create_once, late_commit
    before = (lambda run_dir: fall_silent()) if stage == "training" else (lambda run_dir: None)
    os._exit(len(work_as("original", sweep_dir, fake("original", before))))


# Kills and damage


def killed_workers(work: Path) -> dict[str, Any]:
    """A worker is SIGKILLed after each of its system calls on the disk; another one follows."""
    cases, call = [], 0
    while True:
        call += 1
        [spec] = make_specs(1)
        sweep_dir = make_sweep(work / f"sweep{call}", [spec])
        run_dir = sweep_dir / "runs" / spec.run_id
        victim = FORK.Process(target=die_after, args=(sweep_dir, call))
        victim.start()
        victim.join()
        if victim.exitcode != -signal.SIGKILL:
            break  # it makes fewer calls than this
        stood = run_dir / "result.json"
        before = stood.read_bytes() if stood.exists() else None
        done = work_as("next", sweep_dir, fake("next"))
        clean_sweep(sweep_dir)
        problems = [f"left behind: {leftovers(sweep_dir)}"] if leftovers(sweep_dir) else []
        if before is None and done != [spec.run_id]:
            problems.append("the next worker did not finish it")
        if before is not None and (done or stood.read_bytes() != before):
            problems.append("a finished run was trained again")
        if RunResult.load(run_dir).status != "finished":
            problems.append(f"ended as {RunResult.load(run_dir).status}")
        cases.append((f"call {call}", problems))
    return tally(cases)


def die_after(sweep_dir: Path, call: int) -> None:
    """A worker that kills itself after its n-th call; before an fsync counts too."""
    made = 0

    def step() -> None:
        nonlocal made
        made += 1
        if made == call:
            os.kill(os.getpid(), signal.SIGKILL)

    def hooked(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if name == "fsync":
                step()
            value = real(*args, **kwargs)
            step()
            return value

        return run

    for name in CALLS:
        setattr(os, name, hooked(name, getattr(os, name)))
    work_as("victim", sweep_dir, fake("victim"))
    os._exit(0)


def damaged_claims(work: Path, n: int) -> dict[str, Any]:
    """Each claim has a flipped bit, is truncated or empty; status and the sweep continue."""
    draw, specs = random.Random(0), make_specs(n)
    sweep_dir = make_sweep(work / "sweep", specs)
    for i, spec in enumerate(specs):
        run_dir = sweep_dir / "runs" / spec.run_id
        claim = claims.acquire(run_dir, "dead")
        claim._stop.set()
        claim._thread.join()  # its last beat is over
        path = run_dir / "claim-1.json"
        data = bytearray(json.dumps(dataclasses.asdict(claim.record) | {"pid_start": "1"}).encode())
        if i % 3 == 0:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        else:
            del data[draw.randrange(len(data)) if i % 3 == 1 else 0 :]
        path.write_bytes(data)
        for file in (path, run_dir / "heartbeat"):
            if file.exists():
                os.utime(file, (0, 0))
    with contextlib.redirect_stdout(sys.stderr):
        code = main(["status", f"sweep_dir={sweep_dir}", "format=json"])
    work_as("next", sweep_dir, fake("next"))
    cases = [("status", [] if code == 0 else [f"exit code {code}"])]
    for spec in specs:
        run_dir = sweep_dir / "runs" / spec.run_id
        ended = (run_dir / "result.json").exists() and RunResult.load(run_dir).status
        cases.append((spec.run_id, [] if ended == "finished" else [f"ended as {ended}"]))
    aside = len(list(sweep_dir.glob("runs/*/damaged-claim-1.json")))
    return tally(cases, set_aside=aside)


TORTURES: dict[str, Callable[..., dict[str, Any]]] = {
    "race": race,
    "writers": writers,
    "late": late,
    "killed_workers": killed_workers,
    "damaged_claims": damaged_claims,
}

if __name__ == "__main__":
    name, folder, *counts = sys.argv[1:]
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    print(json.dumps(TORTURES[name](Path(folder), *map(int, counts))))

"""Discrete simulation of many workers on one sweep: metadata operations on the shared file system.

    python scripts/bench/simulate_claims.py [--workers 1000] [--runs 10000] [--minutes 10] [--out FILE]

The package's own code claims runs, sends heartbeats, writes progress.json and reads the status; only training
and time are simulated. Workers start at random within a minute, each run takes --minutes within 20%, and
`chinchilla status` is read every five minutes. Every worker is on a machine of its own, and listings of
`runs/` and `ended/` are up to 30 seconds old, as an NFS client may answer from its cache. Calls on the sweep's
folder are counted by kind: open (also of folders), stat, listdir, link, rename, unlink, mkdir and utime, with paths
and with names in open folders. Calls on open files (fstat, dup, close) are not, nor is fsync, which is data.
"""

import builtins
import contextlib
import dataclasses
import heapq
import io
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from bench_tools import RESULTS, ROOT, Arguments, count, out_file, provenance, save_json

sys.path.insert(0, os.fspath(ROOT))

from chinchilla.core.files import folders
from chinchilla.core.files.writing import guard
from chinchilla.core.provenance import Code
from chinchilla.core.shapes import ModelShape
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import RunResult, RunSpec
from chinchilla.sweep import claims, run_files, run_queue
from chinchilla.sweep.view import status as view

CALLS = {
    "stat": "stat", "lstat": "stat", "open": "open", "listdir": "listdir", "link": "link", "rename": "rename",
    "replace": "rename", "unlink": "unlink", "mkdir": "mkdir", "utime": "utime",
}  # fmt: skip
CACHE_SECONDS = 30.0  # age of listings
STATUS_SECONDS = 300.0


class Counted:
    """Counts calls on files under a folder, by kind and by purpose, and keeps virtual time for them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = os.fspath(folder), time.time()
        self.start = self.now
        self.purpose = "start"
        self.calls: Counter[tuple[str, str]] = Counter()  # (purpose, kind)
        self.minutes: Counter[int] = Counter()
        self.listed: dict[str, tuple[float, list[str]]] = {}
        self.opened: dict[int, str] = {}  # paths of open files and folders

    @property
    def total(self) -> int:
        return self.calls.total()

    def count(self, kind: str) -> None:
        self.calls[self.purpose, kind] += 1
        self.minutes[int((self.now - self.start) // 60)] += 1

    def path_of(self, path: Any, settings: dict[str, Any]) -> str:
        """The path that a call is about, also of a descriptor, and of a name in an open folder."""
        if isinstance(path, int):
            return self.opened.get(path, "")
        folder = settings.get("dir_fd", settings.get("src_dir_fd"))
        return os.path.join(self.opened.get(folder, ""), os.fspath(path))

    def hooked(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            text = self.path_of(path, kwargs)
            if not text.startswith(self.folder):
                return real(path, *args, **kwargs)
            if not (name == "open" and isinstance(path, int)):  # a file object of what is open
                self.count(CALLS[name])
            if name == "utime":
                return real(path, (self.now, self.now), **kwargs)
            if name == "listdir" and text.rsplit("/", 1)[-1] in ("runs", "ended"):
                at, names = self.listed.get(text, (-1e9, []))
                if self.now - at > CACHE_SECONDS:
                    names = real(path)
                    self.listed[text] = (self.now, names)
                return names
            found = real(path, *args, **kwargs)
            if name == "open" and isinstance(found, int):
                self.opened[found] = text
            return found

        return call

    def file_system_now(self, folder: Path) -> float:
        for kind in ("utime", "open", "stat", "unlink"):
            self.count(kind)
        return self.now

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Replace the calls, the clock and the heartbeat thread."""
        with contextlib.ExitStack() as stack:

            def replace(owner: Any, name: str, value: Any) -> None:
                stack.enter_context(mock.patch.object(owner, name, value))

            for name in CALLS:
                replace(os, name, self.hooked(name, getattr(os, name)))
            dup, close = os.dup, os.close

            def copy(fd: int) -> int:
                new = dup(fd)
                self.opened[new] = self.opened.get(fd, "")
                return new

            def forget(fd: int) -> None:
                self.opened.pop(fd, None)
                close(fd)

            replace(os, "dup", copy)
            replace(os, "close", forget)
            replace(folders._Handle.__del__, "__defaults__", (forget,))
            opened = self.hooked("open", builtins.open)
            replace(builtins, "open", opened)
            replace(io, "open", opened)  # used by pathlib
            for module in (claims, run_queue, view):
                replace(module, "file_system_now", self.file_system_now)
            replace(claims.threading.Thread, "start", lambda thread: None)
            replace(claims.threading.Thread, "join", lambda thread: None)
            replace(os, "fsync", lambda fd: None)
            yield


def make_specs(n: int) -> list[RunSpec]:
    shape = ModelShape(64, 256, 32, 2, 2, 512, 64)
    first = RunSpec(
        sweep="many", budget_flops=1e12, flop_convention="with_head", model=shape, data_id="none",
        batch_tokens=1024, steps=20, cosine_steps=20, warmup_steps=2, peak_lr=1e-3, final_lr_ratio=0.1,
        weight_decay=0.1, beta1=0.9, beta2=0.95, adam_eps=1e-8, grad_clip=1.0, precision="fp32", seed=0,
    )  # fmt: skip
    return [dataclasses.replace(first, steps=20 + i % 50, seed=i) for i in range(n)]


@dataclasses.dataclass
class Simulated:
    """One worker."""

    queue: run_queue.RunQueue
    machine: str
    spec: RunSpec | None = None
    claim: claims.Claim | None = None
    progress: run_files.ProgressFile | None = None
    guards: dict[Path, folders.Guard] = dataclasses.field(default_factory=dict)  # of its process


def simulate(
    sweep_dir: Path,
    n_workers: int,
    n_runs: int,
    run_seconds: float = 600.0,
    kill: Callable[[int], bool] = lambda worker: False,
) -> dict[str, Any]:
    """Run the sweep to its end.

    Args:
        sweep_dir: an empty folder.
        n_workers: workers, which start within the first minute.
        n_runs: runs of the plan.
        run_seconds: mean duration of a run.
        kill: selects workers that die without a message in their first run.

    Returns:
        Counts: operations per second in total, by purpose and in the busiest minute; operations and
        CPU seconds of a claim; how often each run was trained.
    """
    sweep_dir.mkdir(exist_ok=True)
    specs = make_specs(n_runs)
    save_plan(specs, sweep_dir / "plan.jsonl")
    (sweep_dir / "runs").mkdir()
    counted, draw = Counted(sweep_dir), random.Random(0)
    order = run_queue.RunOrder(specs)
    workers = [
        Simulated(run_queue.RunQueue(sweep_dir, f"w{i}"), f"machine{i}") for i in range(n_workers)
    ]
    events: list[tuple[float, int, str, int]] = []
    n_events = 0

    def at(delay: float, what: str, i: int) -> None:
        nonlocal n_events
        n_events += 1
        heapq.heappush(events, (counted.now + delay, n_events, what, i))

    trained: Counter[str] = Counter()
    claim_calls, claim_stats, claim_cpu = [], [], []
    known: dict[str, Any] = {}
    killed_runs: dict[int, bool] = {}
    set_time = os.utime  # a file's first time is the real one
    n_status = last = 0.0
    with (
        counted.counting(),
        mock.patch.object(run_queue.RunQueue, "_order_of_plan", plan_of(order, counted)),
        mock.patch.object(run_files.time, "monotonic", side_effect=lambda: counted.now),
        mock.patch.object(view, "read_plan", return_value=(specs, [])),
        mock.patch.object(claims, "process_table") as machine,
        mock.patch.object(folders, "_guards", {}),
    ):
        for i in range(n_workers):
            at(60 * draw.random(), "claim", i)
        at(STATUS_SECONDS, "status", 0)
        while events:
            counted.now, _, what, i = heapq.heappop(events)
            worker = workers[i]
            machine.return_value = worker.machine
            counted.purpose = what if what != "end" else "claim"
            folders._guards = {} if what == "status" else worker.guards
            if what == "status" and any(e[2] != "status" for e in events):
                view.sweep_status(sweep_dir, known)
                n_status += 1
                at(STATUS_SECONDS, what, 0)
            elif what == "claim":
                if not worker.guards:
                    guard(sweep_dir)
                before, cpu = counted.calls.copy(), time.process_time()
                folders.wait_for_folder(sweep_dir)
                counted.count("stat")  # of runtime.json, `preflight.LatestLaunch`
                found, wait = worker.queue.claim_next(64)
                claim_cpu.append(time.process_time() - cpu)
                if wait:
                    at(worker.queue.wait_seconds, "claim", i)
                if found is None:
                    continue
                made = counted.calls - before
                claim_calls.append(made.total())
                claim_stats.append(sum(n for (_, kind), n in made.items() if kind == "stat"))
                worker.spec, worker.claim = found
                claim = worker.claim
                worker.progress = run_files.ProgressFile(
                    claim.run_dir, worker.spec, lambda claim=claim: claim.record.workers
                )
                trained[worker.spec.run_id] += 1
                at(0, "heartbeat", i)
                killed_runs[i] = kill(i)  # after its first heartbeat
                if not killed_runs[i]:
                    at(0, "progress", i)
                    at(run_seconds * draw.uniform(0.8, 1.2), "end", i)
            elif what == "heartbeat" and worker.claim:
                alive = worker.claim.beat()
                set_time(worker.claim.run_dir / "heartbeat", (counted.now, counted.now))
                if alive and not killed_runs.get(i):
                    factor = claims.heartbeat_factor(worker.claim.record.workers)
                    at(claims.HEARTBEAT_SECONDS * factor, "heartbeat", i)
            elif what == "progress" and worker.claim and worker.progress:
                worker.progress(1, 3.0)
                every = worker.claim.record.workers / run_files.WORKERS_AT_ONE_SECOND
                at(max(1.0, every), "progress", i)
            elif what == "end" and worker.claim:
                last = counted.now
                assert worker.claim.publish("result.json", result_of(worker.spec))
                worker.claim.release()
                run_files.mark_ended(worker.claim.run_dir)
                worker.claim = None
                # Remove the queued events of the run that has ended.
                events[:] = [e for e in events if e[3] != i or e[2] == "status"]
                heapq.heapify(events)
                at(0, "claim", i)
    seconds = last - counted.start
    by_purpose: Counter[str] = Counter()
    by_kind: Counter[str] = Counter()
    for (purpose, kind), n in counted.calls.items():
        by_purpose[purpose] += n
        by_kind[kind] += n
    return {
        "workers": n_workers,
        "runs": n_runs,
        "seconds": round(seconds),
        "operations_per_second": round(counted.total / seconds, 1),
        "busiest_minute_per_second": round(max(counted.minutes.values()) / 60, 1),
        "by_purpose_per_second": {k: round(n / seconds, 1) for k, n in by_purpose.items()},
        "by_kind_per_second": {k: round(n / seconds, 1) for k, n in by_kind.items()},
        "claim_operations_median": statistics.median(claim_calls),
        "claim_operations_largest": max(claim_calls),
        "claim_stat_calls_median": statistics.median(claim_stats),
        "claim_cpu_seconds_median": round(statistics.median(claim_cpu), 5),
        "operations_per_status": round(by_purpose["status"] / max(n_status, 1)),
        "runs_trained": len(trained),
        "trained_more_than_once": sum(n > 1 for n in trained.values()),
        "results": sum(run_files.has_result(sweep_dir / "runs" / s.run_id) for s in specs),
    }


def result_of(spec: RunSpec | None) -> dict[str, Any]:
    """A finished run as result.json holds it."""
    assert spec
    result = RunResult(
        spec=spec, status="finished", reason="", final_loss=3.0, final_loss_se=0.01, final_loss_steps=5,
        validation_loss={}, validation_tokens={}, bits_per_byte={}, n_params=spec.N,
        n_params_non_embedding=spec.N, steps_done=spec.steps, flops_spent=spec.C, train_seconds=600.0,
        tokens_per_second=1e5, mfu=None, peak_memory_bytes=0, device="", versions={}, code=Code("0.1.0"),
        started_utc="", finished_utc="",
    )  # fmt: skip
    return result.to_record()


def plan_of(order: run_queue.RunOrder, counted: Counted) -> Callable[[Any], run_queue.RunOrder]:
    """Stands for `RunQueue._order_of_plan`: one plan in memory for all workers, and the call that it makes."""

    def read(queue: Any) -> run_queue.RunOrder:
        counted.count("stat")
        queue._order = order
        return order

    return read


def main() -> None:
    parser = Arguments(__doc__)
    parser.add_argument("--workers", type=count, default=1000)
    parser.add_argument("--runs", type=count, default=10_000)
    parser.add_argument("--minutes", type=count, default=10)
    parser.add_argument("--out", type=out_file, default=RESULTS / "simulate_claims.json")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[
        1
    ]  # each worker keeps the sweep's folder open
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        found = simulate(
            Path(folder, "sweep"), options.workers, options.runs, 60.0 * options.minutes
        )
    for name, value in found.items():
        print(f"{name}: {value}")
    save_json(options.out, {**provenance(), **found})


if __name__ == "__main__":
    main()

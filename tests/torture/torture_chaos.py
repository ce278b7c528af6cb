"""Faults of all kinds while launchers, workers and other commands use one sweep; then it is finished.

    python tests/torture/torture_chaos.py --faults 250 --minutes 8 --seed 1 [--kinds fifo,kill_worker]
        [--files result,curve] [--runs 26] [--work FOLDER]

A sweep is first trained without faults, for comparison. Then 4 to 6 launchers at once train it on a small disk
as another user (`chaos_place`), other commands read and write it, and faults (`chaos_faults`) come in a random
order that the seed determines; their times follow the machine. Afterwards the same words as before launch it
again, at most three times, and nothing else is done: every run must end in the bits of the comparison.

Prints its counts as JSON; `--work` keeps the disk's contents, all output and faults.jsonl.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))

from chaos_checks import compare, keep, tracebacks
from chaos_faults import FILES, KINDS, LONG_STOP, NEED_A_DISK, Faults, Hit
from chaos_place import END_SECONDS, Place, processes, reap, run_in, wait_until
from small_world import make_speeches

from chinchilla.core.errors import InputError
from chinchilla.plan.plan_file import load_plan
from chinchilla.plan.records import RunResult

BUDGETS = {26: "1.5e10,3e10,6e10,1.2e11", 10: "1.5e10,3e10", 5: "3e10"}  # by the number of runs
HORIZONS = ("grid.horizon_models=[16x2,24x2]", "grid.horizon_tokens_per_param=[4,8,16]")
NO_HORIZONS = ("grid.horizon_models=[]", "grid.horizon_tokens_per_param=[]")
GRID = (
    "demo", "grid.models=[16x2,20x2,24x2,32x2,40x2,48x2]", "grid.seq_len=64", "grid.min_steps=20",
    "grid.min_side=0", "grid.min_sizes=4", "recipe=demo", "runtime=demo", "epochs=1000",
    "runtime.checkpoint_minutes=0.02", "runtime.validation_tokens=2048", "cluster=demo",
    "cluster.threads_per_worker=1",
)  # fmt: skip
OTHERS = (  # commands that are called all the time
    ("status",), ("fit", "n_bootstrap=0", "loss=validation"), ("report",), ("retry",),
    ("sync", "to=tensorboard"), ("logs",), ("status", "format=json"),
)  # fmt: skip
CODES = (0, 1, 2, 3, 75, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
LIMIT_SECONDS = 120.0  # for a command that is not a launcher
RELAUNCHES = 3
SECONDS_PER_RUN = 15.0  # of a launch that finishes the sweep, and 60 s more


@dataclass
class Soak:
    """One soak on one place."""

    place: Place
    options: argparse.Namespace
    data_dir: Path
    draw: random.Random
    hits: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)  # "command: code"
    hangs: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    valid: dict[str, str] = field(default_factory=dict)  # SHA-256 of each valid result -> its run
    while_training: int = 0

    def __post_init__(self) -> None:
        seconds = min(LONG_STOP, 15 * self.options.minutes)
        self.faults = Faults(
            self.place, random.Random(self.options.seed), seconds, self.options.files
        )
        self.outside_sweep = self.place.outside / "sweep"
        self.launchers: dict[int, subprocess.Popen[bytes]] = {}
        self.other: subprocess.Popen[bytes] | None = None
        self.other_since = self.launched_at = self.hit_at = 0.0
        self.n_started = 0
        self.undo: list[tuple[float, Any]] = []
        self.late: Counter[int] = Counter()  # pid -> seconds since SIGTERM in which it could run
        self.last_look = time.monotonic()
        self.looked: dict[Path, tuple[int, ...]] = {}

    def words(self, sweep_dir: Path, n_workers: int) -> list[str]:
        horizons = HORIZONS if self.options.runs == 26 else NO_HORIZONS
        return [
            "sweep", *GRID, f"grid.budgets=[{BUDGETS[self.options.runs]}]", *horizons,
            f"cluster.n_workers={n_workers}", f"data_dir={self.data_dir}", f"sweep_dir={sweep_dir}",
        ]  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        self.n_started += 1
        return self.place.start(f"{self.n_started:04d}-{words[0]}.txt", *words)

    # The soak

    def run(self) -> None:
        """Cause the faults, then end all processes and all faults of the surroundings."""
        options = self.options
        claims = self.place.sweep_dir.glob
        wait_until(lambda: self.tend() or any(claims("runs/*/claim-*.json")), LIMIT_SECONDS)
        began, deck = time.monotonic(), list[str]()
        pause = 60 * options.minutes / options.faults
        with open(self.place.work / "faults.jsonl", "a", buffering=1) as log:
            while (n := self.hits.total()) < options.faults:
                now = time.monotonic() - began
                if now > 120 * options.minutes:
                    break
                self.tend()
                if now >= n * pause and self.launchers:
                    kind, hit = self.next_fault(deck)
                    if hit:
                        row = {"n": n, "s": round(now, 1), "kind": kind, "target": hit.target}
                        log.write(json.dumps(row) + "\n")
                time.sleep(0.05)
        self.seconds = time.monotonic() - began
        for _, undo in self.undo:
            undo()
        self.undo.clear()
        for process in processes(self.place):
            if process.role in ("sweep", "worker"):
                process.signal(signal.SIGTERM)
                self.faults.terminated.setdefault(process.pid, time.monotonic())
        wait_until(lambda: self.tend(launch=False) or not processes(self.place), 2 * LIMIT_SECONDS)
        self.hangs += [f"at the end: {p.role} {p.waits_for}" for p in processes(self.place)]
        for process in processes(self.place):
            process.signal(signal.SIGKILL)
        wait_until(lambda: not processes(self.place), 10)

    def next_fault(self, deck: list[str]) -> tuple[str, Hit | None]:
        """Cause a fault of the first kind of `deck`, the kinds left in this round, that hits something.

        A round has each kind once, in random order. One that hits nothing for 5 s ends.
        """
        now = time.monotonic()
        if not deck or now > self.hit_at + 5:
            self.hit_at = now
            deck[:] = self.draw.sample(self.options.kinds, len(self.options.kinds))
        for kind in list(deck):
            training = any(p.role == "worker" for p in processes(self.place))
            if hit := KINDS[kind](self.faults):
                deck.remove(kind)
                self.hit_at = now
                self.hits[kind] += 1
                self.while_training += training
                if hit.undo:
                    self.undo.append((time.monotonic() + hit.seconds, hit.undo))
                return kind, hit
        return "", None

    def tend(self, launch: bool = True) -> None:
        """End faults that are due, start what has ended, and look for results and for processes that hang."""
        now = time.monotonic()
        for due in [u for u in self.undo if u[0] <= now]:
            self.undo.remove(due)
            due[1]()
        reap(self.place)
        self.watch(now)
        for pid in [pid for pid, p in self.launchers.items() if p.poll() is not None]:
            self.ended("sweep", self.launchers.pop(pid))
        wanted = 0 if "move_sweep" in self.faults.surroundings else 4 + int(now / 20) % 3
        if launch and len(self.launchers) < wanted and now > self.launched_at + 1.5:
            self.launched_at = now
            process = self.start(*self.words(self.outside_sweep, 1 + self.n_started % 2))
            self.launchers[process.pid] = process
        if self.other and self.other.poll() is not None:
            self.ended(self.other_name, self.other)
            self.other = None
        if launch and self.other is None and now > self.other_since + 3:
            command, *more = self.draw.choice(OTHERS)
            self.other_name, self.other_since = command, now
            self.other = self.start(command, str(self.outside_sweep), *more)
        elif self.other and now > self.other_since + LIMIT_SECONDS:
            self.hang(self.other.pid, f"after {LIMIT_SECONDS:g} s")
        self.note_results()

    def ended(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.codes[f"{name}: {process.returncode}"] += 1
        if process.returncode not in CODES:
            self.problems.append(f"{name} ended with code {process.returncode}")

    def watch(self, now: float) -> None:
        """Count the time since SIGTERM of each process, while it and its children are not stopped."""
        elapsed, self.last_look = now - self.last_look, now
        found = {p.pid: p for p in processes(self.place)}
        for pid in list(self.faults.terminated):
            if pid not in found:
                del self.faults.terminated[pid]
                self.late.pop(pid, None)
                continue
            family = [found[pid], *(p for p in found.values() if p.parent == pid)]
            if all(p.state != "T" for p in family):
                self.late[pid] += elapsed  # type: ignore[assignment]
            if self.late[pid] > END_SECONDS:
                self.hang(pid, f"{END_SECONDS:g} s after SIGTERM or SIGINT")
                self.faults.terminated.pop(pid)

    def hang(self, pid: int, when: str) -> None:
        """Record a process that hangs, and end it and its children."""
        found = {p.pid: p for p in processes(self.place)}
        for p in found.values():
            if p.pid == pid or p.parent == pid:
                self.hangs.append(f"{p.role} {when}: {p.waits_for}")
                p.signal(signal.SIGKILL)

    # What was found

    def note_results(self) -> None:
        """Remember every valid result that exists."""
        for folder in self.place.sweep_dir.glob("runs/*"):
            path = folder / "result.json"
            try:
                about = path.lstat()
                key = (about.st_ino, about.st_size, about.st_mtime_ns)
                if self.looked.get(path) == key or not path.is_file() or path.is_symlink():
                    continue
                data = path.read_bytes()
                RunResult.load(folder)
            except (OSError, InputError):
                continue
            self.looked[path] = key
            if path.read_bytes() == data:
                self.valid[hashlib.sha256(data).hexdigest()] = folder.name

    def lost_results(self) -> list[str]:
        """Valid results whose bytes are in no file of the disk, although no fault has damaged them."""
        there = set()
        for path in self.place.inside.rglob("*result*"):
            if path.is_file() and not path.is_symlink():
                there.add(hashlib.sha256(path.read_bytes()).hexdigest())
        lost = self.valid.keys() - there - self.faults.destroyed
        return [f"a result of {self.valid[digest]} is lost" for digest in lost]

    def relaunch(self) -> tuple[int, list[str]]:
        """Launch with the same words until the sweep is finished; how often, and what went wrong."""
        wrong, limit = [], 60 + SECONDS_PER_RUN * self.options.runs
        for i in range(1, RELAUNCHES + 1):
            process = self.start(*self.words(self.outside_sweep, 2))
            output = self.place.work / "output" / f"{self.n_started:04d}-sweep.txt"
            if not wait_until(partial(self.has_ended, process), limit):
                self.hang(process.pid, f"relaunch {i}, after {limit:g} s")
                process.wait()
            self.note_results()
            if process.returncode == 0:
                return i, []
            last = output.read_text(errors="replace").strip().splitlines()[-3:]
            wrong.append(f"relaunch {i} ended with code {process.returncode}: {' | '.join(last)}")
        return RELAUNCHES, wrong

    def has_ended(self, process: subprocess.Popen[bytes]) -> bool:
        reap(self.place)
        return process.poll() is not None


def chaos(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    """The comparison, a soak, the launches afterwards; the counts and all problems."""
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    if place.lacks:
        say(f"no disk of its own and no other user: {place.lacks}")
    options.kinds = [k for k in options.kinds if not (place.lacks and k in NEED_A_DISK)]
    data_dir = make_speeches(place.work / "data")
    soak = Soak(place, options, data_dir, random.Random(options.seed + 1))
    reference = place.work / "home" / "reference"
    if soak.start(*soak.words(reference, 2)).wait():
        raise SystemExit((place.work / "output" / "0001-sweep.txt").read_text()[-2_000:])
    runs = [spec.run_id for spec in load_plan(reference / "plan.jsonl")]
    say(f"{len(runs)} runs to compare with are trained; {options.faults} faults begin")
    soak.run()
    say(f"{sum(soak.hits.values())} faults in {soak.seconds:.0f} s; launching again")
    began = time.monotonic()
    n_launches, refused = soak.relaunch()
    different = compare(runs, reference, place.sweep_dir)
    checks = {
        "faults": [] if sum(soak.hits.values()) >= options.faults else ["too few faults hit"],
        "launches": refused,
        "hangs": soak.hangs,
        "tracebacks": tracebacks(place),
        "results lost": soak.lost_results(),
        "others": soak.problems + soak.faults.problems,
    }
    wrong = [*different, *(line for lines in checks.values() for line in lines)]
    asked = len(runs) + len(checks)
    return {
        "asked": asked,
        "passed": asked - len(different) - sum(map(bool, checks.values())),
        "wrong": wrong,
        "details": {
            "seed": options.seed,
            "faults": sum(soak.hits.values()),
            "soak_seconds": round(soak.seconds),
            "kinds": dict(sorted(soak.hits.items())),
            "while_training": soak.while_training,
            "runs": len(runs),
            "bit_equal": len(runs) - len(different),
            "launches_afterwards": n_launches,
            "seconds_of_these": round(time.monotonic() - began),
            "results_seen": len(soak.valid),
            "results_damaged_by_faults": len(soak.faults.destroyed),
            "exit_codes": dict(sorted(soak.codes.items())),
            "user": place.user if place.user is not None else f"the caller: {place.lacks}",
        },
    }


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of names with commas between them."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return names

    return parse


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faults", type=int, default=250)
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="of the soak; it may take twice as long"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=26, choices=BUDGETS)
    parser.add_argument("--kinds", type=names_of(KINDS), default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument(
        "--files", type=names_of(FILES), default=list(FILES), help="to damage: " + ", ".join(FILES)
    )
    parser.add_argument(
        "--work", type=Path, help="an empty folder to keep; default: a temporary one"
    )
    options = parser.parse_args()

    def act(place: Place) -> int:
        try:
            found = chaos(place, options)
        finally:
            if options.work:
                keep(place)
        print(json.dumps(found, indent=1))
        return int(bool(found["wrong"]))

    return run_in(act, options.work)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Run a Slurm with several nodes on this machine, to try out and test sweeps.

    local_slurm.py up [--nodes 4] ...                   start it, or restart daemons that have died
    local_slurm.py run chinchilla sweep ...             run a command with its address
    local_slurm.py status                               show processes and nodes
    local_slurm.py node-kill 2 | node-start 2           a node fails with its jobs | returns
    local_slurm.py down                                 stop everything

No service manager is used, all daemons listen on loopback only, and all files are in one folder
(--dir), so this works as root and as any user. Nodes are named 127.0.0.11, 127.0.0.12, ..., which are
addresses of this machine, because programs connect to a node by its name. The GPUs of the nodes are
simulated (links to /dev/null): jobs get CUDA_VISIBLE_DEVICES but no device.

There is no slurmdbd: sacct, sacctmgr, QOS and limits per account do not exist (`sacct -c` lists
finished jobs); queue, arrays, requeue, preemption and node loss do.

Exit status: 0 success, 1 failed, 2 wrong usage or missing packages. Errors are one line.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from local_slurm_conf import write_files

PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}  # fmt: skip
NODE_MARK = (
    "LOCAL_SLURM_NODE"  # in slurmd's environment; inherited by the step managers that it starts
)
REPLACED = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SQUEUE", "MUNGE")


class Problem(Exception):
    """An error that is reported in one line."""


def start_time(pid: int) -> str | None:
    """Start time of a process in kernel ticks, because a pid may be reused; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def wait_for(condition: Callable[[], object], seconds: float, step: float = 0.05) -> bool:
    """Whether `condition` became true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
    return True


def listens(port: int) -> bool:
    """Whether a process listens on a port of 127.0.0.1."""
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def free_ports(n: int) -> list[int]:
    """`n` consecutive free ports, below the kernel's ephemeral range."""
    for _ in range(100):
        first = random.randrange(15000, 30000)
        if not any(listens(p) for p in range(first, first + n)):
            return list(range(first, first + n))
    raise Problem("no free ports on 127.0.0.1")


class Cluster:
    """The cluster whose files are in `folder`: settings.json, conf/, run/, log/, state/, spool/."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.conf = self.folder / "conf" / "slurm.conf"
        self.settings_file = self.folder / "settings.json"

    @property
    def settings(self) -> dict:
        try:
            return json.loads(self.settings_file.read_text())
        except FileNotFoundError:
            raise Problem(f"no cluster in {self.folder}: start one with `up`") from None

    def environment(self) -> dict[str, str]:
        """This environment without settings of another Slurm, and with this one's address."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(REPLACED)}
        return {**kept, "SLURM_CONF": str(self.conf)}

    def ask(self, *command: str, seconds: float = 20) -> str:
        """Output of one of Slurm's commands."""
        try:
            done = subprocess.run(
                command, env=self.environment(), capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise Problem(f"{command[0]}: no answer in {seconds:.0f} s") from None
        if done.returncode:
            raise Problem(f"{' '.join(command)}: {' '.join(done.stderr.split())}")
        return done.stdout

    # Processes: run/<name>.json has the pid and start time of each started daemon.

    def pid(self, name: str) -> int | None:
        """Pid of the daemon started as `name`, if it still runs."""
        try:
            known = json.loads((self.folder / "run" / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None
        return known["pid"] if start_time(known["pid"]) == known["start"] else None

    def names(self) -> list[str]:
        """Daemons that were started and not stopped, running or not."""
        return sorted(p.stem for p in (self.folder / "run").glob("*.json"))

    def start(self, name: str, command: list, ready: Callable[[], bool], **extra: str) -> None:
        """Start a daemon unless it runs, and wait until it is ready."""
        if self.pid(name):
            return
        log = self.folder / "log" / f"{name}.out"
        with open(log, "ab") as out:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder / "run",
                env={**self.environment(), **extra},
                start_new_session=True,
            )
        known = {"pid": process.pid, "start": start_time(process.pid)}
        (self.folder / "run" / f"{name}.json").write_text(json.dumps(known))
        if not wait_for(lambda: process.poll() is not None or ready(), 60) or (
            process.poll() is not None
        ):
            lines = log.read_text(errors="replace").strip().splitlines()
            raise Problem(f"{name} did not start: {lines[-1] if lines else 'no output'} ({log})")

    def stop(self, name: str, first: int = signal.SIGTERM) -> None:
        """Stop a daemon: first with signal `first`, then with KILL."""
        if pid := self.pid(name):
            for signum, seconds in ((first, 20), (signal.SIGKILL, 5)):
                if self.pid(name):
                    os.kill(pid, signum)
                    wait_for(lambda: not self.pid(name), seconds)
            if self.pid(name):
                raise Problem(f"{name} (pid {pid}) does not end")
        (self.folder / "run" / f"{name}.json").unlink(missing_ok=True)

    def job_processes(self, node: str = "") -> set[int]:
        """Step managers, identified by the environment of their slurmd, and their descendants."""
        mark = f"{NODE_MARK}={self.folder}:{node}".encode()
        parents, found = {}, set()
        daemons = {self.pid(name) for name in self.names()}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
                words = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(w == mark if node else w.startswith(mark) for w in words):
                found.add(int(entry.name))
        found -= daemons
        while more := {p for p, parent in parents.items() if parent in found} - found - daemons:
            found |= more
        return found

    def kill_jobs(self, node: str = "") -> None:
        """Kill all processes started by a node, or by all nodes."""
        deadline = time.monotonic() + 10
        while pids := self.job_processes(node):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise Problem(f"processes {sorted(pids)} do not end")
            time.sleep(0.05)

    # Commands.

    def up(self, options: dict) -> str:
        """Start the cluster, or restart daemons that have died."""
        missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
        if missing:
            raise Problem(
                f"not installed here: {', '.join(missing)}. On Debian: apt-get install "
                f"--no-install-recommends {' '.join(PACKAGES.values())}"
            )
        began = time.monotonic()
        if any(self.pid(name) for name in self.names()):
            now = self.settings
            other = [f"{k}={now[k]}" for k in options if now[k] != options[k]]
            if other:
                raise Problem(
                    f"a cluster with {', '.join(other)} runs in {self.folder}: `down` first"
                )
        else:
            n = options["nodes"]
            ports = free_ports(n + 1)
            now = {
                **options,
                "ctld_port": ports[0],
                "node_ports": ports[1:],
                "node_names": [f"127.0.0.{11 + i}" for i in range(n)],
                "first_job": int(time.time()) % 60_000_000 + 1,
            }
            if self.folder.exists() and self.folder.stat().st_uid != os.getuid():
                raise Problem(f"{self.folder} belongs to another user: give another --dir")
            shutil.rmtree(self.folder / "state", ignore_errors=True)  # discard old jobs
            write_files(self.folder, now)
            self.settings_file.write_text(json.dumps(now, indent=1) + "\n")
        self.start_munge()
        self.start("slurmctld", ["slurmctld", "-D", "-f", self.conf], lambda: listens(now["ctld_port"]))  # fmt: skip
        for name in now["node_names"]:
            self.start_slurmd(name)
        self.wait_until_ready(now["node_names"])
        return (
            f"up after {time.monotonic() - began:.1f} s in {self.folder}: {now['nodes']} nodes of "
            f"{now['cpus']} CPUs and {now['gpus']} simulated GPUs"
        )

    def start_munge(self) -> None:
        run = self.folder / "run"
        words = ["munged", "-F", f"--socket={run}/munge.socket", f"--pid-file={run}/munged.service"]
        words += [f"--key-file={self.folder}/conf/munge.key", f"--seed-file={run}/munged.seed"]
        words += [f"--log-file={self.folder}/log/munged.log"]
        probe = ["munge", "-n", "-S", f"{run}/munge.socket"]
        self.start("munged", words, lambda: not subprocess.run(probe, capture_output=True).returncode)  # fmt: skip

    def start_slurmd(self, node: str) -> None:
        now = self.settings
        port = now["node_ports"][now["node_names"].index(node)]
        (self.folder / "spool" / node).mkdir(exist_ok=True)
        words = ["slurmd", "-D", "-N", node, "-f", self.conf]
        self.start(f"slurmd.{node}", words, lambda: listens(port), **{NODE_MARK: f"{self.folder}:{node}"})  # fmt: skip

    def wait_until_ready(self, nodes: list[str]) -> None:
        """Wait until the controller can start jobs on all of `nodes`."""

        def ready() -> bool:
            rows = self.ask("sinfo", "-hN", "-p", "main", "-n", ",".join(nodes), "-o", "%T")
            return all(s in ("idle", "mixed", "allocated", "completing") for s in rows.split())

        if not wait_for(ready, 60, step=0.2):
            raise Problem(f"nodes are not ready, see {self.folder}/log/slurmctld.log")

    def node(self, word: str) -> str:
        """Name of a node given by name or by its number from 1."""
        names = self.settings["node_names"]
        name = f"127.0.0.{10 + int(word)}" if word.isdigit() else word
        if name not in names:
            raise Problem(f"no node {word}: there are {', '.join(names)}, or 1 to {len(names)}")
        return name

    def node_kill(self, word: str) -> str:
        """Kill the node's slurmd and all its jobs, as a power failure does."""
        node = self.node(word)
        if not self.pid(f"slurmd.{node}"):
            raise Problem(f"node {node} is down already")
        self.stop(f"slurmd.{node}", first=signal.SIGKILL)
        self.kill_jobs(node)
        return f"killed {node}; the controller notices within {15 + 15} s"

    def node_start(self, word: str) -> str:
        node = self.node(word)
        self.start_slurmd(node)
        self.wait_until_ready([node])
        return f"{node} is back"

    def down(self) -> str:
        """Stop everything. Files are kept, so that logs can be read."""
        names = self.names()
        for name in sorted(names, key=lambda n: not n.startswith("slurmd.")):
            if name != "munged":  # the other daemons need it until they have ended
                self.stop(name)
        self.kill_jobs()
        self.stop("munged")
        return f"down, {len(names)} processes; logs are in {self.folder}/log" if names else "nothing runs"  # fmt: skip

    def status(self) -> tuple[str, bool]:
        """Text to print, and whether all daemons run."""
        found = {name: self.pid(name) for name in self.names()}
        lines = [f"  {name:18} {f'pid {pid}' if pid else 'dead'}" for name, pid in found.items()]
        if found.get("slurmctld"):
            rows = self.ask("sinfo", "-hN", "-p", "main", "-o", "%N  %T  CPUs %C (A/I/O/T)  %G")
            lines += ["nodes:", *(f"  {row}" for row in rows.splitlines())]
        n = len(self.settings["node_names"]) + 2
        up = len(found) == n and all(found.values())
        head = "up" if up else "down" if not any(found.values()) else "up in part"
        return "\n".join([f"{head}, SLURM_CONF={self.conf}", *lines]), up


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    place = Path(tempfile.gettempdir()) / f"chinchilla-slurm-{os.getuid()}"
    parser.add_argument("--dir", type=Path, default=place, help=f"its files; default {place}")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the cluster, or restart daemons that have died")
    for name, value, what in (
        ("nodes", 4, "how many"),
        ("cpus", 4, "of a node"),
        ("memory-mb", 8000, "of a node; nothing enforces it"),
        ("gpus", 2, "of a node, simulated"),
        ("max-array", 1001, "maximum size of a job array"),
    ):
        up.add_argument(f"--{name}", type=int, default=value, help=f"{what}; default {value}")
    commands.add_parser("down", help="stop it")
    commands.add_parser("status", help="show processes and nodes; exit 1 unless all daemons run")
    for name in ("node-kill", "node-start"):
        commands.add_parser(name).add_argument("node", help="name, or number from 1")
    commands.add_parser("run", help="run a command with its address").add_argument(
        "words", nargs=argparse.REMAINDER
    )
    args = parser.parse_args()
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    cluster = Cluster(args.dir)
    try:
        if args.command == "up":
            keys = ("nodes", "cpus", "memory_mb", "gpus", "max_array")
            print(cluster.up({key: getattr(args, key) for key in keys}))
        elif args.command == "status":
            text, up_now = cluster.status()
            print(text)
            return 0 if up_now else 1
        elif args.command == "run":
            if not args.words:
                parser.error("run: give a command")
            return subprocess.run(args.words, env=cluster.environment()).returncode
        elif args.command == "down":
            print(cluster.down())
        else:
            print(getattr(cluster, args.command.replace("-", "_"))(args.node))
    except Problem as problem:
        print(f"local_slurm: {problem}", file=sys.stderr)
        return 2 if "not installed" in str(problem) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

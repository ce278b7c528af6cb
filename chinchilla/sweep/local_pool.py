"""Several workers on one machine: a subprocess each, with its own GPU or its share of the cores.

Used by cluster=local and, inside a Slurm job, for the GPUs of that job.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chinchilla.config import ClusterConfig, RuntimeConfig
from chinchilla.sweep.preflight import worker_name
from chinchilla.sweep.signals import Stop, warnings_held

WORKER = (sys.executable, "-m", "chinchilla.sweep.worker")


@dataclass(frozen=True)
class PoolShape:
    """How many workers, and what each may use."""

    n_workers: int
    threads: int  # CPU threads of one worker
    devices: tuple[str, ...] = ()  # CUDA_VISIBLE_DEVICES of each worker; empty = as inherited


def visible_gpus() -> tuple[str, ...]:
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return tuple(d.strip() for d in listed.split(",") if d.strip() not in ("", "-1"))
    import torch  # seconds, and only where nobody has said what there is

    return tuple(str(i) for i in range(torch.cuda.device_count()))


def pool_shape(cluster: ClusterConfig, runtime: RuntimeConfig, n_at_once: int) -> PoolShape:
    """Workers for `n_at_once` runs at a time: one per GPU, or on CPUs one per core; never more."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    gpus = visible_gpus() if runtime.device in ("auto", "cuda") else ()
    wanted = cluster.n_workers or len(gpus) or (1 if ":" in runtime.device else cores)
    n = max(1, min(wanted, n_at_once))
    devices = tuple(gpus[i % len(gpus)] for i in range(n)) if gpus else ()
    return PoolShape(n, cluster.threads_per_worker or max(1, cores // n), devices)


class Pool:
    """Running workers. `with start(...) as pool: pool.wait(stop)`."""

    def __init__(self, processes: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
        self.processes = processes
        self.logs = logs

    def wait(self, stop: Stop) -> list[int]:
        """Exit codes, once all have ended; a stop is passed on to them as TERM, once."""
        told = False
        while any(p.poll() is None for p in self.processes):
            if stop and not told:
                told = True
                self._signal(signal.SIGTERM)
            time.sleep(0.1)
        return [p.returncode for p in self.processes]

    def last_words(self) -> list[str]:
        """One line for each worker that ended badly: its name, exit code and last log line."""
        words = []
        for process, log in zip(self.processes, self.logs, strict=True):
            if process.returncode not in (0, 75):
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                words.append(
                    f"worker {log.stem} ended with code {process.returncode}: "
                    f"{lines[-1] if lines else 'no output'} ({log})"
                )
        return words

    def _signal(self, signum: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signum)

    def end(self) -> None:
        """Leave no child behind: TERM, ten seconds, KILL."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def start(
    sweep_dir: Path,
    data_dir: Path,
    shape: PoolShape,
    program: tuple[str, ...] = WORKER,
    deadline: float = 0.0,
) -> Iterator[Pool]:
    """Start the workers; whatever still runs when the block ends is ended.

    Args:
        sweep_dir: holds plan.jsonl and runtime.json; logs go to its workers/ folder.
        data_dir: token folder.
        shape: how many, and what each may use.
        program: command that a worker is started by.
        deadline: when the workers will be told to stop, UNIX seconds; 0 = as Slurm says, or never.

    Yields:
        The pool, to wait for.
    """
    (sweep_dir / "workers").mkdir(exist_ok=True)
    pool = Pool([], [])
    try:
        for i in range(shape.n_workers):
            name = worker_name(i)
            environment = {**os.environ, "OMP_NUM_THREADS": str(shape.threads)}
            if shape.devices:
                environment["CUDA_VISIBLE_DEVICES"] = shape.devices[i]
            command = [*program, str(sweep_dir), str(data_dir), "--name", name]
            command += ["--threads", str(shape.threads), "--parent", str(os.getpid())]
            command += [f"--deadline={deadline}"] if deadline else []
            log = sweep_dir / "workers" / f"{name}.log"
            with open(log, "ab") as f, warnings_held():
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=f,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a Ctrl-C reaches the launcher, which passes it on once
                )
            pool.processes.append(process)
            pool.logs.append(log)
        yield pool
    finally:
        pool.end()

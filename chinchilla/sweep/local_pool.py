"""Run several workers on one machine: a subprocess per GPU, or per share of the CPU cores.

Used by cluster=local and, inside a Slurm job, for the GPUs of that job.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from chinchilla.config import ClusterConfig, RuntimeConfig
from chinchilla.config.command_line.words import quoted
from chinchilla.core.errors import EXIT_AGAIN, EXIT_OK
from chinchilla.core.files.reading import read_tail
from chinchilla.core.files.writing import open_log
from chinchilla.sweep.preflight import worker_name
from chinchilla.sweep.signals import Stop, block_warnings

TAIL_BYTES = 1 << 14  # read from the end of a log

# -P: a file in the working folder, such as random.py, must not replace a module of the same name.
WORKER = (sys.executable, "-P", "-m", "chinchilla.cli", "worker")


@dataclass(frozen=True)
class PoolSize:
    """Number of workers and the resources of each."""

    n_workers: int
    threads: int  # CPU threads per worker
    gpus: tuple[str, ...] = ()  # assigned to the workers in turn; empty = all see every GPU


def visible_gpus() -> tuple[str, ...]:
    """GPUs that this process may use, as named in CUDA_VISIBLE_DEVICES."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return tuple(d.strip() for d in listed.split(",") if d.strip() not in ("", "-1"))
    import torch  # takes seconds

    return tuple(str(i) for i in range(torch.cuda.device_count()))


def pool_size(cluster: ClusterConfig, runtime: RuntimeConfig, n_at_once: int) -> PoolSize:
    """One worker per GPU, or per CPU core without GPUs; at most `n_at_once`."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    gpus = visible_gpus() if runtime.device in ("auto", "cuda") else ()
    default = len(gpus) or (1 if ":" in runtime.device else cores)
    n = max(1, min(cluster.n_workers or default, n_at_once))
    return PoolSize(n, cluster.threads_per_worker or max(1, cores // n), gpus)


class Pool:
    """Worker processes; `with Pool(...) as pool: pool.wait(stop)` ends those still running.

    Args:
        sweep_dir: holds plan.jsonl and runtime.json; logs are written to its folder workers/.
        data_dir: token folder.
        size: number of workers and their resources.
        program: command that starts a worker.
    """

    def __init__(
        self, sweep_dir: Path, data_dir: Path, size: PoolSize, program: tuple[str, ...] = WORKER
    ) -> None:
        self.logs: dict[subprocess.Popen[bytes], Path] = {}
        try:
            for i in range(size.n_workers):
                self._start(i, sweep_dir, data_dir, size, program)
        except BaseException:  # `with` ends only the workers of a pool that is complete
            self.__exit__()
            raise

    def _start(
        self, i: int, sweep_dir: Path, data_dir: Path, size: PoolSize, program: tuple[str, ...]
    ) -> None:
        name = worker_name(i)
        environment = {**os.environ, "OMP_NUM_THREADS": str(size.threads)}
        if size.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = size.gpus[i % len(size.gpus)]
        command = [*program, f"sweep_dir={quoted(str(sweep_dir))}"]
        command += [f"data_dir={quoted(str(data_dir))}", f"name={name}"]
        command += [f"threads={size.threads}", f"parent={os.getpid()}"]
        log = sweep_dir / "workers" / f"{name}.log"
        with open_log(log) as f, block_warnings():
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=f,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the launcher, which sends TERM
            )
        self.logs[process] = log

    def wait(self, stop: Stop) -> list[int]:
        """Wait for all workers and return their exit codes; `stop` sends them TERM once."""
        signalled = False
        while any(p.poll() is None for p in self.logs):
            if stop and not signalled:
                signalled = True
                self._terminate()
            time.sleep(0.1)
        return [p.returncode for p in self.logs]

    def errors(self) -> list[str]:
        """One line per failed worker: its name, exit code and last line of output."""
        lines = []
        for process, log in self.logs.items():
            if process.returncode not in (EXIT_OK, EXIT_AGAIN):
                try:
                    output = read_tail(log, TAIL_BYTES)[0].strip().splitlines() or ["no output"]
                except OSError as error:
                    output = [f"its log cannot be read ({error.strerror})"]
                lines.append(
                    f"worker {log.stem} ended with code {process.returncode}: {output[-1]} ({log})"
                )
        return lines

    def _terminate(self) -> None:
        for process in self.logs:
            if process.poll() is None:
                process.terminate()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        """End all workers: TERM, then KILL after ten seconds."""
        self._terminate()
        deadline = time.monotonic() + 10
        for process in self.logs:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

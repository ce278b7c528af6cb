"""A run on two nodes with two ranks each, on a real Slurm: it finishes, and is requeued when interrupted.

Results are bit-identical to those of four local processes.
"""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from slurm_world import LOCAL, Sweep, queue, slurm, wait_until

from chinchilla.plan.records import Curve, RunResult
from chinchilla.sweep.local_pool import WORKER

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

TWO_BY_TWO = [
    "cluster.n_workers=1", "cluster.gpus_per_node=0", "cluster.nodes=2", "cluster.ranks_per_node=2",
]  # fmt: skip


N_RUNS = 1


def restarts(job: str) -> int:
    words = slurm("scontrol", "show", "job", job).split()
    return max(int(w.split("=")[1]) for w in words if w.startswith("Restarts="))


def small(folder: Path, data_dir: Path) -> Sweep:
    """One run only: four ranks are slow on two cores."""
    made = Sweep(folder / "tiny", data_dir)
    instead = {"grid.budgets": "grid.budgets=[2e9]", "grid.models": "grid.models=[12x1]"}
    made.words = [instead.get(word.split("=")[0], word) for word in made.words]
    return made


@pytest.fixture
def sweep(data_dir: Path, tmp_path: Path) -> Sweep:
    return small(tmp_path, data_dir)


@pytest.fixture(scope="module")
def alone(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep trained by single local processes."""
    made = small(tmp_path_factory.mktemp("alone"), data_dir)
    made.launch(*LOCAL)
    return made


@pytest.fixture(scope="module")
def four_here(alone: Sweep, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep trained by four local processes together, started as by torchrun."""
    made = small(tmp_path_factory.mktemp("four"), data_dir)
    made.folder.mkdir()
    for name in ("plan.jsonl", "runtime.json"):
        shutil.copy(alone.folder / name, made.folder / name)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [*WORKER, f"sweep_dir={made.folder}", f"data_dir={data_dir}", "threads=1"]
    processes = [
        subprocess.Popen(
            command,
            env={
                **os.environ, "RANK": str(i), "WORLD_SIZE": "4", "LOCAL_RANK": str(i),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            },
        )
        for i in range(4)
    ]  # fmt: skip
    assert [p.wait(200) for p in processes] == [0] * 4
    assert_same(made, made)
    return made


def assert_same(sweep: Sweep, reference: Sweep, n_interrupted: int = 0) -> None:
    """Check that the run has the reference's bits and that at most n_interrupted were restarted."""
    found = sweep.results()
    assert len(found) == N_RUNS, sweep.logs()
    assert sum(r.attempts for r in found) <= N_RUNS + n_interrupted
    for result in found:
        there, here = (s.folder / "runs" / result.spec.run_id for s in (reference, sweep))
        other = RunResult.load(there)
        assert result.status == "finished"
        assert result.final_loss == other.final_loss
        assert result.validation_loss == other.validation_loss
        assert Curve.load(here).loss.tobytes() == Curve.load(there).loss.tobytes()


def test_an_interrupted_job_of_several_ranks_is_requeued(
    sweep: Sweep, four_here: Sweep, alone: Sweep
):
    """Warned, so that rank 0 requeues its job, once; requeued by an operator; then left alone.

    Its result has the bits of four local processes, and is within 1e-4 nats of one process's: the order
    of fp32 sums differs in each of its 121 updates.
    """
    [job] = sweep.launch_on_slurm(*TWO_BY_TWO)["job_ids"]
    warn = ["timeout", "1.5", "scancel", "--signal=USR2", job]
    for n, interrupt in enumerate((warn, ["scontrol", "requeue", job])):
        before = sum(sweep.running().values())
        wait_until(lambda before=before: sum(sweep.running().values()) > before, 100)
        assert queue("%D %C") == ["2 4"], "one job, two nodes, a core for each rank"
        subprocess.run(interrupt)
        wait_until(lambda n=n: restarts(job) == n + 1, 60)
    sweep.wait_for_the_end()
    assert restarts(job) == 2, "no rank but one asked for it"
    assert slurm("scontrol", "show", "job", job).count("JobState=COMPLETED") == 1
    assert_same(sweep, four_here, n_interrupted=2)
    for result in sweep.results():
        assert result.device.startswith("4 x CPU")
        other = RunResult.load(alone.folder / "runs" / result.spec.run_id)
        assert result.final_loss == pytest.approx(other.final_loss, abs=1e-4)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_is_requeued_when_another_rank_is_killed_or_stopped(
    sweep: Sweep, four_here: Sweep, signum: int
):
    """srun ends rank 0 soon after the killed rank; rank 0 has requested the requeue before."""
    [job] = sweep.launch_on_slurm(*TWO_BY_TWO)["job_ids"]
    wait_until(sweep.running, 100)
    [pid] = [p.name for p in Path("/proc").iterdir() if is_rank(p, job, "3")]
    os.kill(int(pid), signum)
    wait_until(lambda: restarts(job) == 1, 60)
    sweep.wait_for_the_end()
    assert_same(sweep, four_here, n_interrupted=1)
    assert not list(sweep.folder.glob("runs/*/attempts/*"))


def test_a_job_that_lost_a_node_is_restarted_on_others(sweep: Sweep, four_here: Sweep):
    """Rank 0 requests the requeue; Slurm starts the job again when it has detected that the node is down."""
    [job] = sweep.launch_on_slurm(*TWO_BY_TWO)["job_ids"]
    wait_until(sweep.running, 100)
    lost = slurm("scontrol", "show", "hostnames", queue("%N")[0]).split()[-1]
    slurm("node-kill", lost)
    try:
        wait_until(lambda: restarts(job) == 1 and queue("%T") == ["RUNNING"])
        assert lost not in slurm("scontrol", "show", "hostnames", queue("%N")[0]).split()
        sweep.wait_for_the_end()
    finally:
        slurm("node-start", lost)
    assert_same(sweep, four_here, n_interrupted=1)


def is_rank(process: Path, job: str, rank: str) -> bool:
    try:
        words = (process / "environ").read_bytes().split(b"\0")
        name = (process / "cmdline").read_bytes()
    except OSError:
        return False
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()}
    return wanted <= set(words) and b"chinchilla.sweep.slurm.job" in name and b"srun" not in name

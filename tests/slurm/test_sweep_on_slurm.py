"""Sweeps on a real Slurm, with and without failures, have bit-identical losses to a local sweep."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_world import N_CELLS, SLURM, WHOLE_NODES, Sweep, queue, slurm, wait_until
from sweep_fakes import planted

from chinchilla.cli import main

pytestmark = pytest.mark.slurm


def restarts(job: str) -> int:
    """Number of restarts of a job."""
    words = slurm("scontrol", "show", "job", job).split()
    return max(int(w.split("=")[1]) for w in words if w.startswith("Restarts="))


def test_results_on_slurm_equal_local_results(sweep: Sweep, reference: Sweep):
    """Two launchers at once, inside another job, whose variables must not be passed on."""
    began = time.monotonic()
    foreign = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "9", "SBATCH_PARTITION": "none", "SBATCH_TIMELIMIT": "1"}  # fmt: skip
    launchers = [sweep.start(*SLURM, **foreign) for _ in range(2)]
    printed = [p.communicate(timeout=120)[0] for p in launchers]
    assert time.monotonic() - began < 30
    assert [p.returncode for p in launchers] == [0, 0], printed
    assert sum("submitted 2 workers" in out for out in printed) == 1
    assert sum("submitted no workers" in out for out in printed) == 1
    assert len(queue()) == 2, "they returned while the jobs run"
    assert set(queue("%P %l %k")) == {
        f"main 30:00 chinchilla:tiny:{next(sweep.folder.glob('slurm/*')).name}"
    }
    arrays = sweep.arrays()
    sweep.wait_for_the_end()
    sweep.assert_measured_as(reference)
    assert "6/6 runs" in sweep.launch(*SLURM)
    assert sweep.arrays() == arrays, "a finished sweep submits nothing"


def test_queued_jobs_count_and_arrays_respect_the_sites_limit(sweep: Sweep):
    """The partition is down, so every job is pending; arrays hold at most five jobs."""
    slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        settings = ("cluster.n_workers=6", "cluster.max_queued_jobs=8")
        printed = sweep.launch_on_slurm(*settings)
        assert printed["n_submitted"] == 6
        sizes = [queue("%F").count(job) for job in printed["job_ids"]]
        assert sizes == [5, 1]
        again = sweep.launch_on_slurm(*settings)
        assert (again["n_submitted"], again["n_earlier"]) == (0, 6)
        other = Sweep(sweep.folder.with_name("other"), Path(sweep.words[-2].split("=")[1]))
        printed = other.launch_on_slurm(*settings)
        assert (printed["n_submitted"], printed["n_over_cap"]) == (2, 4)
        assert len(queue()) == 8
    finally:
        slurm("scontrol", "update", "PartitionName=main", "State=UP")


def test_jobs_of_a_launcher_killed_after_sbatch_work_and_are_counted(sweep: Sweep, tmp_path: Path):
    """It is killed before it has recorded the number; the next launch finds the jobs in the queue."""
    deadly = tmp_path / "bin" / "sbatch"
    deadly.parent.mkdir()
    deadly.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@"\nkill -9 $PPID\n')
    deadly.chmod(0o755)
    launcher = sweep.start(*SLURM, PATH=f"{deadly.parent}:{os.environ['PATH']}")
    launcher.communicate(timeout=120)
    assert launcher.returncode == -9
    assert sweep.arrays() == []
    printed = sweep.launch_on_slurm()
    assert (printed["n_submitted"], printed["n_earlier"]) == (0, 2)
    wait_until(sweep.results)


def test_runs_of_a_failed_node_are_taken_over(sweep: Sweep, reference: Sweep):
    """The sweep ends before Slurm notices the failure, which takes half a minute."""
    [job] = sweep.launch_on_slurm(*WHOLE_NODES)["job_ids"]
    wait_until(lambda: len(sweep.running()) == 2)
    victim = dict(row.split() for row in queue("%i %N"))[f"{job}_0"]
    slurm("node-kill", victim)
    try:
        wait_until(lambda: len(sweep.results()) == N_CELLS)
    finally:
        slurm("node-start", victim)
    sweep.assert_measured_as(reference, n_interrupted=1)
    assert "6/6 runs" in sweep.launch(*SLURM)
    assert sweep.arrays() == [job]


def test_the_job_of_a_failed_node_is_restarted_elsewhere(sweep: Sweep, reference: Sweep):
    """A launch meanwhile submits nothing, because the job that Slurm will restart is counted."""
    words = (*WHOLE_NODES, "cluster.n_workers=1")
    [job] = sweep.launch_on_slurm(*words)["job_ids"]
    wait_until(sweep.running)
    [victim] = queue("%N")
    slurm("node-kill", victim)
    try:
        # A job that Slurm is about to requeue is COMPLETING for a moment, and counts as over.
        wait_until(lambda: "COMPLETING" not in queue("%T"))
        printed = sweep.launch_on_slurm(*words)
        assert (printed["n_submitted"], printed["n_earlier"]) == (0, 1)
        wait_until(lambda: restarts(job) == 1)
        sweep.wait_for_the_end()
    finally:
        slurm("node-start", victim)
    sweep.assert_measured_as(reference, n_interrupted=1)
    assert sweep.arrays() == [job]


def test_cancelled_jobs_are_replaced_and_train_the_rest(sweep: Sweep, reference: Sweep):
    """First one element of an array, then all jobs."""
    [job] = sweep.launch_on_slurm()["job_ids"]
    wait_until(lambda: len(sweep.running()) == 2)
    slurm("scancel", f"{job}_1")
    wait_until(lambda: f"{job}_1" not in queue())
    printed = sweep.launch_on_slurm()
    assert (printed["n_submitted"], printed["n_earlier"]) == (1, 1)
    wait_until(sweep.results)
    slurm("scancel", job, *printed["job_ids"])
    sweep.wait_for_the_end()
    before = {p: p.read_bytes() for p in sweep.folder.glob("runs/*/result.json")}
    assert 0 < len(before) < N_CELLS
    printed = sweep.launch_on_slurm()
    n_left = N_CELLS - len(before)
    assert (printed["n_submitted"], printed["n_earlier"]) == (min(2, n_left), 0)
    sweep.wait_for_the_end()
    sweep.assert_measured_as(reference, n_interrupted=3)
    assert {p: p.read_bytes() for p in before} == before


def test_an_interrupted_job_is_requeued(sweep: Sweep, reference: Sweep):
    """Warned, requeued, preempted; one worker, so nobody else can finish its runs; one launch."""
    words = (*WHOLE_NODES, "cluster.n_workers=1", "cluster.partition=scavenge")
    [job] = sweep.launch_on_slurm(*words)["job_ids"]
    for n, interrupt in enumerate((warn, requeue, preempt)):
        before = sum(sweep.running().values())
        wait_until(lambda before=before: sum(sweep.running().values()) > before)
        interrupt(job)
        wait_until(lambda n=n: restarts(job) == n + 1)
    sweep.wait_for_the_end()
    sweep.assert_measured_as(reference, n_interrupted=3)
    assert sweep.arrays() == [job]


def warn(job: str) -> None:
    """As at the time limit. scancel is ended after 1.5 s because it would signal the restarted job too."""
    subprocess.run(["timeout", "1.5", "scancel", "--signal=USR2", job])


def requeue(job: str) -> None:
    slurm("scontrol", "requeue", job)


def preempt(job: str) -> None:
    """Submit a job of a partition with higher priority to the same node."""
    [node] = queue("%N")
    slurm("sbatch", "--output=/dev/null", "-w", node, "-c", "4", "--wrap", "sleep 1")


def test_jobs_that_die_before_python_starts_are_reported(sweep: Sweep, capsys):
    """Case: a failing setup line, silent or not. The next jobs, without it, train the sweep."""
    for line, said in (("exit 3", " is empty."), ("module load cuda || exit", "command not found")):
        printed = sweep.launch_on_slurm(f"cluster.setup_lines=[{line}]")
        [job] = printed["job_ids"]
        wait_until(lambda: not queue())
        for command in ("status", "logs"):
            assert main([command, f"sweep_dir={sweep.folder}"]) == 0
            out = " ".join(capsys.readouterr().out.split())
            assert (
                f"2 jobs ended without starting a worker, or were cancelled: {job}_0, {job}_1."
                in out
            )
            assert f"{job}_0_0_log.out" in out
            assert said in out
            assert f"scontrol show job {job}_0" in out
        assert "FAILED" in slurm("scontrol", "show", "job", f"{job}_0"), "as the message says"
    assert len(printed["unstarted"]) == 1, "of the launch before"
    sweep.launch_on_slurm()
    wait_until(lambda: len(sweep.running()) == 2 or sweep.results())
    assert main(["status", f"sweep_dir={sweep.folder}"]) == 0
    assert "without starting" not in capsys.readouterr().out


CONTAINER = """#!/bin/bash
# Stands for a container runtime: checks its arguments, and hides Slurm's commands.
echo "$@" > {folder}/arguments
[ "$1 $2 $3" = "exec --nv {folder}/my image.sif" ] && [ "$4" = {python} ] || exit 9
shift 3
PATH={folder}/nothing exec "$@"
"""


def test_a_job_in_a_container_in_odd_folders_is_requeued_by_its_script(
    sweep: Sweep, reference: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With options of sbatch and srun, patterns of Slurm in the folder's name, and planted modules.

    srun's own option --export stands for the container options of Pyxis, which need its plugin.
    """
    monkeypatch.chdir(planted(tmp_path / "planted"))
    runtime = tmp_path / "apptainer"
    runtime.write_text(CONTAINER.format(folder=tmp_path, python=sys.executable))
    runtime.chmod(0o755)
    folder = tmp_path / "100%job %A it's"
    odd = Sweep(folder, Path(sweep.words[-2].split("=")[1]))
    [job] = odd.launch_on_slurm(
        *WHOLE_NODES, "cluster.n_workers=1", "cluster.srun=[--export=ALL,--quiet]",
        "cluster.sbatch={gres: 'gpu:1', exclude: '127.0.0.12', mail-type: NONE}",
        f"cluster.python={runtime} exec --nv '{tmp_path}/my image.sif' {sys.executable}",
    )["job_ids"]  # fmt: skip
    wait_until(odd.running)
    assert queue("%j %N")[0].split()[0] == "100-job--A-it-s-chinchilla"
    assert "127.0.0.12" not in queue("%N")
    words = slurm("scontrol", "show", "job", job)
    assert "gres:gpu:1" in words or "gpu:1" in words
    warn(job)
    wait_until(lambda: restarts(job) == 1)
    odd.wait_for_the_end()
    odd.assert_measured_as(reference, n_interrupted=1)
    assert [p.name for p in folder.glob("slurm/*/*_log.out")] == [f"{job}_0_log.out"]
    assert (tmp_path / "arguments").read_text().startswith("exec --nv ")


def test_nothing_is_written_if_slurm_does_not_answer(sweep: Sweep, tmp_path: Path):
    """A later launch is free to choose another recipe."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\nexit 1\n")
    squeue.chmod(0o755)
    path = f"{squeue.parent}:{os.environ['PATH']}"
    launcher = sweep.start(*SLURM, PATH=path)
    out = launcher.communicate(timeout=120)[0]
    assert launcher.returncode == 2
    assert f"it is not known which jobs of {sweep.folder} are queued" in out
    assert not (sweep.folder / "plan.jsonl").exists()
    assert sweep.launch_on_slurm("recipe.peak_lr=1e-3")["n_submitted"] == 2

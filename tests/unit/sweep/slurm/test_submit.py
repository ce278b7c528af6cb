"""Submission of jobs with a fake Slurm; tests/slurm uses a real one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_fakes
from slurm_fakes import FakeSlurm, on_slurm
from sweep_fakes import make_result, make_specs, make_sweep, save_curve

from chinchilla.config import TrainCommand
from chinchilla.core.errors import InputError
from chinchilla.sweep.launch import launch
from chinchilla.sweep.run_files import missing_specs, run_dir_of
from chinchilla.sweep.slurm import queue, submit
from chinchilla.sweep.view.jobs import jobs_in_queue
from chinchilla.sweep.view.logs import sweep_logs

SUPPORT = Path(slurm_fakes.__file__).parent


def test_the_script_has_the_settings(tmp_path: Path, fake: FakeSlurm, capsys):
    sweep = tmp_path / "sweep"
    settings = on_slurm(gpus_per_node=2, setup_lines=["module load cuda"])
    assert launch(settings, make_specs(9), sweep, tmp_path) == 0
    [text] = fake.scripts()
    for part in (
        "--array=0-2",
        "--signal=USR2@180",
        "--comment=chinchilla:sweep:",
        "--requeue",
        "--open-mode=append",
        "--partition=p1",
        "--qos=long",
        "--time=90",
        "--mem=32GB",
        "--gpus-per-node=2",
        "--cpus-per-task=8",
        "--kill-on-bad-exit=1",
        'sh -c \'trap "" USR2; exec "$0" "$@"\' ',
        "module load cuda",
    ):
        assert part in text, part
    assert "--account" not in text
    out = capsys.readouterr().out
    assert "submitted 3 workers as job 41" in out
    assert f"chinchilla status {sweep}" in out
    assert f"chinchilla cancel {sweep}" in out
    [(folder, array)] = queue.job_arrays(sweep).items()
    assert json.loads((folder / "answer.json").read_text())["job_id"] == "41"
    assert (array.n_jobs, array.n_workers, array.threads) == (3, 2, 4)


def test_a_script_that_another_user_changes_before_sbatch_is_not_submitted(
    tmp_path: Path, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
):
    def write_and_change(path: Path, text: str) -> None:
        path.write_text("#!/bin/sh\necho planted\n")

    monkeypatch.setattr(submit, "write_text", write_and_change)
    launch(on_slurm(), make_specs(2), tmp_path / "sweep", tmp_path)
    [script] = fake.scripts()
    assert "planted" not in script
    assert "--comment=chinchilla:sweep:" in script


@pytest.mark.parametrize("mode", [0o755, 0o2775, 0o777])
def test_logs_of_jobs_are_where_no_other_user_can_direct_them(
    tmp_path: Path, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch, mode: int
):
    """Slurm follows links when it opens a log, and others may write to a folder of their group."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    sweep.chmod(mode)
    if mode == 0o2775:
        if os.getuid() != 0:
            pytest.skip("only root can give a folder to another group")
        os.chown(sweep, -1, 65530)
    launch(on_slurm(), make_specs(1), sweep, tmp_path)
    [folder] = (sweep / "slurm").iterdir()
    private = tmp_path / "state" / "chinchilla" / "slurm" / folder.name
    expected = folder if mode == 0o755 else private
    assert f"--output={expected}/%j_0_log.out" in fake.scripts()[0]
    (expected / "41_0_log.out").write_text("no module named chinchilla")
    assert queue.job_logs(folder) == [expected / "41_0_log.out"]
    fake.set_jobs([])
    [row] = jobs_in_queue(sweep)["unstarted"]
    assert row["log"] == str(expected / "41_0_log.out")
    assert "no module named chinchilla" in str(sweep_logs(sweep, 5))
    if expected == private:
        assert private.stat().st_mode & 0o077 == 0


def test_a_short_job_is_not_warned_at_its_start(tmp_path: Path, fake: FakeSlurm):
    settings = on_slurm()
    settings.cluster.timeout_min = 2
    launch(settings, make_specs(2), tmp_path / "sweep", tmp_path)
    assert "--signal=USR2@30" in fake.scripts()[0]


def test_no_more_jobs_than_runs_are_submitted(tmp_path: Path, fake: FakeSlurm, capsys):
    sweep = tmp_path / "sweep"
    [spec] = make_specs(1)
    assert launch(on_slurm(gpus_per_node=0), [spec], sweep, tmp_path) == 0
    [text] = fake.scripts()
    assert "--array" not in text
    assert "--gpus" not in text
    run_dir_of(sweep, spec).mkdir(parents=True)
    curve = save_curve(run_dir_of(sweep, spec), spec)
    make_result(spec, **curve).save(run_dir_of(sweep, spec))
    (fake.folder / "squeue_fails").touch()  # a finished sweep asks Slurm nothing
    assert launch(on_slurm(), [spec], sweep, tmp_path) == 0
    assert len(fake.scripts()) == 1
    assert "1/1 runs" in capsys.readouterr().out


def test_launching_again_replaces_only_jobs_that_have_ended(
    tmp_path: Path, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
):
    specs, sweep = make_specs(9), tmp_path / "sweep"
    launch(on_slurm(), specs, sweep, tmp_path)
    launch(on_slurm(), specs, sweep, tmp_path)
    assert len(fake.jobs()) == 3
    assert "no workers" in (out := capsys.readouterr().out)
    assert "3 workers had been submitted before as job 41\n" in out
    rows = fake.jobs()
    fake.set_jobs([rows[0], rows[1].replace("PENDING", "COMPLETING")])  # one over, one ending
    launch(on_slurm(), specs, sweep, tmp_path)
    assert fake.arrays() == ["41", "41", "42", "42"]
    settings = on_slurm()
    settings.cluster.n_workers = 5
    settings.format = "json"
    capsys.readouterr()
    launch(settings, specs, sweep, tmp_path)
    output = json.loads(capsys.readouterr().out)
    assert (output["n_submitted"], output["n_earlier"]) == (2, 3)
    assert output["earlier_job_ids"] == ["41", "42"]


def test_jobs_of_train_train_only_its_run_and_count_only_for_it(tmp_path: Path, fake: FakeSlurm):
    specs, sweep = make_specs(3), tmp_path / "sweep"
    make_sweep(sweep, specs[1:])
    settings = TrainCommand(cluster=on_slurm().cluster, format="json")
    launch(settings, specs[:1], sweep, tmp_path)
    launch(settings, specs[:1], sweep, tmp_path)
    [array] = queue.job_arrays(sweep).values()
    assert missing_specs(sweep, array.selection) == specs[:1]
    launch(settings, specs[1:2], sweep, tmp_path)
    launch(on_slurm(), specs, sweep, tmp_path)
    assert fake.arrays() == ["41", "42", "43", "43", "43"]
    launch(settings, specs[2:], sweep, tmp_path)  # a job of the whole sweep will train it
    assert len(fake.jobs()) == 5


def test_jobs_of_other_sweeps_are_not_counted(tmp_path: Path, fake: FakeSlurm):
    for name in ("one", "two"):
        launch(on_slurm(), make_specs(9), tmp_path / name, tmp_path)
    assert len(fake.jobs()) == 6


def test_nothing_is_submitted_if_squeue_fails(tmp_path: Path, fake: FakeSlurm):
    (fake.folder / "squeue_fails").write_text("slurm_load_jobs error: Socket timed out")
    with pytest.raises(InputError, match=r"Socket timed out.*Nothing was submitted"):
        launch(on_slurm(), make_specs(9), tmp_path / "sweep", tmp_path)
    assert fake.scripts() == []


def test_arrays_respect_the_sites_limit_and_max_queued_jobs(
    tmp_path: Path, fake: FakeSlurm, capsys
):
    (fake.folder / "max_array").write_text("4")
    settings = on_slurm(gpus_per_node=1)
    settings.cluster.n_workers, settings.cluster.max_queued_jobs = 9, 12
    launch(settings, make_specs(30), tmp_path / "sweep", tmp_path)
    assert fake.arrays() == ["41"] * 4 + ["42"] * 4 + ["43"]
    launch(settings, make_specs(30), tmp_path / "other", tmp_path)
    assert len(fake.jobs()) == 12
    assert "6 more would exceed cluster.max_queued_jobs" in capsys.readouterr().out


def test_variables_of_a_surrounding_job_are_not_passed_on(
    tmp_path: Path, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
):
    for key in ("SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SBATCH_PARTITION", "SQUEUE_STATES"):
        monkeypatch.setenv(key, "1")
    monkeypatch.setenv("SLURM_CONF", "/there/slurm.conf")
    launch(on_slurm(), make_specs(3), tmp_path / "sweep", tmp_path)
    for program in ("sbatch", "squeue"):
        seen = (fake.folder / f"{program}.env").read_text().splitlines()
        assert [v for v in seen if v.startswith(("SLURM", "SBATCH", "SQUEUE"))] == [
            "SLURM_CONF=/there/slurm.conf"
        ]
    assert os.environ["SBATCH_PARTITION"] == "1"


def test_a_machine_without_slurm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="login node"):
        launch(on_slurm(), make_specs(1), tmp_path / "sweep", tmp_path)


def test_a_refusal_by_sbatch_is_reported_and_recorded(tmp_path: Path, fake: FakeSlurm):
    refusal = fake.folder / "sbatch_fails"
    refusal.write_text("invalid partition")
    with pytest.raises(InputError, match=r"invalid partition\. Change .* and launch again"):
        launch(on_slurm(), make_specs(2), tmp_path / "sweep", tmp_path)
    [printed] = tmp_path.glob("sweep/slurm/*/answer.json")
    assert "invalid partition" in json.loads(printed.read_text())["refused"]
    refusal.unlink()
    launch(on_slurm(), make_specs(2), tmp_path / "sweep", tmp_path)
    assert len(fake.jobs()) == 2


def test_jobs_queued_by_an_sbatch_that_timed_out_are_adopted(tmp_path: Path, fake: FakeSlurm):
    """A controller under load queues the job and answers too late."""
    (fake.folder / "sbatch_fails").write_text("Socket timed out on send/recv operation")
    (fake.folder / "queues_all_the_same").touch()
    assert launch(on_slurm(), make_specs(9), tmp_path / "sweep", tmp_path) == 0
    [record] = tmp_path.glob("sweep/slurm/*/answer.json")
    assert json.loads(record.read_text())["job_id"] == "41"


def test_an_sbatch_that_does_not_answer_is_ended(
    tmp_path: Path, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
):
    (fake.folder / "sbatch_sleeps").write_text("60")
    monkeypatch.setattr(queue, "TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(queue, "SETTLE_SECONDS", 0.0)
    with pytest.raises(InputError, match="no answer in 1 s"):
        launch(on_slurm(), make_specs(2), tmp_path / "sweep", tmp_path)
    assert fake.scripts() == []


def test_the_number_of_jobs_must_be_set(tmp_path: Path, fake: FakeSlurm):
    settings = on_slurm()
    settings.cluster.n_workers = 0
    with pytest.raises(InputError, match=r"cluster\.n_workers=2"):
        launch(settings, make_specs(2), tmp_path / "sweep", tmp_path)


LAUNCH = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from slurm_fakes import on_slurm
from sweep_fakes import make_specs
from chinchilla.sweep.slurm import queue, submit
from chinchilla.sweep.view.jobs import jobs_in_queue
from chinchilla.sweep.view.logs import sweep_logs
from chinchilla.sweep.launch import launch
sweep, last = Path(sys.argv[2]), int(sys.argv[3])
left = last
def count(event, args):
    global left
    touches = event == "subprocess.Popen" or (
        event in ("open", "os.mkdir", "os.rename", "os.remove", "os.link")
        # A name without a folder is relative to an open folder of the sweep.
        and (sys.argv[2] in str(args[0]) or "/" not in str(args[0]))
        and "heartbeat" not in str(args[0])  # of another thread
    )
    left -= touches
    if touches and left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
launch(on_slurm(gpus_per_node=1), make_specs(9), sweep, sweep)
print(f"{last - left} points")
"""


def start_launcher(sweep: Path, last: int = 10**9) -> subprocess.Popen[str]:
    """A launcher that is killed at its `last` access to the sweep's files or start of a program."""
    command = [sys.executable, "-c", LAUNCH, str(SUPPORT), str(sweep), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_launchers_at_once_submit_each_worker_once(tmp_path: Path, fake: FakeSlurm):
    make_sweep(tmp_path / "sweep", make_specs(9))
    launchers = [start_launcher(tmp_path / "sweep") for _ in range(2)]
    printed = "".join(p.communicate(timeout=60)[0] for p in launchers)
    assert len(fake.jobs()) == 3
    assert "submitted 3 workers" in printed
    assert "submitted no workers" in printed


@pytest.mark.slow
def test_no_job_is_submitted_twice_after_a_launcher_was_killed_at_thirty_points(
    tmp_path: Path, fake: FakeSlurm
):
    out = start_launcher(tmp_path / "whole").communicate(timeout=60)[0]
    n = int(out.split()[-2])
    points = range(1, n + 1, max(1, n // 30))
    assert len(points) >= 30
    (fake.folder / "sbatch_sleeps").write_text("0.3")  # and sbatch outlives its launcher
    for last in points:
        fake.set_jobs([])
        sweep = tmp_path / f"sweep{last}"
        launcher = start_launcher(sweep, last)
        launcher.communicate(timeout=60)
        assert launcher.returncode == -9
        launch(on_slurm(gpus_per_node=1), make_specs(9), sweep, sweep)
        assert len(fake.jobs()) == 3

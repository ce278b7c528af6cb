"""Options of sbatch and srun, containers, and names of folders and jobs, in the batch script."""

import shlex
import subprocess
from pathlib import Path

import pytest
from slurm_fakes import FakeSlurm, on_slurm
from sweep_fakes import make_specs

from chinchilla.cli import main
from chinchilla.config import ClusterConfig, ResourceConfig
from chinchilla.config.command_line.compose import compose
from chinchilla.core.errors import InputError
from chinchilla.sweep.job_classes import job_classes
from chinchilla.sweep.launch import launch


def script(fake: FakeSlurm, sweep: Path, **cluster) -> str:
    """The batch script of a sweep with these settings."""
    launch(on_slurm(**cluster), make_specs(2), sweep, sweep.parent)
    return fake.scripts()[-1]


def sbatch_lines(text: str) -> dict[str, str]:
    words = [shlex.split(line)[1] for line in text.splitlines() if line.startswith("#SBATCH")]
    names = [word.partition("=")[0] for word in words]
    assert len(names) == len(set(names)), "an option is given twice"
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}


def srun_words(text: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith("srun ")]
    return shlex.split(line)


def test_any_option_of_sbatch_is_passed_on(tmp_path: Path, fake: FakeSlurm):
    options = {
        "gres": "gpu:h100:2", "exclude": "n[1-3,7]", "mail_type": "FAIL", "exclusive": True,
        "nice": 0, "reservation": None, "spread-job": False,
    }  # fmt: skip
    found = sbatch_lines(script(fake, tmp_path / "s", sbatch=options, gpus_per_node=2))
    assert found["--gres"] == "gpu:h100:2"
    assert "--gpus-per-node" not in found, "gres replaces it"
    assert found["--exclude"] == "n[1-3,7]"
    assert (found["--mail-type"], found["--exclusive"], found["--nice"]) == ("FAIL", "", "0")
    assert not {"--reservation", "--spread-job"} & set(found)
    found = sbatch_lines(script(fake, tmp_path / "t", sbatch={"mem-per-cpu": "4G"}))
    assert found["--mem-per-cpu"] == "4G"
    assert "--mem" not in found


def test_options_are_read_from_the_command_line():
    words = ["sbatch={gres: 'gpu:h100:1', exclude: 'n[1-3]', mail-type: FAIL}",
             "srun=[--container-image=/x/a.sqsh,--container-mounts=/data,--mpi=none]",
             "python=apptainer exec --nv image.sif python"]  # fmt: skip
    words = [f"cluster.{word}" for word in words]
    cluster = compose("sweep", ["grid=demo", "cluster=slurm", "data_dir=d", *words]).cluster
    assert cluster.sbatch == {"gres": "gpu:h100:1", "exclude": "n[1-3]", "mail-type": "FAIL"}
    assert cluster.srun == ["--container-image=/x/a.sqsh", "--container-mounts=/data", "--mpi=none"]
    assert cluster.python == "apptainer exec --nv image.sif python"
    words = ["cluster.sbatch.gres=gpu:1", "cluster.sbatch.exclude=n1"]
    cluster = compose("sweep", ["grid=demo", "cluster=slurm", "data_dir=d", *words]).cluster
    assert cluster.sbatch == {"gres": "gpu:1", "exclude": "n1"}


def test_a_job_class_adds_its_own_options():
    small = ResourceConfig(name="small", max_params=1e8)
    large = ResourceConfig(
        name="large", gpus_per_node=4, sbatch={"gres": "gpu:4", "mail_type": None}, python="python3"
    )
    cluster = ClusterConfig(
        kind="slurm", sbatch={"gres": "gpu:1", "mail-type": "END"}, resources=[small, large]
    )
    of_small, of_large = (c.cluster for c in job_classes(cluster))
    assert (of_small.sbatch, of_small.python) == ({"gres": "gpu:1", "mail-type": "END"}, "")
    assert of_large.sbatch == {"gres": "gpu:4", "mail_type": None}
    assert of_large.python == "python3"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("sbatch={array: 0-3}", "its elements are the jobs that cluster.n_workers counts"),
        ("sbatch={output: x}", "logs are found by their names"),
        ("sbatch={open_mode: truncate}", "is continued"),
        ("sbatch={signal: USR1@60}", "follows from cluster.timeout_min"),
        ("sbatch={comment: x}", "found in the queue by their comment"),
        ("sbatch={time: 60}", "use cluster.timeout_min instead"),
        ("sbatch={cpus_per_task: 4}", "use cluster.cpus_per_task instead"),
        ("sbatch={gpus: 8}", r"sbatch.gpus=8: use cluster.gpus_per_node instead"),
        ("sbatch={gpus_per_task: 8}", "use cluster.gpus_per_node instead"),
        ("sbatch={gpus-per-socket: 8}", "use cluster.gpus_per_node instead"),
        ("sbatch={gpus_per_node: 8}", "use cluster.gpus_per_node instead"),
        ("sbatch={p: gpu}", "long name"),
        ("sbatch={--gres: gpu}", "cannot be read|long name"),
        ("sbatch={exclude: [a, b]}", "must be one line of text"),
        ("sbatch={gres: 'gpu:h100:4'}", r"asks for 4 GPUs .* cluster.gpus_per_node=1 .*same number"),
        ("sbatch={gres: 'nvme:1,gpu:0'}", "asks for 0 GPUs"),
        ("sbatch=gres", "must be pairs"),
        ("srun=[--output=x]", "logs are found by their names"),
        ("python='apptainer exec \"my image.sif python'", "No closing quotation|cannot be read"),
        ("resources=[{name: a, sbatch: {array: 1}}]", "cluster.resources, a: sbatch.array=1 cannot be set"),
    ],
)  # fmt: skip
def test_options_on_which_sweeps_rely_are_refused_with_the_reason(word: str, reason: str):
    with pytest.raises(InputError, match=reason) as error:
        job_classes(
            compose(
                "sweep", ["grid=demo", "cluster=slurm", "data_dir=d", f"cluster.{word}"]
            ).cluster
        )
    assert "\n" not in str(error.value)


def test_python_starts_safely_and_ignores_the_warning(tmp_path: Path, fake: FakeSlurm):
    """The words behind srun run here as they are, with a program in place of Python that signals itself."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\nkill -USR2 $$\necho "lives: $@"\n')
    program.chmod(0o755)
    words = srun_words(script(fake, tmp_path / "s", python=str(program)))
    start = words.index("sh")
    out = subprocess.run(words[start:], capture_output=True, text=True, check=True).stdout
    assert out.startswith("lives: -P -u -m chinchilla.sweep.slurm.job ")
    dash = subprocess.run(["dash", *words[start + 1 :]], capture_output=True, text=True)
    assert dash.stdout == out, "any POSIX shell will do"


def test_a_container_is_started_by_srun_or_by_the_command_of_python(
    tmp_path: Path, fake: FakeSlurm
):
    pyxis = ["--container-image=/images/my lab.sqsh", "--container-mounts=/data:/data"]
    words = srun_words(script(fake, tmp_path / "s", srun=pyxis, python="python3"))
    assert words[words.index(pyxis[0]) : words.index("sh")] == pyxis
    assert words[words.index("sh") + 3] == "python3"
    runtime = "apptainer exec --nv '/images/my lab.sif' python"
    words = srun_words(script(fake, tmp_path / "t", python=runtime))
    assert words[words.index("sh") + 3 :][:5] == [
        "apptainer", "exec", "--nv", "/images/my lab.sif", "python",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["100%job", "%A_%a %t", "a%%b", "it's", "é%j"])
def test_logs_of_a_folder_with_percent_signs_lie_in_it(tmp_path: Path, fake: FakeSlurm, name: str):
    """Slurm replaces %% by %, and patterns such as %j otherwise (checked on a real one in tests/slurm)."""
    sweep = tmp_path / name
    text = script(fake, sweep)
    [folder] = sweep.glob("slurm/*")
    assert sbatch_lines(text)["--output"] == f"{folder}".replace("%", "%%") + "/%A_%a_0_log.out"
    words = srun_words(text)
    output = words[words.index("--output") + 1]
    assert output == f"{folder}".replace("%", "%%") + "/%A_%a_%t_log.out"
    assert words[-1] == str(folder)
    check = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert check.returncode == 0, check.stderr


def test_a_folder_with_a_backslash_is_refused(tmp_path: Path, fake: FakeSlurm):
    with pytest.raises(InputError, match="contains a backslash or a line break"):
        script(fake, tmp_path / "a\\b")
    assert fake.scripts() == []
    assert not (tmp_path / "a\\b").exists()


def test_names_of_jobs_begin_with_the_name_of_the_sweep(tmp_path: Path, fake: FakeSlurm):
    """squeue shows the first eight characters."""
    found = sbatch_lines(script(fake, tmp_path / "web 2"))
    assert found["--job-name"] == "web-2-chinchilla"
    found = sbatch_lines(script(fake, tmp_path / "books", resources=[ResourceConfig(name="small")]))
    assert found["--job-name"] == "books-small-chinchilla"


def test_nothing_is_written_if_slurm_does_not_answer(tmp_path: Path, fake: FakeSlurm, capsys):
    """plan.jsonl would fix the precision and the recipe of the folder."""
    (fake.folder / "squeue_fails").write_text("Socket timed out")
    sweep = tmp_path / "sweep"
    with pytest.raises(
        InputError, match=f"jobs of {sweep} are queued. Nothing was submitted or written"
    ):
        launch(on_slurm(), make_specs(2), sweep, tmp_path)
    assert not sweep.exists()
    assert main(["status", f"sweep_dir={sweep}"]) == 2

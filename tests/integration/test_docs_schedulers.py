"""The examples of docs/schedulers.md and slurm/README.md: the shell loops run, the others are checked."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from sweep_fakes import PROGRAM, make_specs, make_sweep, n_starts

from chinchilla.config.command_line.compose import compose
from chinchilla.sweep.job_classes import job_classes
from chinchilla.sweep.run_files import load_runtime, run_dir_of, save_runtime

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "schedulers.md").read_text(encoding="utf-8")
EXAMPLES = {
    title: re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
}
SWEEP = "/shared/runs/first"


def shell_of(title: str) -> list[str]:
    """The shell text in the examples of a section."""
    texts = []
    for kind, text in EXAMPLES[title]:
        if kind == "bash":
            texts.append(text)
        elif title == "SkyPilot":
            task = yaml.safe_load(text)
            texts += [task["setup"], task["run"]]
        else:
            [container] = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
            texts.append(shlex.join(container["command"]))
    return texts


def test_every_scheduler_has_an_example():
    assert set(EXAMPLES) == {"A shell", "Kubernetes", "SkyPilot", "PBS", "LSF"}
    assert all(EXAMPLES.values())


@pytest.mark.parametrize("title", EXAMPLES)
def test_the_shell_text_is_valid_and_its_commands_are_read(title: str):
    found = 0
    for text in shell_of(title):
        checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr
        for line in re.findall(r"chinchilla (worker[^&>';]*)", text):
            command = compose("worker", shlex.split(line)[1:])
            assert command.sweep_dir == SWEEP
            found += 1
    assert found


def test_indented_commands_are_read():
    lines = re.findall(r"^    chinchilla (.+)$", PAGE, re.M)
    assert len(lines) >= 4
    for line in lines:
        name, *words = shlex.split(line.replace("--config-dir mine grid=first", "grid=demo"))
        compose(name, words)


def test_the_kubernetes_job_has_the_required_fields():
    [(_, text)] = EXAMPLES["Kubernetes"]
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    spec = job["spec"]
    assert spec["parallelism"] == spec["completions"], "each pod is replaced until it succeeds"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "required for podFailurePolicy"
    [container] = pod["containers"]
    for rule in spec["podFailurePolicy"]["rules"]:
        assert rule["action"] == "Ignore"
        codes = rule.get("onExitCodes", {"containerName": container["name"], "values": [75]})
        assert (codes["containerName"], codes["values"]) == (container["name"], [75])
    assert {"name", "image", "command", "resources"} <= set(container)
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_the_skypilot_task_has_known_fields():
    [(_, text)] = EXAMPLES["SkyPilot"]
    task = yaml.safe_load(text)
    known = {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "volumes", "file_mounts",
             "setup", "run", "config"}  # fmt: skip
    assert set(task) <= known
    assert {"resources", "run"} <= set(task)
    assert re.fullmatch(r"\w+:\d+", task["resources"]["accelerators"])
    assert SWEEP.startswith(next(iter(task["volumes"])))


@pytest.mark.parametrize(("title", "mark"), [("PBS", "#PBS -"), ("LSF", "#BSUB -")])
def test_batch_scripts_begin_with_their_directives(title: str, mark: str):
    [(_, text)] = EXAMPLES[title]
    first, *rest = text.splitlines()
    assert first == "#!/bin/bash"
    directives = [line for line in rest if line.startswith("#")]
    assert rest[: len(directives)] == directives, "directives come before the first command"
    assert all(line.startswith(mark) for line in directives)
    minutes = int(re.search(r"max_minutes=(\d+)", text)[1])
    hours = int(re.search(r"(?:walltime=0|-W )(\d+):00", text)[1])
    assert minutes < 60 * hours


@pytest.mark.parametrize("example", [0, 1], ids=["GPUs of one machine", "ssh"])
def test_the_loops_of_a_shell_train_every_run_once(tmp_path: Path, example: int):
    """With a stand-in for ssh, and for training; each host's first worker is stopped and started again."""
    _, text = EXAMPLES["A shell"][example]
    sweep = tmp_path / "first"
    sweep.mkdir()
    make_sweep(sweep, specs := make_specs(6))
    save_runtime(load_runtime(sweep), sweep, sweep)
    programs = tmp_path / "bin"
    programs.mkdir()
    stopped = f'[ -e stopped-$HOST ] || {{ touch stopped-$HOST; exit 75; }}\nexec {shlex.join(PROGRAM)} "$2"'
    for name, body in {
        "ssh": 'export HOST=$1\nexec sh -c "$2"',
        "chinchilla": stopped if example else f'exec {shlex.join(PROGRAM)} "$2"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    (programs / "activate").touch()
    text = text.replace(SWEEP, str(sweep)).replace("/shared/venv/bin", str(programs))
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", text], check=True, cwd=tmp_path, env=env, timeout=120)
    assert [n_starts(run_dir_of(sweep, s)) for s in specs] == [1] * 6
    logs = [p.read_text() for p in tmp_path.glob("*.log")]
    assert len(logs) == (3 if example else 4)
    assert len(list(tmp_path.glob("stopped-*"))) == (3 if example else 0)


def test_the_enroot_file_passes_the_variables_of_slurm_on():
    page = (ROOT / "slurm" / "README.md").read_text(encoding="utf-8")
    [text] = re.findall(r"^```bash\n(.*?)^```$", page, re.M | re.S)
    env = {
        "PATH": os.environ["PATH"],
        "SLURM_JOB_ID": "41",
        "CUDA_VISIBLE_DEVICES": "0",
        "HOME": "/",
    }
    command = ["bash", "-c", f"{text}\nenviron; mounts"]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert sorted(out.splitlines()[:-1]) == ["CUDA_VISIBLE_DEVICES=0", "SLURM_JOB_ID=41"]
    assert out.splitlines()[-1] == "/shared /shared none x-create=dir,bind"


def test_the_settings_of_containers_in_the_slurm_page_are_read():
    page = (ROOT / "slurm" / "README.md").read_text(encoding="utf-8")
    blocks = [
        yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", page, re.M | re.S)
    ]
    assert len(blocks) >= 3
    for block in blocks:
        words = [f"cluster.{key}={_as_word(value)}" for key, value in block.items()]
        given = ["grid=demo", "cluster=slurm", "cluster.n_workers=2", "data_dir=d", *words]
        [job_class, *_] = job_classes(compose("sweep", given).cluster)
        for key, value in block.items():
            assert getattr(job_class.cluster, key) == value


def _as_word(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: '{v}'" for k, v in value.items()) + "}"
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value)

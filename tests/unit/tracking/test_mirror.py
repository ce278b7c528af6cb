"""Mirrors to trackers: they receive every line, and cannot change or delay a run."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from sweep_fakes import planted
from train_world import make_runtime, make_spec, same_bits

from chinchilla import cli
from chinchilla.plan.plan_file import save_plan
from chinchilla.plan.records import RunSpec
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.tracking import mirror
from chinchilla.tracking.metrics_writer import MetricsWriter
from chinchilla.tracking.mirror import follow, read_metrics, wait_for_mirrors, wandb_id
from chinchilla.train import train_run

SPEC = make_spec()
OFF = make_runtime()
ON = make_runtime(wandb="offline")
FAULTS = ["missing", "init raises", "log raises", "finish raises", "init hangs", "log hangs", "finish hangs"]  # fmt: skip

WANDB = """
import json, os, time, types
from pathlib import Path

folder = Path(os.environ["FAKE_WANDB"])
fault = (folder / "fault").read_text() if (folder / "fault").exists() else ""
if fault == "missing":
    (folder / "reached").touch()
    raise ImportError("no wandb here")

def call(name, /, **values):
    if fault.startswith(name):
        (folder / "reached").touch()
        if fault.endswith("raises"):
            raise RuntimeError("wandb is down")
        time.sleep(60)
    with open(folder / "calls.jsonl", "a") as f:
        f.write(json.dumps([name, values]) + "\\n")

def init(settings, **values):
    call("init", **values)
    log = lambda values, step: call("log", values=values, step=step)
    return types.SimpleNamespace(log=log, finish=lambda: call("finish"), summary={})

def Settings(**settings):
    return settings
"""


class WandbPackage:
    """A wandb.py that mirror processes import; `fault` names the call that raises or hangs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "wandb.py").write_text(WANDB)

    def set_fault(self, fault: str) -> None:
        (self.folder / "fault").write_text(fault)

    @property
    def reached(self) -> bool:
        return (self.folder / "reached").exists()

    @property
    def calls(self) -> list[tuple[str, dict]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    @property
    def steps(self) -> list[int]:
        return [values["step"] for name, values in self.calls if name == "log"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WandbPackage:
    made = WandbPackage(tmp_path / "package")
    paths = [str(made.folder), *(p for p in sys.path if p)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("FAKE_WANDB", str(made.folder))
    monkeypatch.setattr(mirror, "_processes", {})
    return made


def steps_in(run_dir: Path) -> list[int]:
    return [
        json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()
    ]


def until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def write_run(run_dir: Path, *steps: int, first_step: int = 0) -> None:
    writer = MetricsWriter(run_dir, SPEC, ON, first_step)
    for step in steps:
        writer.write(step=step, loss=1.0)
    writer.close()


def test_a_mirror_receives_every_line_while_the_run_trains(tmp_path: Path, package: WandbPackage):
    writer = MetricsWriter(tmp_path, SPEC, ON, 0)
    writer.write(step=5, loss=1.0)
    until(lambda: package.steps == [5])
    writer.write(step=10, loss=1.0)
    writer.close()
    wait_for_mirrors()
    assert [name for name, _ in package.calls] == ["init", "log", "log", "finish"]
    settings = package.calls[0][1]
    assert settings["id"] == wandb_id(SPEC)
    assert settings["mode"] == "offline"
    assert settings["dir"] == str(tmp_path)
    assert (settings["config"]["N"], settings["config"]["D"]) == (SPEC.N, SPEC.D)
    assert package.calls[2][1] == {"values": {"loss": 1.0}, "step": 10}


def test_a_mirror_imports_no_module_of_the_working_folder(
    tmp_path: Path, package: WandbPackage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(planted(tmp_path / "planted"))
    (run_dir := tmp_path / "run").mkdir()
    write_run(run_dir, 5)
    wait_for_mirrors()
    assert package.steps == [5]


@pytest.mark.parametrize("size", [10**6, 10**6 + 1, 2 * 10**6, 2_500_000])
def test_a_line_that_is_too_long_is_left_out_and_later_ones_are_sent(tmp_path: Path, size: int):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + b"x" * size + b'\n{"step": 2}\n')
    ended = threading.Event()
    lines = follow(path, 0, ended)
    assert [next(lines)["step"]] == [1]
    timer = threading.Timer(5, ended.set)  # ends a wait for the long line
    timer.start()
    assert next(lines)["step"] == 2
    assert not ended.is_set()
    timer.cancel()
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    with path.open("a") as f:
        f.write('{"step": 3}')  # not complete yet
    ended.set()
    assert list(lines) == []


def test_a_resumed_run_sends_only_new_lines(tmp_path: Path, package: WandbPackage):
    write_run(tmp_path, 5, 10)
    wait_for_mirrors()
    write_run(tmp_path, 10, 15, first_step=5)
    wait_for_mirrors()
    assert package.steps == [5, 10, 15]


def test_a_run_has_one_id_in_the_tracker_however_often_it_starts():
    assert wandb_id(SPEC) == wandb_id(RunSpec.from_dict(SPEC.to_dict(), "x"))
    other = dataclasses.replace(SPEC, sweep="other")
    assert wandb_id(other) != wandb_id(SPEC)
    odd = wandb_id(dataclasses.replace(SPEC, sweep="a/b c#" * 40))
    assert len(odd) <= 128
    assert not set(odd) & set("/\\#?%: ")
    assert odd.endswith(SPEC.run_id)


def test_disabled_trackers_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(mirror.subprocess, "Popen")
    MetricsWriter(tmp_path, SPEC, OFF, 0).close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_tracker_changes_nothing_in_the_run(
    tmp_path: Path,
    data_dir: Path,
    package: WandbPackage,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: str,
):
    if fault.endswith("hangs"):
        monkeypatch.setattr(mirror, "TIMEOUT_SECONDS", 0.5)
        monkeypatch.setattr(mirror, "SILENT_SECONDS", 0.1)
    spec = make_spec(data_dir, steps=12)
    plain = train_run(spec, tmp_path / "plain", data_dir, OFF)
    package.set_fault(fault)
    mirrored = train_run(spec, tmp_path / "mirrored", data_dir, ON)
    [process] = mirror._processes
    process.wait(20)
    wait_for_mirrors()
    assert package.reached, "the fault did not occur"
    same_bits(plain, tmp_path / "plain", mirrored, tmp_path / "mirrored")
    assert steps_in(tmp_path / "mirrored") == [5, 10, 12]
    [line] = [x for x in capfd.readouterr().err.splitlines() if x.startswith("warning")]
    assert line.endswith("Run `chinchilla sync` to send the rest.")
    if fault.endswith("raises"):
        assert "the wandb mirror stopped: RuntimeError: wandb is down. " in line


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_a_tracker_that_hangs_delays_a_run_by_less_than_a_hundredth(
    tmp_path: Path, package: WandbPackage, monkeypatch: pytest.MonkeyPatch, call: str
):
    monkeypatch.setattr(mirror, "TIMEOUT_SECONDS", 0.3)
    package.set_fault(f"{call} hangs")
    writer = MetricsWriter(tmp_path, SPEC, ON, 0)
    [process] = mirror._processes
    writer.write(step=1, loss=1.0)
    if call != "finish":
        until(lambda: package.reached)
    begin = time.process_time()
    for step in range(2, 2_000):
        writer.write(step=step, loss=1.0)
    assert time.process_time() - begin < 0.1
    before = time.monotonic()
    writer.close()
    assert time.monotonic() - before < 0.02
    assert process.wait(20) == 1
    assert package.reached
    assert len(steps_in(tmp_path)) == 1_999


def test_the_wait_at_the_end_is_announced_and_ctrl_c_ends_it(
    tmp_path: Path,
    package: WandbPackage,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    package.set_fault("init hangs")
    monkeypatch.setattr(mirror, "TIMEOUT_SECONDS", 2.0)
    monkeypatch.setattr(mirror, "SILENT_SECONDS", 0.1)
    MetricsWriter(tmp_path, SPEC, ON, 0)
    [process] = mirror._processes
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    begin = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        wait_for_mirrors()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begin < 1.5
    assert capfd.readouterr().err == "waiting up to 2 s for wandb\n"
    assert process.wait(20) == 1
    assert "the wandb mirror did not finish in 2 s." in capfd.readouterr().err


def test_slurms_warning_does_not_end_a_mirror(tmp_path: Path, package: WandbPackage):
    """Slurm sends it to every process of a job."""
    writer = MetricsWriter(tmp_path, SPEC, ON, 0)
    [process] = mirror._processes
    process.send_signal(signal.SIGUSR2)
    writer.write(step=5)
    writer.close()
    wait_for_mirrors()
    assert package.steps == [5]


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit(75)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "from chinchilla.sweep import distributed_worker; distributed_worker.leave(75)",
    ],
)
def test_the_lines_of_a_run_reach_the_tracker_however_its_process_ends(
    tmp_path: Path, package: WandbPackage, end: str
):
    """Also if the process ends before the tracker is open."""
    program = f"""
import os, signal, sys
from pathlib import Path
from train_world import make_runtime, make_spec
from chinchilla.tracking.metrics_writer import MetricsWriter
writer = MetricsWriter(Path({str(tmp_path)!r}), make_spec(), make_runtime(wandb="offline"), 0)
writer.write(step=5, loss=1.0)
writer.write(step=10, loss=1.0)
{end}
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=100)
    assert done.returncode == (75 if "75" in end else -9 if end else 0)
    until(lambda: package.calls and package.calls[-1][0] == "finish")
    assert package.steps == [5, 10]


class FakeWandb(types.ModuleType):
    """Records calls in this process; `fail` names the call that raises."""

    def __init__(self, fail: str = "") -> None:
        super().__init__("wandb")
        self.fail = fail
        self.output: list[tuple[str, dict]] = []
        self.summary: dict = {}

    def _does(self, name: str, values: dict) -> None:
        if name == self.fail:
            raise RuntimeError("wandb is down")
        self.output.append((name, values))

    def Settings(self, **settings):
        return settings

    def init(self, **settings):
        self._does("init", settings)
        return types.SimpleNamespace(
            log=lambda values, step: self._does("log", {"values": values, "step": step}),
            finish=lambda: self._does("finish", {}),
            summary=self.summary,
        )

    @property
    def steps(self) -> list[int]:
        return [values["step"] for name, values in self.output if name == "log"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    made = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", made)
    return made


# sync


@pytest.fixture
def swept(tmp_path: Path, data_dir: Path, capsys) -> Path:
    """A sweep of two runs: one finished, one that has not begun."""
    specs = [make_spec(data_dir, steps=12), make_spec(data_dir, steps=12, seed=7)]
    folder = tmp_path / "sweep"
    folder.mkdir()
    save_plan(specs, folder / "plan.jsonl")
    run_dir = run_dir_of(folder, specs[0])
    result = train_run(specs[0], run_dir, data_dir, OFF)
    result.save(run_dir)
    return folder


def run(words: str, folder: Path) -> int:
    return cli.main(["sync", f"sweep_dir={folder}", *words.split()])


def test_sync_sends_each_line_once_however_often_it_is_called(swept: Path, fake: FakeWandb, capsys):
    assert run("", swept) == 0
    assert capsys.readouterr().out == ("wandb: sent 3 lines of 1 runs; 1 have no metrics yet.\n")
    assert fake.steps == [5, 10, 12]
    assert fake.output[0][1]["mode"] == "online"
    assert fake.summary["status"] == "finished"
    assert fake.summary["validation_loss.validation"] > 0
    assert run("", swept) == 0
    assert "sent 0 lines of 0 runs; 1 had nothing new" in capsys.readouterr().out
    assert fake.steps == [5, 10, 12]
    assert run("wandb_project=other format=json", swept) == 0  # nothing was sent there yet
    assert list(json.loads(capsys.readouterr().out)["runs"].values()) == [3]
    assert fake.steps == [5, 10, 12] * 2


def test_sync_sends_only_lines_written_since_the_last_call(swept: Path, fake: FakeWandb):
    [metrics] = swept.glob("runs/*/metrics.jsonl")
    whole = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(whole[0])
    assert run("", swept) == 0
    metrics.write_text("".join(whole))
    assert run("", swept) == 0
    assert fake.steps == [5, 10, 12]


@pytest.mark.parametrize("fail", ["init", "log", "finish"])
def test_a_tracker_error_is_one_line_and_the_next_call_tries_again(
    swept: Path, monkeypatch: pytest.MonkeyPatch, capsys, fail: str
):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(fail=fail))
    assert run("", swept) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "to=wandb: RuntimeError at run" in line
    assert "wandb is down" in line
    works = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", works)
    assert run("", swept) == 0
    assert works.steps == [5, 10, 12]


def test_without_the_package_sync_names_it(swept: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    for to, module in (("wandb", "wandb"), ("tensorboard", "tensorboard")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, "torch.utils.tensorboard.writer", raising=False)
        monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
        assert run(f"to={to}", swept) == 2
        assert f"pip install {to}" in capsys.readouterr().err


def test_a_damaged_record_of_synced_steps_costs_only_a_replay(swept: Path, fake: FakeWandb):
    assert run("", swept) == 0
    [ledger] = swept.glob("runs/*/synced.json")
    for content in ("{", "[]", '{"wandb online wandb.ai chinchilla": 7}', "\x00"):
        ledger.write_text(content)
        assert run("", swept) == 0
    assert fake.steps == [5, 10, 12] * 5


def test_trackers_are_not_opened_through_a_link(swept: Path, fake: FakeWandb, capsys):
    home = swept.parent / "home"
    home.mkdir()
    for run_dir in swept.glob("runs/*"):
        (run_dir / "wandb").symlink_to(home)
    assert run("", swept) == 0
    assert "is renamed to damaged-1-wandb" in " ".join(capsys.readouterr().err.split())
    assert not any(home.iterdir())
    for run_dir in swept.glob("runs/*"):
        assert (run_dir / "damaged-1-wandb").is_symlink()


def test_event_files_hold_every_line(swept: Path):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run("to=tensorboard", swept) == 0
    assert run("to=tensorboard", swept) == 0
    [folder] = swept.glob("runs/*/tensorboard")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [5, 10, 12]


@pytest.mark.slow
def test_wandb_offline_stores_the_metrics_and_no_key(swept: Path, data_dir: Path):
    """The API key is in the environment of every process and in no file."""
    pytest.importorskip("wandb")
    canary = "c0ffee" * 6 + "cafe"
    folder = swept.parent
    environment = {**os.environ, "WANDB_API_KEY": canary, "HOME": str(folder / "home")}
    (folder / "home").mkdir()
    for words in (
        ["sync", f"sweep_dir={swept}", "wandb=offline"],
        ["train", f"data_dir={data_dir}", f"out_dir={folder / 'single'}", "runtime.wandb=offline",
         "recipe=demo", "recipe.batch_tokens=256", "recipe.precision=fp32", "runtime.device=cpu",
         "model.d_model=16", "model.n_layers=1", "model.kv_size=8", "model.seq_len=32", "tokens=5e3",
         "epochs=100", "runtime.validation_tokens=512", "cluster=debug"],
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "chinchilla.cli", *words],
            env=environment, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert canary not in done.stdout + done.stderr
    kept = [p for p in folder.rglob("*.wandb") if p.is_file()]
    assert len(kept) == 2
    assert all(b"tokens_per_second" in p.read_bytes() for p in kept)
    found = [p for p in folder.rglob("*") if p.is_file() and canary.encode() in p.read_bytes()]
    assert found == []

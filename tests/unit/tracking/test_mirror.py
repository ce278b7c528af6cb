"""Trackers show what a run measured, and can neither change nor delay it."""

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
from train_world import make_runtime, make_spec, same_bits

from chinchilla import cli
from chinchilla.plan.records import RunSpec, save_plan
from chinchilla.sweep.run_files import run_dir_of
from chinchilla.tracking import mirror
from chinchilla.tracking.metrics_writer import Logbook
from chinchilla.tracking.mirror import Mirror, wandb_id
from chinchilla.train import train_run

SPEC = make_spec()
OFF = make_runtime()
ON = make_runtime(wandb="offline")


def steps_in(run_dir: Path) -> list[int]:
    return [
        json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()
    ]


class FakeWandb(types.ModuleType):
    """Keeps what it is told; `fail` names the call that raises, `hang` the one that never returns."""

    def __init__(self, fail: str = "", hang: str = "") -> None:
        super().__init__("wandb")
        self.fail, self.hang = fail, hang
        self.told: list[tuple[str, dict]] = []
        self.summary: dict = {}
        self.reached = threading.Event()
        self.let_go = threading.Event()

    def _does(self, name: str, values: dict) -> None:
        if name == self.hang:
            self.reached.set()
            self.let_go.wait(60)
        if name == self.fail:
            self.reached.set()
            raise RuntimeError("wandb is down")
        self.told.append((name, values))

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
        return [values["step"] for name, values in self.told if name == "log"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    found = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", found)
    return found


def until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_the_mirror_is_told_every_line(tmp_path: Path, fake: FakeWandb):
    book = Logbook(tmp_path, SPEC, ON, 0)
    for step in (5, 10):
        book.write(step=step, loss=1.0)
    book.close()
    until(lambda: fake.told and fake.told[-1][0] == "finish")
    assert [name for name, _ in fake.told] == ["init", "log", "log", "finish"]
    opened = fake.told[0][1]
    assert opened["id"] == wandb_id(SPEC)
    assert opened["mode"] == "offline"
    assert opened["dir"] == str(tmp_path)  # its files lie with the run's
    assert (opened["config"]["N"], opened["config"]["D"]) == (SPEC.N, SPEC.D)
    assert fake.told[2][1] == {"values": {"loss": 1.0}, "step": 10}


def test_a_run_is_one_in_the_tracker_however_often_it_starts():
    assert wandb_id(SPEC) == wandb_id(RunSpec.from_dict(SPEC.to_dict(), "x"))
    other = dataclasses.replace(SPEC, sweep="other")
    assert wandb_id(other) != wandb_id(SPEC)
    odd = wandb_id(dataclasses.replace(SPEC, sweep="a/b c#" * 40))
    assert len(odd) <= 128
    assert not set(odd) & set("/\\#?%: ")
    assert odd.endswith(SPEC.run_id)


def test_a_disabled_mirror_never_imports_wandb(tmp_path: Path, fake: FakeWandb):
    Logbook(tmp_path, SPEC, OFF, 0).close()
    assert fake.told == []


@pytest.mark.parametrize(
    "wandb",
    [
        None,  # import wandb raises ImportError
        *(FakeWandb(fail=name) for name in ("init", "log", "finish")),
        *(FakeWandb(hang=name) for name in ("init", "log", "finish")),
    ],
    ids=lambda w: "missing" if w is None else f"{w.fail}-raises" if w.fail else f"{w.hang}-hangs",
)
def test_whatever_wandb_does_the_run_is_the_same(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, wandb: FakeWandb | None
):
    spec = make_spec(data_dir, steps=12)
    plain = train_run(spec, tmp_path / "plain", data_dir, OFF)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    mirrored = train_run(spec, tmp_path / "mirrored", data_dir, ON)
    if wandb:
        assert wandb.reached.wait(5), "the fault was never met"
        wandb.let_go.set()
    same_bits(plain, tmp_path / "plain", mirrored, tmp_path / "mirrored")
    assert steps_in(tmp_path / "mirrored") == [5, 10, 12]


@pytest.mark.parametrize("hang", ["init", "log", "finish"])
def test_a_tracker_that_hangs_holds_a_run_up_by_a_hundredth_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: str
):
    fake = FakeWandb(hang=hang)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    begin = time.monotonic()
    book = Logbook(tmp_path, SPEC, ON, 0)
    for step in range(1, 2_000):
        book.write(step=step, loss=1.0)
    time.sleep(1.0)  # the run's own work
    before = time.monotonic()
    book.close()
    held_up, age = time.monotonic() - before, before - begin
    fake.let_go.set()
    assert held_up < 0.01 * age + 0.02  # and what a thread takes to wake up


def test_what_a_mirror_costs_at_every_line_is_a_fraction_of_the_line_s_own_cost(
    tmp_path: Path, fake: FakeWandb
):
    """Lines are handed over, not sent: 2000 of them with a tracker that takes its time."""
    slow = types.SimpleNamespace(log=lambda line: time.sleep(0.05), close=lambda summary=None: None)
    mirror = Mirror("slow", lambda: slow)
    begin = time.process_time()
    for step in range(2_000):
        mirror.offer({"step": step})
    assert time.process_time() - begin < 0.1


def test_a_mirror_that_stops_says_why_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(fail="log"))
    book = Logbook(tmp_path, SPEC, ON, 0)
    for step in range(1, 50):
        book.write(step=step)
    book.close()
    until(lambda: not mirror._mirrors[-1].at_work)
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        "warning: the Weights & Biases mirror stopped: RuntimeError: wandb is down. "
        "`chinchilla sync` brings the rest."
    )


def test_the_end_comes_through_a_full_queue(
    tmp_path: Path, fake: FakeWandb, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mirror, "QUEUE_LINES", 3)
    fake.hang = "init"
    book = Logbook(tmp_path, SPEC, ON, 0)
    assert fake.reached.wait(5)
    for step in range(1, 9):
        book.write(step=step)
    book.close()
    fake.hang = ""
    fake.let_go.set()
    mirror.finish()
    assert fake.told[-1][0] == "finish"


@pytest.mark.parametrize("impatient", [False, True])
def test_what_is_waited_for_at_the_end_is_said_and_ctrl_c_leaves_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    impatient: bool,
):
    fake = FakeWandb(hang="init")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", 60.0 if impatient else 0.3)
    monkeypatch.setattr(mirror, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(mirror, "_mirrors", [])
    Logbook(tmp_path, SPEC, ON, 0)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        if impatient:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
        mirror.finish()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        fake.let_go.set()
    assert capsys.readouterr().err.splitlines() == [
        f"waiting up to {mirror.PATIENCE_SECONDS:g} s for the Weights & Biases mirror",
        "warning: the Weights & Biases mirror is not done. `chinchilla sync` brings the rest.",
    ]


def test_a_full_queue_drops_lines_of_the_mirror_and_none_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fake = FakeWandb(hang="init")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    book = Logbook(tmp_path, SPEC, ON, 0)
    assert fake.reached.wait(5)
    n = 10_050
    for step in range(1, n + 1):
        book.write(step=step)
    book.close()
    fake.let_go.set()
    assert len(steps_in(tmp_path)) == n


SLOW_TO_OPEN = """
import atexit, threading, time, types

opening = threading.Event()

def init(**settings):
    down = []
    atexit.register(down.append, True)  # as wandb takes its service down
    opening.set()
    time.sleep(1.0)
    def log(values, step):
        assert not down
        print("step", step, flush=True)
    return types.SimpleNamespace(log=log, finish=lambda: print("finish", flush=True), summary={})

def Settings(**settings):
    return settings
"""


@pytest.mark.parametrize("end", ["", "sys.exit(75)", "distributed_worker.leave(75)"])
def test_a_run_that_ends_before_its_tracker_has_opened_is_still_shown(tmp_path: Path, end: str):
    """And a tracker may register its own end with atexit meanwhile, as wandb does."""
    (tmp_path / "wandb.py").write_text(SLOW_TO_OPEN)
    paths = [str(tmp_path), *(p for p in sys.path if p)]
    program = f"""
import sys
from pathlib import Path
from train_world import make_runtime, make_spec
from chinchilla.sweep import distributed_worker
from chinchilla.tracking.metrics_writer import Logbook
book = Logbook(Path({str(tmp_path)!r}), make_spec(), make_runtime(wandb="offline"), 0)
book.write(step=5, loss=1.0)
book.write(step=10, loss=1.0)
book.close()
import wandb
wandb.opening.wait()
print("end of the run", flush=True)
{end}
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["end of the run", "step 5", "step 10", "finish"], (
        done.stderr
    )
    assert done.returncode == (75 if end else 0)


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
    (run_dir / "result.json").write_text(json.dumps(dataclasses.asdict(result)))
    return folder


def run(words: str, folder: Path) -> int:
    return cli.main(["sync", f"sweep_dir={folder}", *words.split()])


def test_sync_brings_a_sweep_once_however_often_it_is_called(swept: Path, fake: FakeWandb, capsys):
    assert run("", swept) == 0
    assert capsys.readouterr().out == (
        "wandb: 3 lines of 1 runs brought, 1 have measured nothing yet.\n"
    )
    assert fake.steps == [5, 10, 12]
    assert fake.told[0][1]["mode"] == "online"
    assert fake.summary["status"] == "finished"
    assert fake.summary["validation_loss.validation"] > 0
    assert run("", swept) == 0
    assert "0 lines of 0 runs brought, 1 had nothing new" in capsys.readouterr().out
    assert fake.steps == [5, 10, 12]
    assert run("again=true format=json", swept) == 0
    assert list(json.loads(capsys.readouterr().out)["runs"].values()) == [3]
    assert fake.steps == [5, 10, 12] * 2
    assert run("wandb_project=other", swept) == 0  # another place knows nothing yet
    assert fake.steps == [5, 10, 12] * 3


def test_sync_brings_only_what_a_run_has_measured_since(swept: Path, fake: FakeWandb):
    [metrics] = swept.glob("runs/*/metrics.jsonl")
    whole = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(whole[0])
    assert run("", swept) == 0
    metrics.write_text("".join(whole))
    assert run("", swept) == 0
    assert fake.steps == [5, 10, 12]


@pytest.mark.parametrize("fail", ["init", "log", "finish"])
def test_a_tracker_that_refuses_is_one_line_and_tried_again(
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


def test_without_the_package_sync_says_what_to_install(
    swept: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    for to, module in (("wandb", "wandb"), ("tensorboard", "tensorboard")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, "torch.utils.tensorboard.writer", raising=False)
        monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
        assert run(f"to={to}", swept) == 2
        assert f"pip install {to}" in capsys.readouterr().err


def test_a_record_of_what_was_brought_that_cannot_be_read_costs_only_a_replay(
    swept: Path, fake: FakeWandb
):
    assert run("", swept) == 0
    [ledger] = swept.glob("runs/*/synced.json")
    for content in ("{", "[]", '{"wandb online wandb.ai chinchilla": 7}', "\x00"):
        ledger.write_text(content)
        assert run("", swept) == 0
    assert fake.steps == [5, 10, 12] * 5


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
def test_the_real_wandb_offline_keeps_the_metrics_and_no_key(swept: Path, data_dir: Path):
    """A canary for a key: in the environment of everything, and afterwards in no file."""
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

import json
import sys
import threading
import types
from pathlib import Path

import pytest
from train_world import make_runtime, make_spec, same_bits

from chinchilla.train import train_run
from chinchilla.train.logbook import Logbook, WandbMirror

SPEC = make_spec()
OFF = make_runtime()
ON = make_runtime(wandb="offline")


def write_steps(cell: Path, first_step: int, *steps: int) -> None:
    book = Logbook(cell, SPEC, OFF, first_step)
    for step in steps:
        book.write(step=step, loss=1.0 / step)
    book.close()


def steps_in(cell: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (cell / "metrics.jsonl").read_text().splitlines()]


def test_lines_are_on_disk_at_once(tmp_path: Path):
    book = Logbook(tmp_path, SPEC, OFF, 0)
    book.write(step=1, loss=None)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": null}\n'
    book.close()


def test_resuming_forgets_what_came_after_the_checkpoint(tmp_path: Path):
    write_steps(tmp_path, 0, 5, 10, 15, 20)
    write_steps(tmp_path, 12, 15, 20)
    assert steps_in(tmp_path) == [5, 10, 15, 20]


def test_a_run_that_starts_anew_forgets_everything(tmp_path: Path):
    write_steps(tmp_path, 0, 5, 10)
    write_steps(tmp_path, 0, 5)
    assert steps_in(tmp_path) == [5]


@pytest.mark.parametrize(
    "torn", ['{"step": 1', "{", "\x00\x00\x00", '"step"\n', '{"loss": 3}\n', "7\n"]
)
def test_a_torn_last_line_costs_only_itself(tmp_path: Path, torn: str):
    write_steps(tmp_path, 0, 5, 10)
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write(torn)
    write_steps(tmp_path, 10, 15)
    assert steps_in(tmp_path) == [5, 10, 15]


# The mirror: a fake wandb stands in sys.modules


class FakeWandb(types.ModuleType):
    """Keeps what it is told; `fail` names the call that raises, `hang` the one that never returns."""

    def __init__(self, fail: str = "", hang: str = "") -> None:
        super().__init__("wandb")
        self.fail, self.hang = fail, hang
        self.told: list[tuple[str, dict]] = []
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

    def init(self, **settings):
        self._does("init", settings)
        return types.SimpleNamespace(
            log=lambda values, step: self._does("log", {"values": values, "step": step}),
            finish=lambda: self._does("finish", {}),
        )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait 0.2 s instead of 10 for a mirror that hangs."""
    real = WandbMirror.close
    monkeypatch.setattr(WandbMirror, "close", lambda self: real(self, 0.2))


def test_the_mirror_is_told_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    book = Logbook(tmp_path, SPEC, ON, 0)
    for step in (5, 10):
        book.write(step=step, loss=1.0)
    book.close()
    assert [name for name, _ in fake.told] == ["init", "log", "log", "finish"]
    assert fake.told[0][1]["id"] == SPEC.run_id
    assert fake.told[0][1]["mode"] == "offline"
    assert fake.told[0][1]["dir"] == str(tmp_path)  # its files lie with the run's
    assert fake.told[2][1] == {"values": {"step": 10, "loss": 1.0}, "step": 10}


def test_a_disabled_mirror_never_imports_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write_steps(tmp_path, 0, 5)
    assert fake.told == []


@pytest.mark.usefixtures("impatient")
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


def test_a_mirror_that_stops_says_why_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(fail="log"))
    book = Logbook(tmp_path, SPEC, ON, 0)
    for step in range(1, 50):
        book.write(step=step)
    book.close()
    [line] = capsys.readouterr().err.splitlines()
    assert line == "warning: the Weights & Biases mirror stopped: RuntimeError: wandb is down"


@pytest.mark.usefixtures("impatient")
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

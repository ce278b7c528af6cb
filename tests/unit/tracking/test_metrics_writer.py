import json
from pathlib import Path

import pytest
from train_world import make_runtime, make_spec

from chinchilla.tracking.metrics_writer import MetricsWriter

SPEC = make_spec()
OFF = make_runtime()


def write_steps(run_dir: Path, first_step: int, *steps: int) -> None:
    writer = MetricsWriter(run_dir, SPEC, OFF, first_step)
    for step in steps:
        writer.write(step=step, loss=1.0 / step)
    writer.close()


def steps_in(run_dir: Path) -> list[int]:
    return [
        json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()
    ]


def test_lines_are_on_disk_at_once(tmp_path: Path):
    writer = MetricsWriter(tmp_path, SPEC, OFF, 0)
    writer.write(step=1, loss=None)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": null}\n'
    writer.close()


def test_resuming_removes_lines_after_the_checkpoint(tmp_path: Path):
    write_steps(tmp_path, 0, 5, 10, 15, 20)
    write_steps(tmp_path, 12, 15, 20)
    assert steps_in(tmp_path) == [5, 10, 15, 20]


def test_a_run_that_starts_from_scratch_removes_all_lines(tmp_path: Path):
    write_steps(tmp_path, 0, 5, 10)
    write_steps(tmp_path, 0, 5)
    assert steps_in(tmp_path) == [5]


@pytest.mark.parametrize(
    "torn", ['{"step": 1', "{", "\x00\x00\x00", '"step"\n', '{"loss": 3}\n', "7\n"]
)
def test_an_incomplete_last_line_is_skipped(tmp_path: Path, torn: str):
    write_steps(tmp_path, 0, 5, 10)
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write(torn)
    write_steps(tmp_path, 10, 15)
    assert steps_in(tmp_path) == [5, 10, 15]

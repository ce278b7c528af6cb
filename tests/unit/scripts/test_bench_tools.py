"""Command lines of scripts/bench: quick help, and one line for invalid arguments before any work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts" / "bench"


def call(script: str, *words: str, torch: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with `torch`/torch.py in place of PyTorch."""
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *words], capture_output=True, text=True, timeout=60,
        cwd=torch, env={**os.environ, "PYTHONPATH": f"{torch}{os.pathsep}{SCRIPTS.parents[1]}"},
    )  # fmt: skip


COMMANDS = sorted(p.name for p in SCRIPTS.glob("*.py") if "__main__" in p.read_text())


@pytest.mark.parametrize("script", COMMANDS)
def test_help_needs_no_torch_and_starts_nothing(script, tmp_path):
    (tmp_path / "torch.py").write_text("raise AssertionError('help imports torch')")
    done = call(script, "--help", torch=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    head = (SCRIPTS / script).read_text().removeprefix('"""').partition("\n")[0]
    assert head in done.stdout
    assert f"usage: {script}" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--shapes", "v65,nosuch"),
            "no 'nosuch' for --device cpu. Choose from d16,d64,v65,v4096,v32768.",
        ),
        (("--device", "cuda"), "PyTorch finds no CUDA device here. Give --device cpu."),
        (
            ("--rounds", "0"),
            "argument --rounds: '0' is not a whole number above 0. Give 1 or more.",
        ),
        (("--nanogpt", "/nonexistent"), "argument --nanogpt: there is no folder '/nonexistent'."),
    ],
)
def test_throughput_refuses_before_it_measures(words, message, tmp_path):
    (tmp_path / "torch.py").write_text("class cuda:\n    is_available = staticmethod(bool)\n")
    done = call("bench_throughput.py", *words, "--out", "out.json", torch=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.json").exists()

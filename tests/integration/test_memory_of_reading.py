"""Memory that hostile records take: at most 300 MB above that of the process, whatever they contain."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from test_malformed import SPECS

from chinchilla.core.files.reading import JSON_MEMORY, RECORD_BYTES, TEXT_BYTES, parse_json
from chinchilla.plan.plan_file import PLAN_BYTES

PROGRAM = """
import sys
from pathlib import Path
from chinchilla.core.errors import InputError
from chinchilla.data.manifest import Manifest
from chinchilla.data.tokenizer import Tokenizer
from chinchilla.fit.results import FitResults
from chinchilla.plan.records import (Curve, RunResult)
from chinchilla.plan.plan_file import (load_plan)
path = Path(sys.argv[1])
load = {
    "result.json": lambda: RunResult.load(path.parent),
    "frontier.json": lambda: FitResults.load(path),
    "manifest.json": lambda: Manifest.load(path.parent),
    "curve.npz": lambda: Curve.load(path.parent),
    "plan.jsonl": lambda: load_plan(path),
    "x.model": lambda: Tokenizer.load(path),
}[path.name]
def peak():
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1]) / 1000
before = peak()
try:
    load()
except InputError as error:
    print(error, file=sys.stderr)
print(peak() - before)
"""

JSON: dict[str, Callable[[int], bytes]] = {  # about n bytes
    "empty objects": lambda n: b"[" + b"{}," * (n // 3 - 2) + b"0]",
    "objects in objects": lambda n: b"[" + b'{"":{}},' * (n // 8 - 2) + b"0]",
    "numbers": lambda n: b"[" + b"1e9," * (n // 4 - 2) + b"0]",
    "strings": lambda n: b"[" + b'"ab",' * (n // 5 - 2) + b"0]",
    "one string": lambda n: b'["' + b"a" * (n - 10) + b'"]',
    "one wide string": lambda n: b'["\xf0\x9f\x98\x80' + b"a" * (n - 10) + b'"]',
}


def largest(content: Callable[[int], bytes], limit: int) -> bytes:
    """The largest file of this content that is parsed."""
    n = limit
    while True:
        text = content(n)
        try:
            parse_json(text, memory=0)
        except ValueError as refused:
            megabytes = float(str(refused).split(" MB")[0].rpartition(" ")[2].replace(",", ""))
        if megabytes * 1e6 < JSON_MEMORY:
            return text
        n = int(n * 0.99 * JSON_MEMORY / (megabytes * 1e6))


def npz(path: Path, values: np.ndarray) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("step", "loss", "validation_step", "validation_loss"):
            array = BytesIO()
            np.save(array, values)
            archive.writestr(f"{name}.npy", array.getvalue())


def plan(path: Path, limit: int) -> None:
    with open(path, "w") as f:
        for seed in range(10**9):
            f.write(json.dumps(replace(SPECS[0], seed=seed).to_dict()) + "\n")
            if f.tell() > limit - 2000:
                return


def model(path: Path, n: int) -> None:
    pieces = (b"\x0a\x09\x0a\x07%07x" % i for i in range(n // 11))
    path.write_bytes(b"".join(pieces))


FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a result of 200 MB": ("result.json", lambda p: p.write_bytes(b"[" + b"0," * 100_000_000)),
    "an archive of 0.6 GB": ("curve.npz", lambda p: npz(p, np.zeros(20_000_000))),
    "the longest curve": ("curve.npz", lambda p: npz(p, np.arange(5_000_001))),
    "the longest plan": ("plan.jsonl", lambda p: plan(p, PLAN_BYTES)),
    "a plan of empty lines": ("plan.jsonl", lambda p: p.write_bytes(b"\n" * PLAN_BYTES)),
    "a plan of one line": ("plan.jsonl", lambda p: p.write_bytes(b" " * PLAN_BYTES)),
    "a tokenizer of many pieces": ("x.model", lambda p: model(p, 15_900_000)),
}
for kind, content in JSON.items():
    for name, limit in (
        ("result.json", RECORD_BYTES), ("frontier.json", TEXT_BYTES), ("manifest.json", TEXT_BYTES),
    ):  # fmt: skip
        FILES[f"{name} of {kind}"] = (
            name, lambda p, c=content, n=limit: p.write_bytes(largest(c, n))
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_memory_while_a_hostile_record_is_read(tmp_path: Path, kind: str):
    name, write = FILES[kind]
    write(tmp_path / name)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / name)],
        capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert len(run.stderr.splitlines()) <= 1
    assert float(run.stdout) < 300

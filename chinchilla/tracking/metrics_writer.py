"""metrics.jsonl: what a run measured, one JSON line a log point. Trackers are mirrors of it."""

import json
from pathlib import Path
from typing import Any

from chinchilla.config import RuntimeConfig
from chinchilla.core.files import atomic_write
from chinchilla.plan.records import RunSpec
from chinchilla.tracking.mirror import Mirror, read_metrics, trackers_of


class Logbook:
    """Appends lines to metrics.jsonl and offers each to the mirrors."""

    def __init__(
        self, run_dir: Path, spec: RunSpec, runtime: RuntimeConfig, first_step: int
    ) -> None:
        path = run_dir / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= first_step]
        with atomic_write(path) as f:  # forget what came after the checkpoint we resume from
            f.writelines(json.dumps(line) + "\n" for line in kept)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
        wanted = trackers_of(runtime, run_dir, spec, first_step)
        self._mirrors = [Mirror(name, opened) for name, opened in wanted.items()]

    def write(self, **values: Any) -> None:
        """One line; `step` is the number of updates done."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        for mirror in self._mirrors:
            mirror.offer(values)

    def close(self) -> None:
        self._file.close()
        for mirror in self._mirrors:
            mirror.close()

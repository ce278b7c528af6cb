"""Write metrics.jsonl, the record of what a run measured: one JSON line per log point."""

import json
from pathlib import Path
from typing import Any

from chinchilla.config import RuntimeConfig
from chinchilla.core.files.writing import atomic_write
from chinchilla.plan.records import RunSpec
from chinchilla.tracking.mirror import read_metrics, start_mirrors


class MetricsWriter:
    """Append lines to metrics.jsonl and keep its mirrors running until `close`.

    Args:
        run_dir: folder of the run.
        spec: the run.
        runtime: names the trackers to mirror to.
        first_step: step of the checkpoint that training resumes from. Later lines are removed.
    """

    def __init__(
        self, run_dir: Path, spec: RunSpec, runtime: RuntimeConfig, first_step: int
    ) -> None:
        path = run_dir / "metrics.jsonl"
        lines = (line for line in read_metrics(path) if line["step"] <= first_step)
        # Not opened again by its name, which another user may replace.
        with atomic_write(path, keep_open=True) as self._file:
            self._file.writelines(json.dumps(line) + "\n" for line in lines)
        self._mirrors = start_mirrors(run_dir, spec, runtime)

    def write(self, **values: Any) -> None:
        """Append one line; `step` is the number of optimizer steps done."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        for mirror in self._mirrors:
            assert mirror.stdin is not None
            mirror.stdin.close()

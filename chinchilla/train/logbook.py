"""metrics.jsonl: what a run measured, one JSON line a log point; W&B is a mirror of it.

The file is the record. The mirror runs in a thread fed by a bounded queue: if it hangs, raises or
is missing, lines are dropped from the mirror and training goes on with the same bits.
"""

import json
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from chinchilla.config import RuntimeConfig
from chinchilla.files import atomic_write
from chinchilla.records import RunSpec


class Logbook:
    """Appends lines to metrics.jsonl and offers each to the mirror."""

    def __init__(self, cell: Path, spec: RunSpec, runtime: RuntimeConfig, first_step: int) -> None:
        self.path = cell / "metrics.jsonl"
        kept = [line for line in self._lines() if line["step"] <= first_step]
        with atomic_write(self.path) as f:  # forget what came after the checkpoint we resume from
            f.writelines(json.dumps(line) + "\n" for line in kept)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
        self._mirror = WandbMirror(cell, spec, runtime) if runtime.wandb != "disabled" else None

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        if self.path.exists():
            for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    lines.append(json.loads(text))
                except (ValueError, RecursionError):
                    break  # a line cut short by a kill: everything before it stands
        return [x for x in lines if isinstance(x, dict) and type(x.get("step")) is int]

    def write(self, **values: Any) -> None:
        """One line; `step` is the number of updates done."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        if self._mirror:
            self._mirror.offer(values)

    def close(self) -> None:
        self._file.close()
        if self._mirror:
            self._mirror.close()


class WandbMirror:
    """Feeds Weights & Biases from a thread; never blocks and never raises."""

    def __init__(self, cell: Path, spec: RunSpec, runtime: RuntimeConfig) -> None:
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=10_000)
        self._thread = threading.Thread(target=self._feed, args=(cell, spec, runtime), daemon=True)
        self._thread.start()

    def offer(self, values: dict[str, Any]) -> None:
        if not self._queue.full():
            self._queue.put_nowait(values)

    def close(self, patience_seconds: float = 10.0) -> None:
        if not self._queue.full():
            self._queue.put_nowait(None)
        self._thread.join(patience_seconds)

    def _feed(self, cell: Path, spec: RunSpec, runtime: RuntimeConfig) -> None:
        try:
            import wandb

            mode: Any = runtime.wandb

            run = wandb.init(
                project=runtime.wandb_project, mode=mode, dir=str(cell), id=spec.run_id, name=spec.run_id,
                group=spec.sweep, config=spec.to_dict(), resume="allow", reinit="create_new",
            )  # fmt: skip
            while (values := self._queue.get()) is not None:
                run.log(values, step=values["step"])
            run.finish()
        except Exception as error:
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            print(f"warning: the Weights & Biases mirror stopped: {said}", file=sys.stderr)

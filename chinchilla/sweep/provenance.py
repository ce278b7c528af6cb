"""launches.jsonl: when, where and with which code a sweep was launched, one line per launch."""

import dataclasses
import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chinchilla.core.files import write_text
from chinchilla.core.provenance import code_here
from chinchilla.sweep.claims import utc_now
from chinchilla.sweep.slurm.queue import user_name


@dataclass(frozen=True)
class Launches:
    """What launches.jsonl records. Damaged lines are skipped."""

    codes: list[str] = field(default_factory=list)  # labels of the code, each once, latest last
    n_runs: int = 0  # runs in the plan at the latest launch; 0 if not recorded


def record_launch(sweep_dir: Path, kind: str) -> str:
    """Append a line to launches.jsonl. Only one launcher may call this at a time.

    Args:
        sweep_dir: the sweep's folder.
        kind: cluster.kind.

    Returns:
        A note if the latest launch used other code or planned more runs; else "".
    """
    path, code, before = sweep_dir / "launches.jsonl", code_here(), read_launches(sweep_dir)
    n_runs = n_planned(sweep_dir)
    record = {
        "utc": utc_now(),
        "user": user_name(),
        "host": socket.gethostname(),
        "kind": kind,
        "code": dataclasses.asdict(code),
        "label": code.label,
        "n_runs": n_runs,
    }
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    write_text(path, text + json.dumps(record) + "\n")
    notes = []
    if before.codes and before.codes[-1] != code.label:
        notes.append(
            f"note: the latest launch of this sweep used code {before.codes[-1]}, this one "
            f"{code.label}. Its runs may be trained by different code."
        )
    if n_runs < before.n_runs:
        notes.append(f"note: {fewer_runs(n_runs, before.n_runs)}")
    return "\n".join(notes)


def fewer_runs(n_runs: int, n_before: int) -> str:
    """Message for a plan that has fewer runs than at the latest launch."""
    return (
        f"plan.jsonl has {n_runs} runs, {n_before} at the latest launch. If it was truncated, launch "
        "again with the whole plan; results of finished runs are kept."
    )


def n_planned(sweep_dir: Path) -> int:
    """Number of distinct lines of the plan; 0 without one."""
    try:
        return len(set((sweep_dir / "plan.jsonl").read_bytes().splitlines()))
    except OSError:
        return 0


def read_launches(sweep_dir: Path) -> Launches:
    """Read launches.jsonl."""
    try:
        text = (sweep_dir / "launches.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Launches()
    records: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            records.append(value)
    labels = [x for r in records if isinstance(x := r.get("label"), str)]
    n_runs = records[-1].get("n_runs", 0) if records else 0
    latest_last = list(dict.fromkeys(reversed(labels)))[::-1]
    return Launches(latest_last, n_runs if type(n_runs) is int else 0)

"""What one `chinchilla fit` found, by approach, and its file frontier.json.

For predictions the file stands alone. What looks at the runs again (design, diagnose, report) reads
observations.csv beside it, whose SHA-256 the file holds (`Fits.runs_beside`). docs/frontier.md describes
every field. NumPy only: this module must import without torch.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chinchilla.errors import InputError
from chinchilla.files import read_json, sha256_file, write_json
from chinchilla.fit.frontier import Frontier, called
from chinchilla.fit.loss_law import FlopsPerToken, is_six_nd
from chinchilla.observations import Observations
from chinchilla.records import checked

SCHEMA = 2
FILE = "frontier.json"
RUNS = "observations.csv"  # beside it


@dataclass(frozen=True)
class Refused:
    """Why an approach cannot answer: a sentence for people, a word for programs."""

    reason: str
    kind: str = "unidentified"


@dataclass(frozen=True)
class Fits:
    """Frontiers and refusals by approach, and what they stand on.

    `data` says what the runs cover: n_runs, [smallest, largest] of C, N, D and tokens_per_param,
    notes of what was derived or left out, and observations_sha256 once the runs were saved.
    `cost` is their FLOPs per token as a function of N; None where C = 6*N*D.
    """

    fitted: dict[str, Frontier]
    refused: dict[str, Refused]
    data: dict[str, Any]
    cost: FlopsPerToken | None = None
    command: dict[str, Any] = field(default_factory=dict)  # what `chinchilla fit` was told

    @classmethod
    def of(
        cls,
        fitted: Mapping[str, Frontier],
        refused: Mapping[str, Refused],
        obs: Observations,
        command: Mapping[str, Any] | None = None,
    ) -> "Fits":
        """The record of fits of `obs` (final losses)."""
        columns = {"C": obs.C, "N": obs.N, "D": obs.D, "tokens_per_param": obs.D / obs.N}
        data: dict[str, Any] = {"n_runs": len(obs)}
        data |= {name: [float(x.min()), float(x.max())] for name, x in columns.items()}
        data["notes"] = list(obs.notes)
        cost = None if is_six_nd(obs) else FlopsPerToken.from_observations(obs)
        return cls(dict(fitted), dict(refused), data, cost, dict(command or {}))

    def with_runs(self, path: Path) -> "Fits":
        """These fits, tied to the table that their runs were saved as."""
        return dataclasses.replace(
            self, data={**self.data, "observations_sha256": sha256_file(path)}
        )

    def runs_beside(self, frontier: Path) -> Observations:
        """The runs that were fitted: observations.csv beside frontier.json.

        Args:
            frontier: frontier.json, or its folder.

        Raises:
            InputError: missing, or another table than the fits were made from.
        """
        path = (frontier if frontier.is_dir() else frontier.parent) / RUNS
        if not path.exists():
            raise InputError(
                f"{path} does not exist, and the runs that {FILE} was fitted to are needed here. "
                "Run `chinchilla fit` again, or give its own folder."
            )
        if self.data.get("observations_sha256", "") not in ("", sha256_file(path)):
            raise InputError(
                f"{path} is not the table that the {FILE} beside it was fitted to (another "
                "SHA-256). Put that one back, or run `chinchilla fit` again."
            )
        return Observations.from_csv(path)

    def __str__(self) -> str:
        """A few lines an approach, and a line for one that cannot answer."""
        return "\n".join(
            [
                *map(str, self.fitted.values()),
                *(f"{called(name)} refused: {r.reason}" for name, r in self.refused.items()),
                *(f"note: {text}" for text in self.data.get("notes", ())),
            ]
        )

    def save(self, path: Path) -> None:
        """Write frontier.json."""
        approaches: dict[str, Any] = {
            name: {"status": "fitted", "reason": "", **f.to_dict()}
            for name, f in self.fitted.items()
        }
        for name, r in self.refused.items():
            approaches[name] = {"status": "refused", **dataclasses.asdict(r)}
        value = {
            "schema": SCHEMA,
            "approaches": approaches,
            "data": self.data,
            "flops_per_token": None if self.cost is None else dataclasses.asdict(self.cost),
            "command": self.command,
        }
        write_json(path, value)

    @classmethod
    def load(cls, path: Path) -> "Fits":
        """Read frontier.json, or the one in a folder.

        Raises:
            InputError: missing, or not written by this version's `chinchilla fit`.
        """
        if path.is_dir():
            path = path / FILE
        if not path.exists():
            raise InputError(f"{path} does not exist. Make it with `chinchilla fit`.")
        value = read_json(path, "fits")
        where = str(path)
        wanted = ("schema", "approaches", "data", "flops_per_token", "command")
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise InputError(f"{path} was not written by this version's `chinchilla fit`.")
        if missing := [name for name in wanted if name not in value]:
            raise InputError(f"{path}: no {', '.join(missing)}. Run `chinchilla fit` again.")
        fitted, refused = {}, {}
        for name, record in value["approaches"].items():
            record = dict(record)
            if record.pop("status", None) == "fitted":
                record.pop("reason", None)
                fitted[name] = Frontier.from_dict(record, where)
            else:
                refused[name] = Refused(**checked(record, Refused, None, where))
        cost = value["flops_per_token"]
        cost = None if cost is None else FlopsPerToken.from_dict(cost, where)
        return cls(fitted, refused, value["data"], cost, value["command"])

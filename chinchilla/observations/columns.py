"""Find the columns of a table of runs by name and unit.

Names are compared without case, spaces and punctuation: "Loss/val", "loss_val" and "Loss (val)" are
the same name. A unit in parentheses or brackets behind a name scales the column.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chinchilla.core.errors import InputError, nearest, shortened
from chinchilla.core.units import CONVENTIONS

COLUMNS = ("run_id", "budget_flops", "C", "N", "D", "L")
OPTIONAL = ("unique_tokens", "max_epochs")
ALL_COLUMNS = (*COLUMNS, *OPTIONAL, *CONVENTIONS)

_COUNT = "n num number of count total"
_WORDS = {  # column -> its name has one of the first words, and no others than the second
    "run_id": ("run id runid", "name uid"),
    "budget_flops": ("budget", "flops flop isoflop"),
    "C": ("flops flop compute", f"{_COUNT} train training spent"),
    "N": ("params parameters nparams", f"{_COUNT} model param parameter nonembedding"),
    "D": (
        "tokens ntokens",
        f"{_COUNT} train training trained seen consumed processed data dataset",
    ),
    "L": (
        "loss crossentropy crossentropyloss",
        "final lm ce cross train training val valid validation eval test heldout",
    ),
    "unique_tokens": ("unique", "n num tokens"),
}
EXAMPLES = {  # for messages
    "C": "flops, compute, total_flops, training_flops, compute_budget",
    "N": "params, n_params, num_parameters, model_size, non_embedding_params",
    "D": "tokens, n_tokens, train_tokens, total_tokens, tokens_seen",
    "L": "loss, final_loss, train_loss, val_loss",
}
_STATES = {  # (column, convention) -> value -> words of a name that state it
    ("N", "n_convention"): {"non_embedding": "nonembedding", "total": "total"},
    ("L", "loss_kind"): {
        "validation": "val valid validation eval test heldout",
        "train": "train training",
    },
}
# A budget: read as C where no other column gives C, otherwise as budget_flops.
_TARGET = "target"
_TARGET_NAMES = ("compute_budget", "target_flops", "target_compute")

SUFFIXES = {  # of a number or a header: powers of ten
    "k": 3, "m": 6, "b": 9, "g": 9, "t": 12, "mn": 6, "bn": 9, "tn": 12,
    "thousand": 3, "million": 6, "billion": 9, "trillion": 12,
}  # fmt: skip
_COUNTS = {
    **dict.fromkeys(("count", "tokens", "params", "parameters"), 1.0),
    **{unit + plural: 10.0**power for unit, power in SUFFIXES.items() for plural in ("", "s")},
}
_FLOPS = {
    "flops": 1.0, "gflops": 1e9, "tflops": 1e12, "pflops": 1e15, "eflops": 1e18, "zflops": 1e21,
    "pflop_s_days": 8.64e19, "petaflop_s_days": 8.64e19,
}  # fmt: skip
UNITS: dict[str, dict[str, float]] = {  # column -> normalized unit -> factor
    **dict.fromkeys(("N", "D", "unique_tokens"), _COUNTS),
    **dict.fromkeys(("C", "budget_flops", _TARGET), _COUNTS | _FLOPS),
    "L": {
        **dict.fromkeys(("nats", "nats_token", "nats_per_token"), 1.0),
        **dict.fromkeys(("bits", "bits_token", "bits_per_token"), math.log(2)),
    },
}


@dataclass(frozen=True)
class FoundColumns:
    """Positions of our columns in a header, and what the header states about them."""

    positions: Mapping[str, int] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)  # unit factors other than 1
    conventions: Mapping[str, str] = field(default_factory=dict)  # stated by the name of a column
    notes: tuple[str, ...] = ()


def normalized(name: str) -> str:
    """A name without case and punctuation: "Train/Loss " and "train_loss" are equal."""
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")


def split_unit(cell: str) -> tuple[str, str]:
    """A name and the unit in parentheses or brackets behind it: "Size (M)" -> ("Size", "M")."""
    name, opening, rest = re.sub(r"\[([^\[\]]*)\]\s*$", r"(\1)", cell.strip()).rpartition("(")
    if not (opening and name.strip() and rest.endswith(")")):
        return cell.strip(), ""
    return name.strip(), rest[:-1].strip().removeprefix("in ").strip()


def column_of(cell: str) -> tuple[str, float, dict[str, str]]:
    """The column that a header cell names, its unit factor and the conventions that the name states.

    Returns:
        ("", 1.0, {}) for any other column.
    """
    for name, unit in ((cell, ""), split_unit(cell)):
        column, stated = _column_named(name)
        factor = UNITS.get(column, {}).get(normalized(unit)) if unit else 1.0
        if column and factor is not None:
            return column, factor, stated
    return "", 1.0, {}


def _column_named(name: str) -> tuple[str, dict[str, str]]:
    """The column with a name, "" if it is none of ours, and the conventions that the name states."""
    if name in ALL_COLUMNS:  # single letters exactly: l, d and n are often layers and widths
        return name, {}
    plain = re.sub(r"non?_?emb(ed(ding)?s?)?(?=_|$)", "nonembedding", normalized(name))
    plain = plain.replace("held_out", "heldout").replace("cross_entropy", "crossentropy")
    if len(plain) > 1 and plain in ALL_COLUMNS:
        return plain, {}
    if plain in _TARGET_NAMES:
        return _TARGET, {}
    if plain in ("model_size", "param_count", "parameter_count"):
        return "N", {}
    if plain == "n_nonembedding":
        return "N", {"n_convention": "non_embedding"}
    if plain in ("token_count", "throughput_total_tokens"):
        return "D", {}
    words = set(plain.split("_"))
    for column, (needed, allowed) in _WORDS.items():
        if words & set(needed.split()) and words <= {*needed.split(), *allowed.split()}:
            stated = {}
            for (stating, convention), values in _STATES.items():
                found = [value for value, text in values.items() if words & set(text.split())]
                if stating == column and found:
                    stated[convention] = found[0]
            return column, stated
    return "", {}


def accepted_names(missing: Sequence[str]) -> str:
    """Examples of accepted names of missing columns, for a message."""
    return "; ".join(f"{column}, {EXAMPLES[column]}" for column in missing)


def find_columns(
    header: Sequence[str], table: str, mapping: Mapping[str, str] | None = None
) -> FoundColumns:
    """Find our columns in a header, by the given mapping or by name.

    Args:
        header: names as written in the table; unknown names are ignored.
        table: name of the table for error messages.
        mapping: our column -> name in the table, such as {"N": "Model Size (M)"}.

    Raises:
        InputError: two columns give the same quantity, or a mapped column does not exist.
    """
    positions, factors = _mapped_columns(header, table, mapping or {})
    mapped = set(positions.values())
    cells = [column_of(cell) for cell in header]
    candidates: dict[str, list[int]] = {}
    for i, (column, _, _) in enumerate(cells):
        if column and column not in positions and i not in mapped:
            candidates.setdefault(column, []).append(i)
    notes = []
    if target := candidates.pop(_TARGET, None):
        free = [c for c in ("C", "budget_flops") if c not in candidates and c not in positions]
        if free:
            candidates[free[0]] = target
        if free[:1] == ["C"]:
            notes.append(
                f"C is read from the column {header[target[0]]}: no other column gives it."
            )
    conventions: dict[str, str] = {}
    for column, matches in candidates.items():
        if len(matches) > 1:  # our own name takes precedence over names that state a convention
            plain = [i for i in matches if not cells[i][2]]
            own = [i for i in matches if split_unit(header[i])[0] == column]
            matches = own if own and own == plain else matches
        if len(matches) > 1:
            first, second = (header[i] for i in matches[:2])
            same = f"the column {first} occurs twice"
            both = f"the columns {first} and {second} both give {column}"
            raise InputError(
                f"{table}: {same if first == second else both}. Rename one, or select one with "
                f"columns.{column}={first!r}."
            )
        positions[column] = matches[0]
        _, factors[column], stated = cells[matches[0]]
        conventions |= stated
    factors = {column: factor for column, factor in factors.items() if factor != 1}
    notes += [
        f"{column} is read from the column {header[positions[column]]}, multiplied by {factor:g}."
        for column, factor in factors.items()
    ]
    return FoundColumns(positions, factors, conventions, tuple(notes))


def _mapped_columns(
    header: Sequence[str], table: str, mapping: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, float]]:
    """Positions and unit factors of the columns that the caller named."""
    positions: dict[str, int] = {}
    factors: dict[str, float] = {}
    for column, cell in mapping.items():
        option = f"columns.{column}={cell!r}"
        if column not in ALL_COLUMNS:
            raise InputError(
                f"columns.{column}: there is no such column.{nearest(column, ALL_COLUMNS)} "
                f"Columns are {', '.join(ALL_COLUMNS)}."
            )
        name, unit = split_unit(cell)
        matches = [i for i, h in enumerate(header) if h.strip() == cell.strip()]
        for wanted in (normalized(cell), normalized(name)):
            matches = matches or [i for i, h in enumerate(header) if normalized(h) == wanted]
        if len(matches) != 1:
            problem = f"{len(matches)} columns of" if matches else "not a column of"
            raise InputError(
                f"{option} is {problem} {table} (found {shortened(', '.join(header), 300) or 'none'}). Give the "
                "name of one column."
            )
        [i] = matches
        units = UNITS.get(column, {})
        factor = units.get(normalized(unit))
        if unit and factor is None and normalized(header[i]) != normalized(cell):
            raise InputError(
                f"{option}: {unit!r} is not a unit of {column}. Use a unit such as (M), (B) or "
                "(billions), or none."
            )
        if i in positions.values():
            raise InputError(f"columns: {header[i]!r} is mapped to two columns. Map it to one.")
        positions[column] = i
        factors[column] = factor or units.get(normalized(split_unit(header[i])[1])) or 1.0
    return positions, factors

"""Find the columns of a table by name and unit.

Header cells are compared without case, spaces and punctuation: "Loss/val", "loss_val" and
"Loss (val)" are the same name. A unit in parentheses or brackets behind a name scales the column.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chinchilla.core.errors import InputError, nearest
from chinchilla.core.units import CONVENTIONS

COLUMNS = ("run_id", "budget_flops", "C", "N", "D", "L")
OPTIONAL = ("unique_tokens", "max_epochs")
ALL_COLUMNS = (*COLUMNS, *OPTIONAL, *CONVENTIONS)

SYNONYMS = {  # column -> other names of the same quantity
    "run_id": ("run", "id", "runid", "run_name", "run_uid"),
    "budget_flops": ("budget", "flops_budget", "flop_budget", "isoflop_budget"),
    "C": (
        "flops", "compute", "flop", "total_flops", "total_flop", "train_flops", "training_flops",
        "n_flops", "num_flops", "flops_total", "flop_count", "flops_spent", "total_compute",
        "train_compute", "training_compute", "compute_flops", "total_training_flops",
    ),
    "N": (
        "params", "parameters", "n_params", "num_params", "n_parameters", "num_parameters", "nparams",
        "n_param", "num_param", "param_count", "params_count", "parameter_count", "number_of_params",
        "number_of_parameters", "model_params", "model_parameters", "model_size",
    ),
    "D": (
        "tokens", "n_tokens", "num_tokens", "ntokens", "train_tokens", "training_tokens",
        "n_train_tokens", "num_train_tokens", "n_training_tokens", "num_training_tokens",
        "total_tokens", "token_count", "number_of_tokens", "tokens_seen", "seen_tokens",
        "train_tokens_seen", "consumed_tokens", "tokens_trained", "trained_tokens",
        "tokens_processed", "data_tokens", "dataset_tokens", "throughput_total_tokens",
    ),
    "L": (
        "loss", "final_loss", "loss_final", "lm_loss", "ce_loss", "cross_entropy",
        "cross_entropy_loss", "crossentropyloss",
    ),
    "unique_tokens": ("unique", "n_unique_tokens", "num_unique_tokens"),
}  # fmt: skip


def _names(patterns: str, words: str) -> tuple[str, ...]:
    return tuple(pattern.format(word) for word in words.split() for pattern in patterns.split())


_LOSS_NAMES = (
    "{0}_loss loss_{0} final_{0}_loss {0}_loss_final {0}_final_loss {0}_lm_loss {0}_ce_loss "
    "{0}_cross_entropy {0}_cross_entropy_loss {0}_crossentropyloss {0}_nll"
)
_NON_EMBEDDING = "non_embedding non_emb nonembedding nonemb non_embed"
_QUALIFIED = {  # (column, convention that the name states) -> names
    ("N", "non_embedding"): (
        *_names("{0}_params params_{0} n_{0}_params num_{0}_params n_params_{0} n_{0}", _NON_EMBEDDING),
        *_names("{0}_parameters parameters_{0} n_{0}_parameters num_{0}_parameters", _NON_EMBEDDING),
        *_names("n_parameters_{0}", _NON_EMBEDDING),
        "params_no_embed",
        "params_no_embedding",
    ),
    ("N", "total"): _names("total_{0} n_total_{0} num_total_{0} {0}_total n_{0}_total", "params parameters"),
    ("L", "validation"): _names(_LOSS_NAMES, "val valid validation eval test held_out heldout"),
    ("L", "train"): _names(_LOSS_NAMES, "train training"),
}  # fmt: skip
QUALIFIED = {name: key for key, names in _QUALIFIED.items() for name in names}
_STATED_BY = {"N": "n_convention", "L": "loss_kind"}

# A budget: read as C where no other column gives C, otherwise as budget_flops.
_TARGET = "target"
_TARGET_NAMES = ("compute_budget", "target_flops", "target_compute", "budget_c")
# The column's own letter takes precedence over these names: both may stand in one table.
_YIELDING = {*QUALIFIED, "model_size"}
# Names of runs where no other column is run_id and no two rows share a value.
_WEAK_RUN_IDS = ("name", "display_name")
_ROW_NUMBERS = re.compile(r"(index|level_0|unnamed_\d+(_\d+)*)?")  # of pandas and spreadsheets
_MAX_HEADER = 200  # characters; a longer cell has no unit

ALIASES = {  # normalized name -> column; single letters are matched exactly
    **{name: name for name in ALL_COLUMNS if len(name) > 1},
    **{alias: column for column, aliases in SYNONYMS.items() for alias in aliases},
    **{alias: column for alias, (column, _) in QUALIFIED.items()},
}

_COUNTS = {
    1.0: "count tokens params parameters",
    1e3: "k thousand thousands",
    1e6: "m mn million millions mio",
    1e9: "b bn g billion billions",
    1e12: "t tn trillion trillions",
}
_FLOPS = {
    1.0: "flops flop",
    8.64e19: "pflop_s_days pflops_days pflop_s_day petaflop_s_days pf_days",
}
for _power, _letter, _name in (
    (1e9, "g", "giga"), (1e12, "t", "tera"), (1e15, "p", "peta"), (1e18, "e", "exa"), (1e21, "z", "zetta"),
):  # fmt: skip
    _FLOPS[_power] = f"{_letter}flops {_letter}flop {_name}flops {_name}flop"
_LOSSES = {1.0: "nats nat nats_token nats_per_token", math.log(2): "bits bits_token bits_per_token"}


def _unit_factors(*units: Mapping[float, str]) -> dict[str, float]:
    return {name: f for table in units for f, names in table.items() for name in names.split()}


UNITS = {  # column -> normalized unit -> factor
    **dict.fromkeys(("N", "D", "unique_tokens"), _unit_factors(_COUNTS)),
    **dict.fromkeys(("C", "budget_flops", _TARGET), _unit_factors(_COUNTS, _FLOPS)),
    "L": _unit_factors(_LOSSES),
}


@dataclass(frozen=True)
class FoundColumns:
    """Positions of our columns in a header, and what the header states about them."""

    positions: Mapping[str, int]
    factors: Mapping[str, float]  # unit factors other than 1
    conventions: Mapping[str, str]  # stated by the name of a column
    notes: tuple[str, ...]
    name_position: int | None  # a column that serves as run_id if its values are distinct
    row_numbers: tuple[int, ...]  # positions of columns that hold row numbers


def normalized(name: str) -> str:
    """A name without case and punctuation: "Train/Loss " and "train_loss" are equal."""
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")


def split_unit(cell: str) -> tuple[str, str]:
    """A name and the unit in parentheses or brackets behind it: "Size (M)" -> ("Size", "M")."""
    if len(cell) > _MAX_HEADER:
        return cell, ""
    match = re.fullmatch(r"\s*(.*?)\s*[(\[]\s*(?:in\s+)?([^()\[\]]+?)\s*[)\]]\s*", cell)
    return (match[1], match[2]) if match and match[1] else (cell.strip(), "")


def shortened(text: str, max_length: int = 300) -> str:
    """`text`, truncated for use in an error message."""
    return text if len(text) <= max_length else f"{text[:max_length]} ..."


def column_of(cell: str) -> tuple[str, float, str]:
    """The column that a header cell names, its unit factor and the convention that the name states.

    Returns:
        ("", 1.0, "") for any other column.
    """
    for name, unit in ((cell, ""), split_unit(cell)):
        column = name if name in ALL_COLUMNS else ALIASES.get(normalized(name), "")
        if not column and normalized(name) in _TARGET_NAMES:
            column = _TARGET
        factor = UNITS.get(column, {}).get(normalized(unit)) if unit else 1.0
        if column and factor is not None:
            return column, factor, QUALIFIED.get(normalized(name), ("", ""))[1]
    return "", 1.0, ""


def accepted_names(missing: Sequence[str]) -> str:
    """The accepted names of missing columns: all for one or two columns, the first six for more."""

    def names(column: str) -> str:
        qualified = [alias for alias, (to, _) in QUALIFIED.items() if to == column]
        targets = _TARGET_NAMES[:1] if column == "C" else ()
        shown = [*SYNONYMS.get(column, ()), *qualified[:3], *targets]
        return ", ".join([column, *(shown if len(missing) <= 2 else [*shown[:6], "..."])])

    return "; ".join(map(names, missing))


def find_columns(
    header: Sequence[str], table: str, mapping: Mapping[str, str] | None = None
) -> FoundColumns:
    """Find our columns in a header, by the given mapping, by name or by alias.

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
    conventions = {}
    for column, matches in candidates.items():
        i = positions[column] = _only_match(header, matches, column, table)
        _, factors[column], stated = cells[i]
        if stated:
            conventions[_STATED_BY[column]] = stated
    factors = {column: factor for column, factor in factors.items() if factor != 1}
    notes += [
        f"{column} is read from the column {header[positions[column]]}, multiplied by {factor:g}."
        for column, factor in factors.items()
    ]
    names = [i for i, cell in enumerate(header) if normalized(cell) in _WEAK_RUN_IDS]
    used = set(positions.values())
    return FoundColumns(
        positions,
        factors,
        conventions,
        tuple(notes),
        name_position=names[0] if names and "run_id" not in positions else None,
        row_numbers=tuple(
            i
            for i, cell in enumerate(header)
            if i not in used and _ROW_NUMBERS.fullmatch(normalized(cell))
        ),
    )


def _only_match(header: Sequence[str], matches: Sequence[int], column: str, table: str) -> int:
    """The one position that gives `column`; its own letter takes precedence over qualified names."""
    exact = [i for i in matches if split_unit(header[i])[0] == column]
    rivals = [
        i
        for i in matches
        if i not in exact
        and not _YIELDING & {normalized(header[i]), normalized(split_unit(header[i])[0])}
    ]
    if len(exact) == 1 and not rivals:
        return exact[0]
    if len(matches) == 1:
        return matches[0]
    first, second = (header[i] for i in matches[:2])
    problem = (
        f"the column {first} occurs twice"
        if first == second
        else f"the columns {first} and {second} both give {column}"
    )
    raise InputError(
        f"{table}: {problem}. Rename one, or select one with columns.{column}={first!r}."
    )


def _mapped_columns(
    header: Sequence[str], table: str, mapping: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, float]]:
    """Positions and unit factors of the columns that the caller named."""
    positions: dict[str, int] = {}
    factors: dict[str, float] = {}
    for column, cell in mapping.items():
        cell = str(cell)
        option = f"columns.{column}={cell!r}"
        if column not in ALL_COLUMNS:
            raise InputError(
                f"columns.{column}: there is no such column.{nearest(str(column), ALL_COLUMNS)} "
                f"Columns are {', '.join(ALL_COLUMNS)}."
            )
        name, unit = split_unit(cell)
        matches: list[int] = []
        for wanted in (cell, name):
            matches = matches or [i for i, h in enumerate(header) if h.strip() == wanted.strip()]
            matches = matches or [
                i for i, h in enumerate(header) if normalized(h) == normalized(wanted)
            ]
        if len(matches) != 1:
            problem = f"{len(matches)} columns of" if matches else "not a column of"
            raise InputError(
                f"{option} is {problem} {table} (found {shortened(', '.join(header)) or 'none'})."
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

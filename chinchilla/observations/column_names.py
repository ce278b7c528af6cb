"""Names of columns: what other programs call ours, and the units that a header states.

A header is compared without case, spaces and punctuation: "Loss/val", "loss_val" and "Loss (val)" are
one name. `tables_in.py` reads the columns that are found here. Floor 0.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chinchilla.core.errors import InputError, nearest

COLUMNS = ("run_id", "budget_flops", "C", "N", "D", "L")
OPTIONAL = ("unique_tokens", "max_epochs")  # columns that few tables have
CONVENTIONS = ("flop_convention", "n_convention", "loss_kind")
OURS = (*COLUMNS, *OPTIONAL, *CONVENTIONS)

SYNONYMS = {  # ours -> other names of the same quantity
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

# Names that say which of several kinds they hold, and the convention that follows. Our own letter
# beside one of them is no clash: it says which column is meant.
_EMBEDDING_WORDS = ("non_embedding", "non_emb", "nonembedding", "nonemb", "non_embed")
_PARAM_WORDS = ("params", "parameters")
_HELD_OUT_WORDS = ("val", "valid", "validation", "eval", "test", "held_out", "validation")
QUALIFIED: dict[str, tuple[str, str]] = {  # name -> (ours, convention)
    **{
        name: ("N", "non_embedding")
        for e in _EMBEDDING_WORDS
        for p in _PARAM_WORDS
        for name in (f"{e}_{p}", f"{p}_{e}", f"n_{e}_{p}", f"num_{e}_{p}", f"n_{p}_{e}", f"n_{e}")
    },
    **dict.fromkeys(("params_no_embed", "params_no_embedding"), ("N", "non_embedding")),
    **{
        name: ("N", "total")
        for p in _PARAM_WORDS
        for name in (f"total_{p}", f"n_total_{p}", f"num_total_{p}", f"{p}_total", f"n_{p}_total")
    },
    **{
        name: ("L", kind)
        for word, kind in (
            *((word, "validation") for word in _HELD_OUT_WORDS),
            ("train", "train"),
            ("training", "train"),
        )
        for name in (
            f"{word}_loss", f"loss_{word}", f"final_{word}_loss", f"{word}_loss_final",
            f"{word}_final_loss", f"{word}_lm_loss", f"{word}_ce_loss", f"{word}_cross_entropy",
            f"{word}_cross_entropy_loss", f"{word}_crossentropyloss", f"{word}_nll",
        )
    },
}  # fmt: skip
STATED_BY = {"N": "n_convention", "L": "loss_kind"}  # what a qualified name states

# FLOPs asked for: the budget, and C where no column gives that.
C_OR_BUDGET = ("compute_budget", "target_flops", "target_compute", "budget_c")
# Names that give way to our own letter beside them, for they hold as often a label.
YIELDING = {*QUALIFIED, "model_size"}
# A label that is a run_id where no other column is one and no two rows share it.
WEAK_RUN_ID = ("name", "display_name")
MAX_NAME = 200  # characters of a header that is looked into
INDEX = re.compile(
    r"(index|level_0|unnamed_\d+(_\d+)*)?"
)  # row numbers that pandas and spreadsheets write

ALIASES = {  # normalised name -> ours; the single letters stand for themselves only
    **{name: name for name in OURS if len(name) > 1},
    **{alias: ours for ours, aliases in SYNONYMS.items() for alias in aliases},
    **{alias: ours for alias, (ours, _) in QUALIFIED.items()},
}

_COUNTS = {
    1.0: ("count", "tokens", "params", "parameters"),
    1e3: ("k", "thousand", "thousands"),
    1e6: ("m", "mn", "million", "millions", "mio"),
    1e9: ("b", "bn", "g", "billion", "billions"),
    1e12: ("t", "tn", "trillion", "trillions"),
}
_FLOPS = {
    1.0: ("flops", "flop"),
    **{
        power: (f"{letter}flops", f"{letter}flop", f"{name}flops", f"{name}flop")
        for power, letter, name in (
            (1e9, "g", "giga"),
            (1e12, "t", "tera"),
            (1e15, "p", "peta"),
            (1e18, "e", "exa"),
            (1e21, "z", "zetta"),
        )
    },
    8.64e19: ("pflop_s_days", "pflops_days", "pflop_s_day", "petaflop_s_days", "pf_days"),
}
_LOSSES = {
    1.0: ("nats", "nat", "nats_token", "nats_per_token"),
    math.log(2): ("bits", "bits_token", "bits_per_token"),
}
UNITS = {  # ours -> unit as a normalised name -> factor
    "N": {name: f for f, names in _COUNTS.items() for name in names},
    "L": {name: f for f, names in _LOSSES.items() for name in names},
    "C": {name: f for units in (_COUNTS, _FLOPS) for f, names in units.items() for name in names},
}
UNITS["D"] = UNITS["unique_tokens"] = UNITS["N"]
UNITS["budget_flops"] = UNITS["C"]


@dataclass(frozen=True)
class Found:
    """Where our columns stand in a header, and what the header says of them."""

    places: Mapping[str, int]  # our column -> place in the header
    factors: Mapping[str, float]  # our column -> what its numbers are multiplied by, where not 1
    says: Mapping[str, str]  # convention -> what the name of a column states
    notes: tuple[str, ...]
    weak: int = -1  # place of a column that is a run_id if no two rows share a value
    index: tuple[int, ...] = ()  # places of row numbers


def normalised(name: str) -> str:
    """A header without case and punctuation: "Train/Loss " and "train_loss" are one."""
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")


def split_unit(name: str) -> tuple[str, str]:
    """A name and the unit in the brackets behind it: "Size (M)" -> ("Size", "M")."""
    if len(name) > MAX_NAME:
        return name, ""
    found = re.fullmatch(r"\s*(.*?)\s*[(\[]\s*(?:in\s+)?([^()\[\]]+?)\s*[)\]]\s*", name)
    return (found[1], found[2]) if found and found[1] else (name.strip(), "")


def shortened(text: str, most: int = 300) -> str:
    """`text` for an error, which is one line however much a file holds."""
    return text if len(text) <= most else f"{text[:most]} ..."


def meaning(theirs: str) -> tuple[str, float]:
    """Our column that a header gives, and the factor of its unit; ("", 1) for another column."""
    if ours := _plain(theirs):
        return ours, 1.0
    name, unit = split_unit(theirs)
    if unit and (ours := _plain(name)):
        factor = UNITS.get(ours, {}).get(normalised(unit))
        if factor is not None:
            return ours, factor
    return "", 1.0


def known(theirs: str) -> bool:
    """Whether a header names one of our columns, or may."""
    return bool(meaning(theirs)[0]) or normalised(split_unit(theirs)[0]) in C_OR_BUDGET


def accepted(missing: Sequence[str]) -> str:
    """The names that columns may have, for an error: all of one or two columns, the first of more."""

    def names(ours: str) -> str:
        qualified = [alias for alias, (to, _) in QUALIFIED.items() if to == ours]
        found = [*SYNONYMS.get(ours, ()), *qualified[:3], *(C_OR_BUDGET[:1] if ours == "C" else ())]
        shown = found if len(missing) <= 2 else [*found[:6], "..."]
        return ", ".join([ours, *shown])

    return "; ".join(map(names, missing))


def our_columns(
    header: Sequence[str], table: str, columns: Mapping[str, str] | None = None
) -> Found:
    """Our columns in a header, by the mapping given, by name or by alias.

    Args:
        header: names as they were written; those of other columns are ignored.
        table: what errors call the table.
        columns: ours -> theirs, such as {"N": "Model Size (M)"}; a unit in brackets multiplies.

    Raises:
        InputError: two columns give one of ours, or a mapped column does not exist.
    """
    places, factors = _mapped(header, table, columns or {})
    given = dict(places)
    claims: dict[str, list[int]] = {}
    spare: list[int] = []  # places of FLOPs asked for
    for i, theirs in enumerate(header):
        if i in given.values():
            continue
        ours, factor = meaning(theirs)
        if not ours and normalised(split_unit(theirs)[0]) in C_OR_BUDGET:
            spare.append(i)
        elif ours and ours not in given:
            claims.setdefault(ours, []).append(i)
            factors.setdefault(f"{ours} {i}", factor)
    says = {}
    for ours, at in claims.items():
        i = places[ours] = _only(header, at, ours, table)
        factors[ours] = factors[f"{ours} {i}"]
        if kind := _kind(header[i]):
            says[STATED_BY[ours]] = kind
    notes = []
    for ours in ("C", "budget_flops"):
        if spare and ours not in places:
            i = places[ours] = _only(header, spare, ours, table)
            factors[ours] = UNITS["C"].get(normalised(split_unit(header[i])[1]), 1.0)
            if ours == "C":
                notes.append(f"C is read from the column {header[i]}: no other column gives it.")
            break
    factors = {ours: f for ours, f in factors.items() if ours in places and f != 1}
    notes += [
        f"{ours} is read from the column {header[places[ours]]}, times {f:g}."
        for ours, f in factors.items()
    ]
    weak = [i for i, name in enumerate(header) if normalised(name) in WEAK_RUN_ID]
    index = [i for i, name in enumerate(header) if INDEX.fullmatch(normalised(name))]
    return Found(
        places,
        factors,
        says,
        tuple(notes),
        weak=weak[0] if weak and "run_id" not in places else -1,
        index=tuple(i for i in index if i not in places.values()),
    )


def _plain(theirs: str) -> str:
    return theirs if theirs in OURS else ALIASES.get(normalised(theirs), "")


def _kind(theirs: str) -> str:
    """The convention that a qualified name states; "" for other names."""
    for name in (theirs, split_unit(theirs)[0]):
        if normalised(name) in QUALIFIED:
            return QUALIFIED[normalised(name)][1]
    return ""


def _only(header: Sequence[str], at: Sequence[int], ours: str, table: str) -> int:
    """The one place of several that gives a column of ours."""
    exact = [i for i in at if split_unit(header[i])[0] == ours]
    others = [
        i
        for i in at
        if i not in exact
        and not YIELDING & {normalised(header[i]), normalised(split_unit(header[i])[0])}
    ]
    if len(exact) == 1 and not others:
        return exact[0]
    if len(at) > 1:
        first, second = (header[i] for i in at[:2])
        clash = (
            f"the column {first} occurs twice"
            if first == second
            else f"the columns {first} and {second} both give {ours}"
        )
        raise InputError(
            f"{table}: {clash}. Rename one, or say which is meant: columns.{ours}={first!r}."
        )
    return at[0]


def _mapped(
    header: Sequence[str], table: str, columns: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, float]]:
    """Places and factors of the columns that a person named."""
    places: dict[str, int] = {}
    factors: dict[str, float] = {}
    for ours, theirs in columns.items():
        if ours not in OURS:
            raise InputError(
                f"columns.{ours}: there is no such column.{nearest(str(ours), OURS)} "
                f"Columns are {', '.join(OURS)}."
            )
        name, unit = split_unit(str(theirs))
        for wanted in (str(theirs), name):
            same = [i for i, h in enumerate(header) if h.strip() == wanted.strip()]
            same = same or [i for i, h in enumerate(header) if normalised(h) == normalised(wanted)]
            if same:
                break
        if len(same) != 1:
            what = f"{len(same)} columns of" if same else "not a column of"
            raise InputError(
                f"columns.{ours}={str(theirs)!r} is {what} {table} (found "
                f"{shortened(', '.join(header)) or 'none'})."
            )
        factor = UNITS.get(ours, {}).get(normalised(unit))
        if unit and factor is None and normalised(header[same[0]]) != normalised(str(theirs)):
            raise InputError(
                f"columns.{ours}={str(theirs)!r}: {unit!r} is not a unit of {ours}. Give one such as "
                "(M), (B), (billions), or none."
            )
        if same[0] in places.values():
            raise InputError(f"columns: {header[same[0]]!r} is given for two columns. Give one.")
        places[ours] = same[0]
        stated = split_unit(header[same[0]])[1]
        factors[ours] = factor or UNITS.get(ours, {}).get(normalised(stated)) or 1.0
    return places, factors

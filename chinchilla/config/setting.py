"""Settings of config dataclasses: default, unit, bounds, choices and help, each written once.

    @dataclass(kw_only=True)
    class RecipeConfig(Config, prefix="recipe."):
        peak_lr: float = setting(2e-4, "Learning rate after warm-up.", above=0)

`Config` checks every value against its setting; `settings_of` lists them for `--help`. These are
plain dataclass fields with metadata, so OmegaConf reads them as structured configs. OmegaConf 2.3
accepts neither Literal nor tuples, and frozen dataclasses cannot be merged.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_origin, get_type_hints

from chinchilla.config.checks import require_choice, require_number, require_whole
from chinchilla.core.errors import InputError, Problems

REQUIRED = dataclasses.MISSING  # as a default: the user has to give a value
FITS_HELP = "Folder or frontier.json that `chinchilla fit` wrote, or folder of a fitted sweep."
BOOTSTRAP_LIMITS: dict[str, Any] = {  # percentiles of fewer mean nothing, more exhaust memory
    "at_least": 20, "at_most": 100_000, "optional": True, "hint": "Give 0 for no intervals.",
}  # fmt: skip


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    choices: Sequence[str] = (),
    optional: bool = False,
    hint: str = "",
    check: Callable[[str, Any], None] | None = None,
) -> Any:
    """Define one setting: a dataclass field whose metadata hold its bounds and its help.

    Args:
        default: the default; lists and dicts are copied for each instance. REQUIRED for none.
        help: one or two sentences for `chinchilla COMMAND --help`.
        unit: unit of the value, shown behind it in the help.
        above: exclusive lower bound.
        at_least: inclusive lower bound.
        below: exclusive upper bound.
        at_most: inclusive upper bound.
        choices: accepted values. For a list, bounds and choices apply to each element.
        optional: whether 0, None and an empty text are accepted too, for a value that is not set.
        hint: advice at the end of the error for a value out of bounds.
        check: a further check of (key, value), which raises InputError.
    """
    bounds = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    metadata = {
        "hint": hint,
        "check": check,
        "whole": type(default) is int,
        "help": help,
        "unit": unit,
        "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
        "choices": tuple(choices),
        "optional": optional,
    }
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Config:
    """Base of all config dataclasses: refuses values outside of the bounds of their settings.

    Attributes:
        prefix: text before the names of settings in messages, such as "recipe.".
        words: of a command: the settings that words without `=` fill, in this order. "a|b" is a for a
            folder or a JSON file, and b for another file.
    """

    prefix = ""
    words: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, prefix: str = "", words: Sequence[str] = ()) -> None:
        cls.prefix, cls.words = prefix, tuple(words)

    def __post_init__(self) -> None:
        self.check_values(self.prefix)

    def check_values(self, prefix: str) -> None:
        """Check every value against its setting, as `check_values`."""
        check_values(type(self), vars(self), prefix)


def check_values(schema: type, values: Mapping[str, Any], prefix: str) -> None:
    """Check values against the settings of a config dataclass.

    Args:
        schema: the dataclass.
        values: by field; "???" is a value that is not given.
        prefix: text before the names of settings in messages, such as "recipe.".

    Raises:
        InputError: values out of bounds, not among the choices, not finite, or not whole numbers.
    """
    problems = Problems()
    for field in dataclasses.fields(schema):
        given = values[field.name]
        if not field.metadata or given == "???":  # a group checks its own values
            continue
        for value in given if isinstance(given, list) else [given]:
            with problems.collected():
                check_value(prefix + field.name, value, field.metadata)
    problems.raise_any()


def check_value(key: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Check one value against the metadata of its setting.

    Raises:
        InputError: it is out of bounds, not among the choices, or not finite.
    """
    if metadata["optional"] and (value is None or value == 0 or value == ""):
        return
    if check := metadata["check"]:
        check(key, value)
    if choices := metadata["choices"]:
        require_choice(key, value, choices)
    if metadata["whole"]:
        require_whole(key, value)
    if bounds := metadata["bounds"]:
        require_number(key, value, **bounds, hint=metadata["hint"])
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key}={value} is not a finite number.")


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """The default of a setting; REQUIRED if it has none."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


@dataclass(frozen=True)
class Setting:
    """One setting of a command, as `key=value` gives it."""

    key: str  # recipe.peak_lr
    type: Any  # str, int, float, bool, list or dict
    element: Any  # the type of a list's elements; of other settings their type
    help: str
    unit: str
    choices: Sequence[str] = ()
    default: Any = None  # REQUIRED if it has none

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is REQUIRED


def settings_of(schema: type, prefix: str = "") -> list[Setting]:
    """Every setting of a config dataclass, those of its groups too."""
    hints, listed = get_type_hints(schema), []
    own = vars(schema).get("__annotations__", {})  # listed before inherited settings
    for field in sorted(dataclasses.fields(schema), key=lambda field: field.name not in own):
        hint, metadata = hints[field.name], field.metadata
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            listed += settings_of(hint, f"{prefix}{field.name}.")
            continue
        choices = f" One of {', '.join(metadata['choices'])}." if metadata["choices"] else ""
        listed.append(
            Setting(
                key=prefix + field.name,
                type=get_origin(hint) or hint,
                element=getattr(hint, "__args__", (hint,))[0],
                help=metadata["help"] + choices,
                unit=metadata["unit"],
                choices=metadata["choices"],
                default=default_of(field),
            )
        )
    return listed

"""Words of the command line as overrides in Hydra's grammar.

    predict runs/demo 20B   ->   fits=runs/demo budget_flops=[20e9]

A word without `=` fills the next of the settings that the dataclass of the command lists in `words`.
Numbers may have a suffix, and a named option may be the path of its file.
"""

import os
import re
import shlex
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import get_type_hints

import chinchilla
from chinchilla.config import COMMANDS
from chinchilla.config.checks import MAX_DIGITS
from chinchilla.config.setting import Setting, settings_of
from chinchilla.core.errors import InputError, Problems, nearest, nearest_path, shortened

GROUPS = ("corpus", "model", "recipe", "grid", "cluster", "runtime")
SUFFIXES = {"k": 3, "M": 6, "B": 9, "T": 12}  # powers of ten
_NUMBER = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:[eE]([+-]?\d{1,3}))?([A-Za-z]*)")
_KEY = re.compile(r"[^/=]*=")  # what a word with a key begins with; runs/lr=3 is a path


def config_dir() -> Path:
    """The folder of YAML files: beside the package in a checkout, inside it in a wheel."""
    inside = Path(chinchilla.__file__).parent / "configs"
    return inside if inside.is_dir() else inside.parent.parent / "configs"


def groups_of(command: str) -> list[str]:
    """The groups of settings that have named options for a command."""
    return [g for g in GROUPS if g in get_type_hints(COMMANDS[command])]


def choices(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """Names that `group=NAME` accepts; those of `folders` (of --config-dir) too."""
    from chinchilla.core.shapes import named_shapes

    places = [config_dir() / group, *(folder / group for folder in folders)]
    names = [path.stem for each in places for path in sorted(each.glob("*.yaml"))]
    return names + (list(named_shapes()) if group == "model" else [])


def overrides_of(
    command: str, words: Sequence[str], problems: Problems
) -> tuple[dict[str, str], list[Path], set[str]]:
    """Overrides in Hydra's grammar by key, folders with named options, and keys that cannot be used.

    Args:
        command: a key of COMMANDS.
        words: positional and key=value words, and optionally --config-dir FOLDER, in any order.
        problems: receives an InputError for each word that cannot be used.
    """
    rest, folders = _split_config_dirs(words, problems)
    overrides: dict[str, str] = {}
    given = _with_keys(command, rest)
    keys = [word.partition("=")[0] for word in given]
    for word, key in zip(given, keys, strict=True):
        with problems.collected():
            if (n := keys.count(key)) > 1 and "=" in word:
                raise InputError(f"{key} is given {n} times. Give it once.")
            overrides[key] = _override(command, word, folders)
    return overrides, folders, set(keys) - set(overrides)


def _split_config_dirs(words: Sequence[str], problems: Problems) -> tuple[list[str], list[Path]]:
    """The words without --config-dir FOLDER (or --config-dir=FOLDER), and the folders."""
    rest, folders, remaining = [], [], iter(words)
    for word in remaining:
        flag, equals, name = word.partition("=")
        if flag != "--config-dir":
            rest.append(word)
            continue
        name = name if equals else next(remaining, "")
        with problems.collected():
            if not name or not Path(name).is_dir():
                raise InputError(
                    f"--config-dir={name} is not a folder.{nearest_path(name)} Give a folder with sub-folders "
                    "such as grid and recipe."
                )
            folders.append(Path(name).resolve())
    return rest, folders


# ------------------------------------------------------------------ words without =


def words_usage(command: str) -> list[str]:
    """The positional words of a command, as its usage line shows them."""
    settings = {s.key: s for s in settings_of(COMMANDS[command])}
    shown = []
    for name in COMMANDS[command].words:
        setting = settings.get(name)
        text = name.upper() + (" ..." if setting and setting.type is list else "")
        shown.append(text if setting and setting.required else f"[{text}]")
    return shown


def _with_keys(command: str, words: Sequence[str]) -> list[str]:
    """The words with the key of each positional one; those that fit nowhere are unchanged.

    A number fills the next setting that is a number, and other words the next of the other settings.
    A list takes all words that remain.
    """
    settings = {s.key: s for s in settings_of(COMMANDS[command])}
    free = list(COMMANDS[command].words)
    keyed: list[str] = []
    lists: dict[str, list[str]] = {}
    for before, word in zip(["", *words], words, strict=False):
        if word in SUFFIXES and _is_number(before.rpartition("=")[2]) and not Path(word).exists():
            raise InputError(f"{before} {word}: write {before}{word}, without a space.")
        is_option = word.startswith("-") and not _is_number(word)
        has_key = _KEY.match(word) and not _is_path(command, word)
        if is_option or has_key or not free or _is_key(command, word, free[0]):
            keyed.append(word)
            continue
        of_kind = [name for name in free if _takes_numbers(settings, name) == _is_number(word)]
        name = (of_kind or free)[0]
        key = _alternative(name, word)
        if key in settings and settings[key].type is list:
            lists.setdefault(key, []).append(word)
        else:
            free.remove(name)
            as_is = key not in settings or settings[key].element is not str
            keyed.append(f"{key}={word if as_is else quoted(word)}")
    for key, values in lists.items():
        texts = values if settings[key].element is not str else map(quoted, values)
        keyed.append(f"{key}=[{','.join(texts)}]")
    return keyed


def _is_path(command: str, word: str) -> bool:
    """Whether a word with = is a file or folder, and the part before = is no key of the command."""
    key = word.partition("=")[0]
    settings = settings_of(COMMANDS[command])
    known = {s.key for s in settings} | set(groups_of(command))
    pairs = any(s.type is dict and key.startswith(f"{s.key}.") for s in settings)
    return key not in known and not pairs and Path(word).exists()


def _is_key(command: str, word: str, first: str) -> bool:
    """Whether a word without = is a key whose value is missing, and no file, folder or choice."""
    settings = {s.key: s for s in settings_of(COMMANDS[command])}
    groups = groups_of(command)
    if first in settings and word in settings[first].choices:
        return False
    named = word in settings or word in groups or (word.partition(".")[0] in groups and "." in word)
    return named and not Path(word).exists()


def _is_number(word: str) -> bool:
    found = [_NUMBER.fullmatch(part.strip()) for part in word.strip("[]").split(",")]
    return all(one and one[3] in ("", *SUFFIXES) for one in found)


def _takes_numbers(settings: dict[str, Setting], name: str) -> bool:
    return name in settings and settings[name].element in (int, float)


def _alternative(name: str, word: str) -> str:
    """Of `a|b`, a for a folder or a JSON file, and b for another file."""
    first, _, second = name.partition("|")
    is_first = not second or word.endswith(".json") or Path(word).is_dir()
    return first if is_first else second


# ------------------------------------------------------------------ key=value


def _override(command: str, word: str, folders: list[Path]) -> str:
    """A key=value word in Hydra's grammar, after checking that the key exists."""
    key, equals, value = word.partition("=")
    settings = {s.key: s for s in settings_of(COMMANDS[command])}
    groups = groups_of(command)
    if not equals:
        kinds = {"sweep_dir|observations": "one table of runs or one folder of a sweep"}
        if (taken := COMMANDS[command].words) and Path(word).exists():
            shown = kinds.get(taken[0], " ".join(words_usage(command)))
            raise InputError(f"{word}: `chinchilla {command}` accepts {shown}. Omit the others.")
        hint = f" Write {word}=VALUE." if word in (*settings, *groups) else ""
        hint = hint or nearest(word, [*settings, *groups])
        raise InputError(f"{word!r} is not key=value.{hint}")
    if key in groups:
        # Quoted, as Hydra would read a file called nan or 7 as a number.
        return f"{key}={quoted(_named_option(key, value, folders))}"
    of_pairs = (s for s in settings.values() if s.type is dict)
    if pairs := next((s for s in of_pairs if f"{key}.".startswith(f"{s.key}.")), None):
        if key == pairs.key and not value.startswith("{"):
            raise InputError(f"{word} must be pairs, such as {key}.A=B or '{key}={{A: B}}'.")
        as_is = key == pairs.key or value[:1] in ("'", '"')
        return f"+{key}={value if as_is else quoted(value)}"  # its keys are not in the schema
    if key not in settings:
        raise InputError(
            f"{command} has no key {key!r}.{nearest(key, [*settings, *groups])} "
            f"`chinchilla {command} --help` lists them."
        )
    return f"{key}={_hydra_value(settings[key], value)}"


def _named_option(group: str, value: str, folders: list[Path]) -> str:
    """The name of an option that is given by name or as a path, whose folder is added to `folders`."""
    path = Path(value)
    if path.suffix in (".yaml", ".yml") and os.path.lexists(path):
        real = Path(os.path.realpath(path))
        if not real.is_file():  # refused with what it is where it is read
            real = Path(os.path.realpath(path.parent), path.name)
        if real.parent.name != group or path.suffix != ".yaml":
            raise InputError(
                f"{group}={value} must have the form FOLDER/{group}/NAME.yaml. Move the file to such a place."
            )
        folders.append(real.parent.parent)
        value = path.stem
    if value not in (names := choices(group, folders)):
        short = names if len(names) < 12 else [*names[:5], "...", *names[-3:]]
        raise InputError(
            f"{group}={value}: there is no such {group}.{_elsewhere(group, value) or nearest(value, names)} "
            f"Choices: {', '.join(short)}."
        )
    own = [folder / group / f"{value}.yaml" for folder in dict.fromkeys(folders)]
    own = [path for path in own if path.is_file() and path.parent.parent != config_dir()]
    if len(own) > 1 or (own and value in choices(group)):
        raise InputError(
            f"{group}={value} is the name of two options: {own[0]} and "
            f"{own[1] if len(own) > 1 else 'one of the package'}. Rename the file."
        )
    return value


def _elsewhere(group: str, name: str) -> str:
    """What to give if a folder in this one has the named option, or ""."""
    places = sorted(Path().glob(f"*/{group}/*.yaml")) + sorted(Path(group).glob("*.yaml"))
    for path in places:
        if path.stem == name:
            return f" {path} exists: add --config-dir {path.parent.parent}, or give {group}={path}."
    return nearest_path(name) if name.endswith((".yaml", ".yml")) else ""


def _hydra_value(setting: Setting, value: str) -> str:
    """The value of a setting in Hydra's grammar: 1e6 for ints, lists without brackets, any path."""
    if setting.element in (int, float):
        inner = value.removeprefix("[").removesuffix("]") if setting.type is list else value
        numbers = [_number(setting, part) for part in inner.split(",")]
        value = value.replace(inner, ",".join(numbers)) if inner else value
    if setting.element is str:  # the shell does not expand a ~ behind =
        value = re.sub(r"(^|[\[,]\s*)~(?=/)", lambda found: f"{found[1]}{Path.home()}", value)
    if setting.type is list and value:
        value = value if value.startswith("[") else f"[{value}]"
        if setting.element is str and not re.search(r"['\"\\{}]", value) and value.endswith("]"):
            words = (word.strip() for word in value[1:-1].split(",")) if value != "[]" else ()
            plain = re.compile(r"[\w./:@%+ -]*", re.ASCII)
            value = f"[{','.join(w if plain.fullmatch(w) else quoted(w) for w in words)}]"
        return value
    if setting.type is str and re.search(r"[^\w./:@%+ -]", value, re.ASCII):
        return value if value[0] in "'\"$" else quoted(value)
    return value


def _number(setting: Setting, text: str) -> str:
    """A number without its suffix, and without its exponent where whole numbers are expected.

    Raises:
        InputError: the suffix is unknown, or the number is too long.
    """
    if len(text) > MAX_DIGITS:
        raise InputError(
            f"{setting.key}={shortened(text)} has {len(text):,} characters; numbers have at most {MAX_DIGITS}. Correct it."
        )
    found = _NUMBER.fullmatch(text.strip())
    if not found:
        joined = "".join(text.split())
        if joined != text.strip() and (of := _NUMBER.fullmatch(joined)) and of[3] in SUFFIXES:
            raise InputError(f"{setting.key}={text.strip()}: write {joined}, without a space.")
        is_word = re.fullmatch(r"[^\W\d]+", text.strip())
        if setting.type is list and is_word and is_word[0].lower() not in ("null", "nan", "inf"):
            raise InputError(
                f"{setting.key}: {is_word[0]} is not a number. Give a list such as 1,2."
            )
        return text  # an error of Hydra, unless it is null
    digits, exponent, suffix = found.groups()
    if suffix and suffix not in SUFFIXES:
        other = {name.swapcase(): name for name in SUFFIXES}.get(suffix)
        hint = f" Did you mean {text.strip()[:-1]}{other}?" if other else ""
        raise InputError(
            f"{setting.key}={text.strip()}: {suffix} is not a suffix of numbers.{hint} "
            "Use k, M, B or T for 1e3, 1e6, 1e9 or 1e12."
        )
    if not suffix and (setting.element is float or not exponent):
        return text
    power = int(exponent or 0) + SUFFIXES.get(suffix, 0)
    number = Decimal(f"{digits}e{power}")
    if setting.element is int and abs(power) < 100 and number == int(number):
        return str(int(number))
    return f"{digits}e{power}" if suffix else text


def quoted(value: str) -> str:
    """A text in quotes; Hydra takes backslashes literally except before a quote."""
    doubled = re.sub(r"(\\+)(?='|\Z)", r"\1\1", value)
    return "'" + doubled.replace("'", r"\'") + "'"


def shell_word(path: str | Path) -> str:
    """A path as a positional word, quoted for the shell."""
    text = str(path)
    is_key = text.startswith("-") or "=" in text.partition("/")[0]
    return shlex.quote(f"./{text}" if is_key else text)

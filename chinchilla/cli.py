"""`chinchilla COMMAND key=value ...`: argv -> Hydra -> dataclass -> function.

Hydra composes `configs/<command>.yaml` with the overrides; the result becomes a plain dataclass
here, once, and nothing below sees a DictConfig. Exit codes: 0 ok, 1 a run failed, 2 bad input (one
line says what was given, why it cannot be, what to do), 3 refused, 75 requeue. Help needs neither
Hydra nor torch.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, get_type_hints

from chinchilla import __version__, config
from chinchilla.core.errors import InputError, Refusal, nearest, of_system, one_line

COMMANDS: dict[str, type] = {
    "data": config.DataCommand,
    "plan": config.PlanCommand,
    "sweep": config.SweepCommand,
    "train": config.TrainCommand,
    "status": config.StatusCommand,
    "logs": config.LogsCommand,
    "retry": config.RetryCommand,
    "cancel": config.CancelCommand,
    "sync": config.SyncCommand,
    "fetch": config.FetchCommand,
    "fit": config.FitCommand,
    "diagnose": config.DiagnoseCommand,
    "predict": config.PredictCommand,
    "design": config.DesignCommand,
    "score": config.ScoreCommand,
    "reproduce": config.ReproduceCommand,
    "report": config.ReportCommand,
    "compare": config.CompareCommand,
    "flops": config.FlopsCommand,
}
POSITIONAL = {
    "reproduce": "table",
    "data": "action",
}  # the key that a command's first bare word gives
WIDTHS = ("d_model", "ffw_size", "kv_size", "n_heads", "n_layers")
GROUPS = ("corpus", "model", "recipe", "grid", "cluster", "runtime", "experiment")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; gives the exit code and never a traceback for people's mistakes."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if not args or args[0] in ("-h", "--help", "help"):
            print(usage())
            return 0
        if args[0] in ("-V", "--version"):
            print(f"chinchilla {__version__}")
            return 0
        command, rest = args[0], args[1:]
        if command not in COMMANDS:
            raise InputError(
                f"there is no command {command!r}.{nearest(command, COMMANDS)} "
                f"Commands: {', '.join(COMMANDS)}."
            )
        if "-h" in rest or "--help" in rest:
            print(command_help(command))
            return 0
        return _run(command, rest)
    except InputError as error:
        print(f"chinchilla: {one_line(error)}", file=sys.stderr)
        return 2
    except Refusal as error:
        print(f"chinchilla: refused: {one_line(error)}", file=sys.stderr)
        return 3
    except BrokenPipeError:  # whoever read along has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (what is left to flush goes there)
        return 0
    except OSError as error:
        print(f"chinchilla: {one_line(of_system(error))}", file=sys.stderr)
        return 2
    except MemoryError as error:
        why = str(error).partition("\n")[0] or "no more to be had"
        print(
            f"chinchilla: out of memory ({why}). Ask for less, or use a larger machine.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("chinchilla: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130


def _run(command: str, rest: list[str]) -> int:
    if "--cfg" in rest:  # as Hydra's own --cfg: print what the command would be told, and stop
        rest = [word for word in rest if word not in ("--cfg", "job")]
        print(compose(command, rest, as_yaml=True), end="")
        return 0
    from chinchilla import commands

    return commands.function(command)(compose(command, rest))


def config_dir() -> Path:
    """The folder of YAML files: beside the package in a checkout, inside it in a wheel."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def compose(command: str, overrides: Sequence[str], as_yaml: bool = False) -> Any:
    """What `command` is told.

    Args:
        command: a key of COMMANDS.
        overrides: key=value words, and optionally --config-dir FOLDER with more named choices.
        as_yaml: give the text that Hydra composed, in which values may be wrong or missing.

    Returns:
        The command's dataclass, which has checked every value; with `as_yaml` a text.

    Raises:
        InputError: unknown key or choice (with the nearest that exists), wrong type, missing value.
    """
    if overrides and command in POSITIONAL and re.fullmatch(r"\w+", overrides[0]):
        overrides = [f"{POSITIONAL[command]}={overrides[0]}", *overrides[1:]]
    words, extra = _split_config_dir(overrides)
    words = [_checked_word(command, word, extra) for word in words]
    keys = [word.partition("=")[0] for word in words]
    if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise InputError(f"{twice[0]} is given {keys.count(twice[0])} times. Give it once.")

    import yaml
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if extra:
        words.append(f"hydra.searchpath=[{_quoted(f'file://{extra}')}]")
    told: Any
    try:
        with _hydra(command):
            composed = hydra_compose(command, overrides=words)
        told = OmegaConf.to_yaml(composed) if as_yaml else OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_one_line(error, command)) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"a named choice is not YAML: {' '.join(str(error).split())}.") from None
    if not as_yaml:
        _check_finite(dataclasses.asdict(told))
    return told


def _check_finite(value: Any, key: str = "") -> None:
    """Refuse infinity and NaN wherever they stand: no knob means anything there."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_finite(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            _check_finite(inner, key)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key}={value} is not a finite number.")


@functools.cache
def _schemas(command: str) -> dict[str, Any]:
    """Hydra's store for one command: small, for Hydra copies the whole of it in each composition.

    Hydra's own part comes without its defaults: logging, launchers and help pages that nothing here
    uses, in six YAML files that take as long to read as ours.
    """
    from hydra.conf import HydraConf
    from hydra.core.config_store import ConfigStore

    from chinchilla.core.shapes import named_shapes

    store = ConfigStore.instance()
    store.repo = {}
    store.store(group="hydra", name="config", node=HydraConf(defaults=[]), provider="hydra")
    store.store(name=f"{command}_schema", node=COMMANDS[command])
    if "model" in get_type_hints(COMMANDS[command]):
        for name, shape in named_shapes().items():
            widths = {key: getattr(shape, key) for key in WIDTHS}  # vocabulary: the tokenizer's
            # Left open where the width says it, so that it also does for another model.d_model.
            if shape.ffw_size == 4 * shape.d_model:
                widths["ffw_size"] = 0
            if shape.inner == shape.d_model:
                widths["n_heads"] = 0
            store.store(group="model", name=name, node=widths)
    return store.repo


@contextlib.contextmanager
def _hydra(command: str) -> Iterator[None]:
    """Hydra as `command` needs it; the store is put back for who else uses Hydra in this process."""
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        store = ConfigStore.instance()
        others = store.repo
        try:
            store.repo = _schemas(command)
            yield
        finally:
            store.repo = others


def choices(group: str, extra: Path | None = None) -> list[str]:
    """Names that `group=NAME` accepts."""
    from chinchilla.core.shapes import named_shapes

    folders = [config_dir() / group, *([extra / group] if extra else [])]
    found = [path.stem for folder in folders for path in sorted(folder.glob("*.yaml"))]
    return found + (list(named_shapes()) if group == "model" else [])


def _flag_and_value(word: str) -> list[str]:
    """--config-dir=FOLDER as two words."""
    return word.split("=", 1) if word.startswith("--config-dir=") else [word]


def _split_config_dir(words: Sequence[str]) -> tuple[list[str], Path | None]:
    words = [part for word in words for part in _flag_and_value(word)]
    if "--config-dir" not in words:
        return words, None
    i = words.index("--config-dir")
    folder = Path(words[i + 1]).resolve() if i + 1 < len(words) else None
    if folder is None or not folder.is_dir():
        raise InputError("--config-dir needs a folder that exists, with one sub-folder per group.")
    return words[:i] + words[i + 2 :], folder


def _checked_word(command: str, word: str, extra: Path | None) -> str:
    """The override as Hydra takes it, once its key is known to exist."""
    key, equals, value = word.partition("=")
    key = key.lstrip("+~")
    known = {field.key: field for field in _fields(COMMANDS[command])}
    groups = [g for g in GROUPS if g in get_type_hints(COMMANDS[command])] + ["experiment"]
    if not equals:
        hint = f" Write {word}=VALUE." if word in (*known, *groups) else ""
        raise InputError(f"{word!r} is not key=value.{hint or nearest(word, [*known, *groups])}")
    if key in groups:
        if value not in choices(key, extra):
            available = choices(key, extra)
            short = available if len(available) < 12 else [*available[:5], "...", *available[-3:]]
            raise InputError(
                f"{key}={value}: there is no such {key}.{nearest(value, available)} "
                f"Choices: {', '.join(short) or 'none'}."
            )
        # In quotes: a file may be called nan or 7, which Hydra would read as a number.
        return f"{'+' if key == 'experiment' else ''}{key}={_quoted(value)}"
    inside = known.get(key.partition(".")[0])
    if inside and inside.type.startswith("dict"):  # its own keys are new to Hydra, hence the +
        as_is = key == inside.key or value[:1] in ("'", '"')
        return f"+{key}={value if as_is else _quoted(value)}"
    if key not in known:
        raise InputError(
            f"{command} has no key {key!r}.{nearest(key, [*known, *groups])} "
            f"`chinchilla {command} --help` lists them."
        )
    if known[key].type in ("str", "list[str]"):  # no shell replaces a ~ that stands after =
        begins = r"(^)~(?=/)" if known[key].type == "str" else r"(^|[\[,]\s*)~(?=/)"
        at_home = re.sub(begins, lambda found: f"{found[1]}{Path.home()}", value)
        word, value = word.removesuffix(value) + at_home, at_home
    if known[key].type == "int" and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d{1,2}", value):
        whole = Decimal(value)  # 1e6, as tokens may be written
        word = f"{key}={int(whole)}" if whole == int(whole) else word
    if known[key].type.startswith("list") and value and not value.startswith("["):
        return f"{key}=[{value}]"
    if (
        known[key].type == "str"
        and re.search(r"[^\w./:@%+ -]", value, re.ASCII)
        and value[0] not in "'\"$"
    ):
        return f"{key}={_quoted(value)}"  # so that a path may hold = or brackets
    return word


def _quoted(value: str) -> str:
    """Between quotes as Hydra reads them: it takes backslashes as they are, but before a quote."""
    doubled = re.sub(r"(\\+)(?='|\Z)", r"\1\1", value)
    return "'" + doubled.replace("'", r"\'") + "'"


def _one_line(error: Exception, command: str) -> str:
    """Hydra's and OmegaConf's messages as one line in our words."""
    from omegaconf.errors import MissingMandatoryValue

    message = str(error)
    if "raised while composing config" in message:
        return f"{_where(message)}: {_innermost(error)}."
    if told := re.match(r"Error merging override (.*)", message.partition("\n")[0]):
        why = str(error.__cause__ or "").partition("\n")[0].rstrip(".")
        return f"{told.group(1).rstrip('.')}: {why or 'cannot be used'}."
    if override := getattr(error, "override", None):
        why = message.partition("\n")[0].rstrip(".")
        return f"{override} cannot be read as key=value ({why}). Put the value in quotes."
    full_key = re.search(r"full_key: (\S+)", message)
    first = message.strip().splitlines()[0].rstrip(".")
    if isinstance(error, MissingMandatoryValue) or "Missing mandatory value" in message:
        key = full_key.group(1) if full_key else first.rpartition(": ")[2]
        return f"{key} is missing: give {key}=VALUE. `chinchilla {command} --help` lists the keys."
    if full_key:
        return f"{full_key.group(1)}: {first}."
    if first.startswith("Could not override") and error.__cause__:  # inside a list
        return f"{first}: {str(error.__cause__).partition(chr(10))[0].rstrip('.')}."
    return f"{first}."


def _where(message: str) -> str:
    """What could not be composed, as group=choice."""
    found = re.search(r"In '([^'/]+)/([^']+)'", message)
    return f"{found[1]}={found[2]}" if found else "a named choice"


def _innermost(error: BaseException) -> str:
    """The first line of the error that all others come from, with the key it is about.

    One without words, or with OmegaConf's placeholders unfilled, leaves the word to the one it caused.
    """
    found, key = type(error).__name__, None
    cause: BaseException | None = error
    while cause:
        first = str(cause).partition("\n")[0].rstrip(".")
        found = first if first and "$VALUE" not in first else found
        key = re.search(r"full_key: (\S+)", str(cause)) or key
        cause = cause.__cause__ or cause.__context__
    return f"{key[1]}: {found}" if key else found


def usage() -> str:
    """The text of `chinchilla --help`."""
    lines = ["usage: chinchilla COMMAND [key=value ...]", ""]
    for name, schema in COMMANDS.items():
        does = (inspect.getdoc(schema) or "").partition(": ")[2].splitlines()[0]
        lines.append(f"  {name:<9} {does[0].upper()}{does[1:]}")
    lines += [
        "",
        "chinchilla COMMAND --help lists what a command can be told; --cfg prints what it was told.",
        "Exit codes: 0 ok, 1 a run failed, 2 bad input, 3 refused, 75 requeue.",
    ]
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Field:
    key: str
    type: str
    default: str
    help: str


@functools.cache
def _fields(schema: type, prefix: str = "") -> tuple[_Field, ...]:
    """Every key of a command with type, default and the comment that stands behind it."""
    knob = (
        r"^    (\w+): (?:[^#\n]*\($\n)?.*?  # (.*)$"  # a long comment wraps the value in brackets
    )
    written = [inspect.getsource(c) for c in schema.__mro__ if dataclasses.is_dataclass(c)]
    comments = dict(re.findall(knob, "".join(written[::-1]), re.MULTILINE))
    hints = get_type_hints(schema)
    found: list[_Field] = []
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found += _fields(hint, f"{prefix}{field.name}.")
            continue
        if field.default is not dataclasses.MISSING:
            default = (
                f"{field.default:_}"
                if isinstance(field.default, int) and field.default > 9999
                else str(field.default)
            )
        elif field.default_factory is not dataclasses.MISSING:
            default = f"[{','.join(map(str, field.default_factory()))}]"
        else:
            default = "REQUIRED"
        type_name = hint.__name__ if not hasattr(hint, "__args__") else str(hint)
        found.append(_Field(prefix + field.name, type_name, default, comments.get(field.name, "")))
    return tuple(found)


def command_help(command: str) -> str:
    """The text of `chinchilla COMMAND --help`."""
    schema = COMMANDS[command]
    fields = _fields(schema)
    groups = [g for g in GROUPS if g in get_type_hints(schema) and choices(g)]
    lines = [f"usage: chinchilla {command} [key=value ...]", "", inspect.getdoc(schema) or "", ""]
    width = max(len(f.key) for f in fields)
    lines += [f"  {f.key:<{width}}  {f.help} [{f.default or chr(39) * 2}]" for f in fields]
    if groups:
        lines += ["", "Named choices (YAML files in configs/, or --config-dir FOLDER of your own):"]
        lines += [f"  {g}=  {' '.join(choices(g))}" for g in groups]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

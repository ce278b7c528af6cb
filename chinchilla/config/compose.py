"""key=value words -> Hydra -> the dataclass of a command.

Hydra composes configs/<command>.yaml (of a command with groups), the named options of the groups and
the words; OmegaConf turns the result into the dataclass, which checks every value. Named options hold
only what differs from the defaults of the dataclasses. Hydra is imported only when something is
composed.
"""

import functools
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, get_type_hints

from chinchilla.config import COMMANDS
from chinchilla.config.setting import Setting, settings_of
from chinchilla.core.errors import InputError, nearest

POSITIONAL = {
    "reproduce": "table",
    "data": "action",
    "worker": "sweep_dir",
}  # key of a bare first word
GROUPS = ("corpus", "model", "recipe", "grid", "cluster", "runtime")


def compose(command: str, words: Sequence[str]) -> Any:
    """The settings of a command.

    Args:
        command: a key of COMMANDS.
        words: key=value words, and optionally --config-dir FOLDER with more named options.

    Returns:
        The dataclass of the command, which has checked every value.

    Raises:
        InputError: unknown key or option (with the nearest one), wrong type, missing value.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_object(composed(command, words)[0])
    except OmegaConfBaseException as error:
        raise InputError(_message(error, command)) from None


def composed(command: str, words: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """What Hydra composes for a command, as a DictConfig, and the named option of each group."""
    words = list(words)
    if words and command in POSITIONAL and re.fullmatch(r"[^-=][^=]*", words[0]):
        words[0] = f"{POSITIONAL[command]}={words[0]}"
    words, folder = _split_config_dir(words)
    overrides = [_override(command, word, folder) for word in words]
    keys = [word.partition("=")[0] for word in overrides]
    if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise InputError(f"{twice[0]} is given {keys.count(twice[0])} times. Give it once.")

    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if folder:
        overrides.append(f"hydra.searchpath=[{_quoted(f'file://{folder}')}]")
    name = command if (config_dir() / f"{command}.yaml").exists() else f"{command}_schema"
    store = ConfigStore.instance()
    others = store.repo  # of other users of Hydra in this process
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
            store.repo = _schemas(command)
            result = hydra_compose(name, overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_message(error, command)) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"a named option is not YAML: {' '.join(str(error).split())}. Correct it."
        ) from None
    finally:
        store.repo = others
    chosen = {group: str(name) for group, name in result.hydra.runtime.choices.items()}
    OmegaConf.set_readonly(result, False)
    OmegaConf.set_struct(result, False)
    del result["hydra"]
    return result, chosen


@functools.cache
def _schemas(command: str) -> dict[str, Any]:
    """Contents of Hydra's store for one command; few, as Hydra copies the store for each composition.

    Hydra's own config has no defaults here: reading its YAML files for logging and launchers, which
    are not used, would double the time.
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
            # 0 where the value follows from d_model, so that model.d_model=... changes it too.
            node = {
                "d_model": shape.d_model,
                "ffw_size": 0 if shape.ffw_size == 4 * shape.d_model else shape.ffw_size,
                "kv_size": shape.kv_size,
                "n_heads": 0 if shape.inner == shape.d_model else shape.n_heads,
                "n_layers": shape.n_layers,
            }
            store.store(group="model", name=name, node=node)
    return store.repo


def config_dir() -> Path:
    """The folder of YAML files: beside the package in a checkout, inside it in a wheel."""
    inside = Path(__file__).parent.parent / "configs"
    return inside if inside.is_dir() else inside.parent.parent / "configs"


def groups_of(command: str) -> list[str]:
    """The groups of settings that have named options for a command."""
    return [g for g in GROUPS if g in get_type_hints(COMMANDS[command])]


def choices(group: str, folder: Path | None = None) -> list[str]:
    """Names that `group=NAME` accepts; those of `folder` (of --config-dir) too."""
    from chinchilla.core.shapes import named_shapes

    folders = [config_dir() / group, *([folder / group] if folder else [])]
    names = [path.stem for each in folders for path in sorted(each.glob("*.yaml"))]
    return names + (list(named_shapes()) if group == "model" else [])


# ------------------------------------------------------------------ the words of the command line


def _split_config_dir(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """The words without --config-dir FOLDER (or --config-dir=FOLDER), and the folder."""
    rest, folder, remaining = [], None, iter(words)
    for word in remaining:
        flag, equals, name = word.partition("=")
        if flag != "--config-dir":
            rest.append(word)
            continue
        name = name if equals else next(remaining, "")
        folder = Path(name).resolve()
        if not name or not folder.is_dir():
            raise InputError(
                f"--config-dir={name} is not a folder. Give a folder with sub-folders such as grid and recipe."
            )
    return rest, folder


def _override(command: str, word: str, folder: Path | None) -> str:
    """A key=value word in Hydra's grammar, after checking that the key exists."""
    key, equals, value = word.partition("=")
    settings = {s.key: s for s in settings_of(COMMANDS[command])}
    groups = groups_of(command)
    if not equals:
        hint = f" Write {word}=VALUE." if word in (*settings, *groups) else ""
        hint = hint or nearest(word, [*settings, *groups])
        raise InputError(f"{word!r} is not key=value.{hint}")
    if key in groups:
        if value not in (names := choices(key, folder)):
            short = names if len(names) < 12 else [*names[:5], "...", *names[-3:]]
            raise InputError(
                f"{key}={value}: there is no such {key}.{nearest(value, names)} "
                f"Choices: {', '.join(short)}."
            )
        # Quoted, as Hydra would read a file called nan or 7 as a number.
        return f"{key}={_quoted(value)}"
    of_pairs = (s for s in settings.values() if s.type is dict)
    if pairs := next((s for s in of_pairs if f"{key}.".startswith(f"{s.key}.")), None):
        if key == pairs.key and not value.startswith("{"):
            raise InputError(f"{word} must be pairs, such as {key}={{A: B}} or {key}.A=B.")
        as_is = key == pairs.key or value[:1] in ("'", '"')
        return f"+{key}={value if as_is else _quoted(value)}"  # its keys are not in the schema
    if key not in settings:
        raise InputError(
            f"{command} has no key {key!r}.{nearest(key, [*settings, *groups])} "
            f"`chinchilla {command} --help` lists them."
        )
    return f"{key}={_hydra_value(settings[key], value)}"


def _hydra_value(setting: Setting, value: str) -> str:
    """The value of a setting in Hydra's grammar: 1e6 for ints, lists without brackets, any path."""
    if setting.element is str:  # the shell does not expand a ~ behind =
        value = re.sub(r"(^|[\[,]\s*)~(?=/)", lambda found: f"{found[1]}{Path.home()}", value)
    if setting.type is int and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d{1,2}", value):
        number = Decimal(value)
        return str(int(number)) if number == int(number) else value
    if setting.type is list and value:
        value = value if value.startswith("[") else f"[{value}]"
        if setting.element is str and not re.search(r"['\"\\{}]", value) and value.endswith("]"):
            words = (word.strip() for word in value[1:-1].split(",")) if value != "[]" else ()
            plain = re.compile(r"[\w./:@%+ -]*", re.ASCII)
            value = f"[{','.join(w if plain.fullmatch(w) else _quoted(w) for w in words)}]"
        return value
    if setting.type is str and re.search(r"[^\w./:@%+ -]", value, re.ASCII):
        return value if value[0] in "'\"$" else _quoted(value)
    return value


def _quoted(value: str) -> str:
    """A text in quotes; Hydra takes backslashes literally except before a quote."""
    doubled = re.sub(r"(\\+)(?='|\Z)", r"\1\1", value)
    return "'" + doubled.replace("'", r"\'") + "'"


_EXPECTED = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_EXAMPLES = {str: "[a,b]", int: "[1,2]", float: "[1.5,2]"}  # of lists


def _message(error: Exception, command: str) -> str:
    """An error of Hydra or OmegaConf as one line that names the key."""
    from omegaconf.errors import OmegaConfBaseException, ValidationError

    if override := getattr(error, "override", None):
        return f"{override} cannot be read as key=value. Check its brackets, or quote the value."
    chain: list[BaseException] = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    text = "\n".join(str(each) for each in chain)
    option = re.match(r"In '([^'/]+)/([^']+)'", text)
    where = f"{option[1]}={option[2]}: " if option else ""
    merged = re.match(r"Error merging override \+?(.*)", text)
    given = merged[1].rstrip(".") if merged else ""
    named = re.match(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    key = given.partition("=")[0] or (named[1] if named else "")
    if "mandatory value" in text:
        key = key or text.partition("\n")[0].rpartition(": ")[2]
        return f"{where}{key} is missing: give {key}=VALUE. `chinchilla {command} --help` lists the keys."
    settings = {s.key: s for s in settings_of(COMMANDS[command])}
    setting = settings.get(key.partition("[")[0])
    reasons = [str(e).partition("\n")[0] for e in chain if isinstance(e, OmegaConfBaseException)]
    reason = next((r for r in reversed(reasons) if r and "$VALUE" not in r), type(error).__name__)
    if not setting or not any(isinstance(each, ValidationError) for each in chain):
        if option and named and not setting:
            return f"{where}there is no setting {key}.{nearest(key, settings)}"
        return f"{where}{given or key or 'the settings'}: {reason.rstrip('.')}."
    example = _EXAMPLES.get(setting.element, "[{name: a}, {name: b}]")
    expected = f"a list such as {example}" if setting.type is list else _EXPECTED[setting.type]
    detail = "" if given and setting.element in _EXPECTED else f" ({reason.rstrip('.')})"
    return f"{where}{given or key} must be {expected}{detail}."

"""Words of the command line -> Hydra -> the dataclass of a command.

`config/command_line/words.py` turns the words into overrides. Hydra composes configs/<command>.yaml (of a command with
groups), the named options of the groups and the overrides; OmegaConf turns the result into the dataclass,
which checks every value. Named options hold only what differs from the defaults of the dataclasses. Hydra is
imported only when something is composed.
"""

import functools
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from chinchilla.config import COMMANDS
from chinchilla.config.checks import MAX_NAME
from chinchilla.config.command_line.effects import check_effects
from chinchilla.config.command_line.words import config_dir, overrides_of, quoted
from chinchilla.config.setting import Config, check_values, settings_of
from chinchilla.core.errors import InputError, Problems, UserError, clean, nearest, shortened


def compose(command: str, words: Sequence[str]) -> Any:
    """The settings of a command.

    Args:
        command: a key of COMMANDS.
        words: positional and key=value words, and optionally --config-dir FOLDER with more named options.

    Returns:
        The dataclass of the command, which has checked every value.

    Raises:
        InputError: unknown keys or options (with the nearest ones), wrong types, missing values, and
            words without effect (`effects`); a message for each.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config, _, given = _composed(command, words)
    try:
        settings: Any = OmegaConf.to_object(config)
    except (InputError, OmegaConfBaseException):
        raise _all_problems(command, config, Problems()) from None
    check_effects(command, given, settings)
    return settings


def composed(command: str, words: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """What Hydra composes for a command, as a DictConfig, and the named option of each group."""
    return _composed(command, words)[:2]


def _composed(command: str, words: Sequence[str]) -> tuple[Any, dict[str, str], list[str]]:
    """As `composed`, and the keys that the words give."""
    problems = Problems()
    overrides, folders, dropped = overrides_of(command, words, problems)
    if not problems.errors:
        try:
            return *_hydra(command, [*overrides.values()], folders), [*overrides]
        except InputError as error:
            whole = error
    # Hydra reports only the first problem, so each word is composed alone.
    for key, override in list(overrides.items()):
        with problems.collected():
            _hydra(command, [override], folders)
            continue
        dropped.add(key)
        del overrides[key]
    if not problems.errors:
        raise whole
    try:
        config, _ = _hydra(command, [*overrides.values()], folders)
    except InputError as error:
        problems.errors.append(error)
        raise problems.error() or error from None
    raise _all_problems(command, config, problems, dropped)


def _all_problems(
    command: str, config: Any, problems: Problems, dropped: Collection[str] = ()
) -> UserError:
    """The given problems and all those of the values, as one error.

    Args:
        command: a key of COMMANDS.
        config: what is composed of the words that can be used.
        problems: those of the other words.
        dropped: keys of the other words. Checks of several values together are left out where one of them
            is missing for this reason.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def check_whole(node: Any) -> None:
        try:
            OmegaConf.to_object(node)
        except OmegaConfBaseException as error:
            raise InputError(_message(error, command)) from None

    schema = COMMANDS[command]
    for name, hint in get_type_hints(schema).items():
        is_group = isinstance(hint, type) and issubclass(hint, Config)
        if not is_group or OmegaConf.is_missing(config, name):
            continue
        with problems.collected():
            if any(key.partition(".")[0] == name for key in dropped):
                check_values(hint, _values(config[name]), hint.prefix)
            else:
                check_whole(config[name])
    missing = [s.key for s in settings_of(schema) if OmegaConf.is_missing(config, s.key)]
    with problems.collected():
        if dropped or missing or problems.errors:
            check_values(schema, _values(config), schema.prefix)
        else:
            check_whole(config)
    if not dropped:
        for key in missing:
            problems.errors.append(InputError(_missing(command, key)))
    error = problems.error()
    assert error is not None
    return error


def _values(config: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(config)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}


def _hydra(
    command: str, overrides: Sequence[str], folders: Sequence[Path]
) -> tuple[Any, dict[str, str]]:
    """Compose overrides in Hydra's grammar.

    Raises:
        InputError: the first problem that Hydra finds.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from chinchilla.config.command_line.yaml_files import SCHEME, register

    register()
    search = ",".join(quoted(f"{SCHEME}://{folder}") for folder in dict.fromkeys(folders))
    name = command if (config_dir() / f"{command}.yaml").exists() else f"{command}_schema"
    store = ConfigStore.instance()
    others = store.repo  # of other users of Hydra in this process
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
            store.repo = _schemas(command)
            result = hydra_compose(
                name,
                overrides=[*overrides, *([f"hydra.searchpath=[{search}]"] if folders else [])],
                return_hydra_config=True,
            )
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_message(error, command)) from None
    except UserError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:  # of a number, or of brackets
        deep = isinstance(error, RecursionError)
        problem = "nested too deeply" if deep else f"a number that cannot be used ({error})"
        shown = shortened(overrides[0].lstrip("+")) if len(overrides) == 1 else "the settings"
        raise InputError(f"{shown}: {problem}. Correct it.") from None
    finally:
        store.repo = others
    chosen = {group: str(name) for group, name in result.hydra.runtime.choices.items()}
    OmegaConf.set_readonly(result, False)
    OmegaConf.set_struct(result, False)
    del result["hydra"]
    if "recipe" in chosen and not result.recipe.name:
        result.recipe.name = _recipe_name(chosen["recipe"], overrides)
    return result, chosen


def _recipe_name(option: str, overrides: Sequence[str]) -> str:
    """The option and what was given beside it, as `require_name` accepts it: `paper, batch_tokens=65536`."""
    given = [word.removeprefix("recipe.") for word in overrides if word.startswith("recipe.")]
    name = re.sub(r"[/\\]", "_", clean(", ".join([option, *given]))).lstrip(" .-")
    return name.encode()[:MAX_NAME].decode(errors="ignore").rstrip()


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


_EXPECTED = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_EXAMPLES = {str: "a,b", int: "1,2", float: "1.5,2"}  # of lists


def _missing(command: str, key: str) -> str:
    return f"{key} is missing: give {key}=VALUE. `chinchilla {command} --help` lists the keys."


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
    given = shortened(merged[1].rstrip(".")) if merged else ""
    named = re.match(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    key = given.partition("=")[0] or (named[1] if named else "")
    if "mandatory value" in text:
        key = key or text.partition("\n")[0].rpartition(": ")[2]
        return where + _missing(command, key)
    settings = {s.key: s for s in settings_of(COMMANDS[command])}
    setting = settings.get(key.partition("[")[0])
    reasons = [str(e).partition("\n")[0] for e in chain if isinstance(e, OmegaConfBaseException)]
    reason = next((r for r in reversed(reasons) if r and "$VALUE" not in r), type(error).__name__)
    if not setting or not any(isinstance(each, ValidationError) for each in chain):
        if option and named and not setting:
            return f"{where}there is no setting {key}.{nearest(key, settings)}"
        return f"{where}{given or key or 'the settings'}: {reason.rstrip('.')}."
    example = _EXAMPLES.get(setting.element, f"'{setting.key}=[{{name: a}}, {{name: b}}]'")
    expected = f"a list such as {example}" if setting.type is list else _EXPECTED[setting.type]
    detail = "" if given and setting.element in _EXPECTED else f" ({reason.rstrip('.')})"
    return f"{where}{given or key} must be {expected}{detail}."

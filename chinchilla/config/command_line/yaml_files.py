"""The YAML files of users as a source of named options for Hydra: regular files of bounded size.

Hydra would wait for a FIFO, and aliases let a file of some hundred bytes expand to gigabytes.
"""

import io
import os
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from chinchilla.config.checks import MAX_DIGITS
from chinchilla.core.errors import InputError, shortened
from chinchilla.core.files.reading import MB, read_text

SCHEME = "user"  # of the search path: user:///home/me/options
YAML_BYTES = MB // 10
MAX_VALUES = 10_000  # keys and values of a file, aliases expanded


class UserFiles(FileConfigSource):
    """A folder of named options that a user has written."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def is_config(self, config_path: str) -> bool:
        """Also true of what is not a regular file, so that `load_config` names it."""
        return os.path.lexists(self._file(config_path))

    def load_config(self, config_path: str) -> ConfigResult:
        path = self._file(config_path)
        try:
            text = read_text(path, YAML_BYTES)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{path} cannot be read ({reason}). Give a text file in YAML."
            ) from None
        try:
            if _n_values(yaml.compose(text, yaml.SafeLoader), {}) > MAX_VALUES:
                raise InputError(
                    f"{path} has over {MAX_VALUES:,} values with its aliases expanded. Shorten it."
                )
            config = OmegaConf.load(io.StringIO(text))
        except RecursionError:
            raise InputError(f"{path}: its values are nested too deeply. Correct it.") from None
        except yaml.YAMLError as error:
            raise InputError(
                f"{path} is not YAML: {' '.join(str(error).split())}. Correct it."
            ) from None
        except _LongNumber as error:
            raise InputError(f"{path}: {error}") from None
        return ConfigResult(
            config=config,
            path=f"{SCHEME}://{self.path}",
            provider=self.provider,
            header=ConfigSource._get_header_dict(text[:512]),
        )

    def _file(self, config_path: str) -> str:
        return os.path.join(self.path, self._normalize_file_name(config_path))


class _LongNumber(Exception):
    """A whole number of more than MAX_DIGITS characters."""


def _n_values(node: Any, known: dict[int, int]) -> int:
    """Number of keys and values below a node; more than MAX_VALUES if it contains itself.

    Raises:
        _LongNumber: a number that Python may not convert; in any notation, shorter ones are floats too.
    """
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # while its parts are counted
        parts = getattr(node, "value", "")
        if isinstance(parts, str):
            if getattr(node, "tag", "").endswith(":int") and len(parts) > MAX_DIGITS:
                raise _LongNumber(
                    f"{shortened(parts)} is a whole number of {len(parts):,} characters; at most {MAX_DIGITS} "
                    "are read. Correct it."
                )
            parts = []
        flat = [x for part in parts for x in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_n_values(x, known) for x in flat)
    return known[id(node)]


def register() -> None:
    """Make Hydra know the scheme; a second call has no effect."""
    if UserFiles not in Plugins.instance().discover(ConfigSource):
        Plugins.instance().register(UserFiles)

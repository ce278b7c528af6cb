"""Packages that can be called: `chinchilla.fit(obs)` although `chinchilla.fit` is a subpackage.

Python sets the attribute `fit` of `chinchilla` to the subpackage whenever anything below it is first
imported, so a function of that name would be replaced by whichever import comes later. A module of a
class with `__call__` is both, in any order of imports. Floor 0: the standard library only.
"""

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A package that stands for a function of its name in `chinchilla.api`, loaded when first called."""

    @property
    def _function(self) -> Any:
        api = importlib.import_module("chinchilla.api")
        return getattr(api, self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function of `chinchilla.api`; its signature and documentation are there."""
        return self._function(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """What `help` and notebooks show."""
        return inspect.signature(self._function)


def make_callable(name: str) -> None:
    """Make the imported package `name` callable."""
    sys.modules[name].__class__ = CallableModule

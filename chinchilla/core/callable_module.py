"""Callable packages: `chinchilla.fit(obs)`, although `chinchilla.fit` is also a subpackage.

Python sets the attribute `fit` of `chinchilla` to the subpackage when anything below it is first imported,
which would replace a function of that name. A module whose class has `__call__` works as both, in any
order of imports. Standard library only.
"""

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A package that calls the function of its name in `chinchilla.api`."""

    @property
    def _function(self) -> Any:
        api = importlib.import_module("chinchilla.api")
        return getattr(api, self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function of `chinchilla.api`, which has the signature and the documentation."""
        return self._function(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature shown by `help` and notebooks."""
        return inspect.signature(self._function)


def make_callable(name: str) -> None:
    """Make the imported package `name` callable."""
    sys.modules[name].__class__ = CallableModule

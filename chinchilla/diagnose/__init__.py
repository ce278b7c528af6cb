"""Diagnostics of fits: verdicts with a message, an effect and advice."""

from chinchilla.core.callable_module import make_callable

make_callable(__name__)  # chinchilla.diagnose(fits), see chinchilla.api.diagnose

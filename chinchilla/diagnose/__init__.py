"""Diagnostics of fits: fits in, verdicts with a message, an advice and an effect out. NumPy only."""

from chinchilla.core.callable_module import make_callable

make_callable(__name__)  # chinchilla.diagnose(fits), see chinchilla.api.diagnose

"""Diagnostics of fits: fits in, verdicts with a message, an advice and an effect out. NumPy only."""

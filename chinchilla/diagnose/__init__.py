"""What the exponents stand on: fits in, verdicts out. NumPy only, no torch."""

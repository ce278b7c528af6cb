"""Figures of fits, drawn on a given axis; the report and the notebook API share them.

matplotlib, NumPy and SciPy only: these modules must import without torch.
"""

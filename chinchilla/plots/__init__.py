"""Figures of fits, drawn on a given axis; the report and the notebook API share them.

These modules must import without torch.
"""

"""Observations: the table of losses that every fit reads, from finished runs, CSV files and frames.

read_table -> columns, numbers -> runs (rows, units) -> Observations
"""

from chinchilla.observations.table import Observations, observations_of

__all__ = ["Observations", "observations_of"]

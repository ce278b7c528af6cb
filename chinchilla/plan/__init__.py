"""Planning: run records, grids of runs, learning-rate rules, memory and cost estimates."""

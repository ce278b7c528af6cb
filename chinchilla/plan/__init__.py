"""What a run is before it starts: records, grids of runs, learning-rate rules, memory."""

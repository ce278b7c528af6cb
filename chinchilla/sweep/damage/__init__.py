"""Damaged files of runs and of sweeps: say what is wrong, and repair what a launch or a worker can."""

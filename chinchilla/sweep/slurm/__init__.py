"""Sweeps on Slurm: submit and cancel arrays of jobs, the job itself, the queue."""

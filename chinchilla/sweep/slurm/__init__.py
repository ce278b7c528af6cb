"""Sweeps on Slurm: submit arrays of jobs, the job itself, the queue, cancel."""

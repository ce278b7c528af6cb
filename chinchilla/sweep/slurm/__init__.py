"""Sweeps on Slurm, through submitit: submit arrays of jobs, the job itself, the queue, cancel."""

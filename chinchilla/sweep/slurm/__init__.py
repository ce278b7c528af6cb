"""Sweeps on Slurm, through submitit: submit, the job itself, the queue, cancel."""

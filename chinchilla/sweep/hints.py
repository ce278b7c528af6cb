"""Commands that people copy from what a command has said."""

import re
import shlex
from pathlib import Path

from chinchilla.config import ClusterConfig


def given(key: str, value: str | Path) -> str:
    """`key=value` as a shell takes it and as `cli` reads it, whatever a folder is called."""
    text = str(value)
    if text != text.strip() or text[:1] in tuple("'\"$"):
        # cli quotes odd values by itself, but not these; Hydra's quotes keep all that is in them.
        text = "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"
    return shlex.quote(f"{key}={text}") if re.search(r"[^\w./:=@%+,-]", text) else f"{key}={text}"


def torchrun(cluster: ClusterConfig, sweep_dir: Path, data_dir: Path) -> str:
    """The line that starts a worker of many ranks, on each of its nodes, for a prepared sweep.

    FIRST_NODE is left to whoever types it: nobody knows yet where it will be.
    """
    where = "--standalone"
    if cluster.nodes > 1:
        where = f"--nnodes {cluster.nodes} --rdzv-backend c10d --rdzv-endpoint FIRST_NODE:29500"
    threads = f" --threads {cluster.threads_per_worker}" if cluster.threads_per_worker else ""
    return (
        f"torchrun {where} --nproc-per-node {cluster.ranks_per_node} -m chinchilla.sweep.distributed_worker "
        f"{shlex.quote(str(sweep_dir))} {shlex.quote(str(data_dir))}{threads}"
    )

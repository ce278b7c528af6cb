"""Groups of settings for where and how runs are executed: cluster and runtime."""

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

from chinchilla.config.checks import require_name
from chinchilla.config.setting import REQUIRED, Config, setting
from chinchilla.config.slurm_options import check_python, check_sbatch, check_srun
from chinchilla.core.errors import InputError

MFU_HELP = "Expected model FLOPs utilisation, the share of peak_flops that is used."
SHARE: dict[str, Any] = {"above": 0, "at_most": 1, "hint": "Give 0.4 for 40%."}
SLURM_OR_MANUAL = "Slurm and manual:"


@dataclass(kw_only=True)
class ResourceConfig(Config):
    """Slurm jobs for the models of a sweep up to a size; null takes the value of the cluster."""

    name: str = setting(REQUIRED, "Name of these jobs in messages.")
    max_params: float = setting(0.0, "Largest N trained in these jobs; 0 = any.", at_least=0)
    n_workers: int | None = setting(None, "Jobs of this kind.")
    nodes: int | None = setting(None, "Nodes of one job.")
    ranks_per_node: int | None = setting(None, "Ranks of a run on each node.")
    gpus_per_node: int | None = setting(None, "GPUs of one job on each node.")
    cpus_per_task: int | None = setting(None, "Cores of one job, or of one rank.")
    host_memory_gb: int | None = setting(None, "Host memory on each node.", unit="GB")
    timeout_min: int | None = setting(None, "Time limit.", unit="minutes")
    partition: str | None = setting(None, "Slurm partition.")
    account: str | None = setting(None, "Slurm account.")
    qos: str | None = setting(None, "Slurm QOS.")
    constraint: str | None = setting(None, "Node features.")
    sbatch: dict[str, Any] | None = setting(
        None, "More options of sbatch, added to those of the cluster.", check=check_sbatch
    )
    srun: list[str] | None = setting(None, "Arguments of srun.", check=check_srun)
    python: str | None = setting(
        None, "Python interpreter, or a command that starts one.", check=check_python
    )
    peak_flops: float | None = setting(None, "Peak of one device.", unit="FLOP/s")
    mfu: float | None = setting(None, MFU_HELP, **SHARE, optional=True)
    gpu_memory_gb: float | None = setting(
        None, "Memory of one device, 1 GB = 1e9 bytes.", unit="GB"
    )
    price_per_device_hour: float | None = setting(None, "Price in your currency.")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise InputError(
                f"cluster.resources: name={self.name!r} must be one word. Give a name such as small."
            )
        self.check_values(f"cluster.resources, {self.name}: ")


@dataclass(kw_only=True)
class ClusterConfig(Config, prefix="cluster."):
    """Where runs are trained, and the cost of a device."""

    kind: str = setting(
        "local",
        "debug: in this process. local: processes on this machine. manual: prints the worker's command.",
        choices=("debug", "local", "slurm", "manual"),
    )
    n_workers: int = setting(
        0,
        "Processes, 0 = one per GPU or core; on Slurm the jobs of the job array.",
        at_least=0,
    )
    threads_per_worker: int = setting(
        0, "Most CPU threads of one worker; 0 = cores / workers.", at_least=0
    )
    peak_flops: float = setting(
        989e12,
        "Peak of one device in dense bf16 (default: data sheet of the H100 SXM).",
        unit="FLOP/s",
        above=0,
    )
    mfu: float = setting(0.4, f"{MFU_HELP} Only for estimates.", **SHARE)
    gpu_memory_gb: float = setting(
        80.0, "Memory of one device, 1 GB = 1e9 bytes.", unit="GB", above=0
    )
    price_per_device_hour: float = setting(2.5, "Price in your currency.", at_least=0)
    partition: str = setting("", "Slurm: partition; empty = the cluster's default.")
    account: str = setting("", "Slurm: account; empty = your default account.")
    qos: str = setting("", "Slurm: QOS; empty = the default.")
    constraint: str = setting("", "Slurm: node features, such as h100.")
    max_queued_jobs: int = setting(
        0,
        "Slurm: most jobs of yours in the queue, for a site that limits them; 0 = no limit.",
        at_least=0,
    )
    timeout_min: int = setting(240, "Slurm: time limit of one job.", unit="minutes", above=0)
    nodes: int = setting(1, f"{SLURM_OR_MANUAL} nodes of one job.", above=0)
    ranks_per_node: int = setting(
        1,
        f"{SLURM_OR_MANUAL} ranks of a run on each node; 1 on 1 node = one worker per GPU.",
        above=0,
    )
    cpus_per_task: int = setting(8, "Slurm: cores of one job, or of each rank of a job.")
    gpus_per_node: int = setting(
        1, f"{SLURM_OR_MANUAL} GPUs of one job on each node; 0 = CPU only.", at_least=0
    )
    host_memory_gb: int = setting(64, "Slurm: host memory of one job on each node.", unit="GB")
    setup_lines: list[str] = setting([], "Slurm: shell lines to run before Python starts.")
    sbatch: dict[str, Any] = setting(
        {}, "Slurm: more options of sbatch, such as {gres: 'gpu:h100:1'}.", check=check_sbatch
    )
    srun: list[str] = setting(
        [], "Slurm: more arguments of srun, such as --container-image=...", check=check_srun
    )
    python: str = setting(
        "",
        "Slurm: Python interpreter, or a command that starts one; empty = that of this command.",
        check=check_python,
    )
    resources: list[ResourceConfig] = setting(
        [], "Slurm: jobs by model size, see slurm/README.md; empty = one kind for all sizes."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(names := [r.name for r in self.resources]) > len(set(names)):
            raise InputError(
                f"cluster.resources: the names {', '.join(names)} must differ. Rename one of them."
            )
        limits = [r.max_params or math.inf for r in self.resources]
        if any(a >= b for a, b in itertools.pairwise(limits)):
            raise InputError(
                "cluster.resources must be in ascending order of max_params; only the last may be 0 (any "
                "size). Sort them."
            )


@dataclass(kw_only=True)
class RuntimeConfig(Config, prefix="runtime."):
    """How a run is executed. These settings are not part of run_id.

    They change a training loss by rounding at most. validation_tokens selects the tokens of the
    validation loss and is the same for all runs of a sweep (`sweep.launch`).
    """

    device: str = setting("auto", "auto, cpu, cuda, or one GPU such as cuda:1.")
    micro_batch_tokens: int = setting(
        0, "Tokens per forward pass; 0 = the whole batch if it fits.", unit="tokens", at_least=0
    )
    checkpoint_minutes: float = setting(10.0, "Time between checkpoints.", unit="minutes", above=0)
    keep_checkpoints: str = setting(
        "weights",
        "What a finished run keeps. all: every checkpoint. last: the last one, 12 bytes per parameter. "
        "weights: its weights, 4 bytes. none: nothing.",
        choices=("all", "last", "weights", "none"),
    )
    log_every_steps: int = setting(10, "Optimizer steps between lines of metrics.", above=0)
    validation_tokens: int = setting(
        65_536, "Tokens of the validation set used at each evaluation.", unit="tokens", above=0
    )
    validation_evals: int = setting(
        24,
        "Evaluations of a run, evenly spaced in log steps over its last 7/8; from 8 on, only as many as "
        "take a tenth of its FLOPs.",
        above=0,
    )
    wandb: str = setting(
        "disabled",
        "Copy metrics to Weights & Biases.",
        choices=("disabled", "offline", "online"),
    )
    wandb_project: str = setting("chinchilla", "Weights & Biases project.", check=require_name)
    tensorboard: bool = setting(
        False, "Write event files to <run>/tensorboard; needs the package tensorboard."
    )
    activation_checkpointing: bool = setting(
        False, "Recompute blocks in the backward pass to save memory."
    )
    compile_blocks: str = setting(
        "auto",
        "Apply torch.compile to each block, once per width. auto: on a GPU.",
        choices=("auto", "always", "never"),
    )
    cuda_graphs: bool = setting(True, "On a GPU, replay micro-batches and updates as CUDA graphs.")
    shard_ranks: int = setting(
        0, "Ranks that share one copy of the weights (FSDP); 0 = all ranks of a run.", at_least=0
    )

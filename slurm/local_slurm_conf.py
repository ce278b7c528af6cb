"""Configuration of local_slurm.py's daemons: slurm.conf, gres.conf and a key.

Settings move all files into one folder, restrict traffic to loopback, or shorten delays for tests:
jobs are requeued after 5 s and killed 5 s after TERM, and an unresponsive node is down after 15 s.
"""

import getpass
import os
import socket
from pathlib import Path

SLURM_CONF = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
# A requeued job may start again after cred_expire; 5 s is the minimum.
AuthInfo=socket={dir}/run/munge.socket,cred_expire=5
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool/%n
SlurmctldPidFile={dir}/run/slurmctld.service
SlurmdPidFile={dir}/run/slurmd.%n.service
SlurmctldLogFile={dir}/log/slurmctld.log
SlurmdLogFile={dir}/log/slurmd.%n.log
# No cgroups: processes are found through /proc, nothing is pinned or confined.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SwitchType=switch/none
MpiDefault=none
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
MaxArraySize={max_array}
# Job numbers do not repeat, even if the folder is recreated.
FirstJobId={first_job}
JobRequeue=1
KillWait=5
MinJobAge=3600
SlurmdTimeout=15
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=2
PriorityType=priority/basic
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={dir}/log/finished_jobs.txt
"""
PARTITIONS = """\
PartitionName=main Nodes={nodes} Default=YES DefaultTime=10 DefMemPerCPU=100 PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes={nodes} DefaultTime=10 DefMemPerCPU=100 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
"""


def write_files(folder: Path, settings: dict) -> None:
    """Create the cluster's folder with its configuration.

    Args:
        folder: of the cluster.
        settings: cpus, memory_mb and gpus of a node, max_array, first_job, ctld_port, and
            node_names with their node_ports.
    """
    conf = folder / "conf"
    for name in ("", "conf", "run", "log", "state", "spool", "gpu"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        # munged requires that all users can reach its socket; access is protected by the key.
        (folder / name).chmod(0o755)
    key = conf / "munge.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
    host = socket.gethostname().split(".")[0]
    words = {**settings, "dir": folder, "host": host, "user": getpass.getuser()}
    words["nodes"] = ",".join(settings["node_names"])
    gpus = f" Gres=gpu:{settings['gpus']}" if settings["gpus"] else ""
    nodes = "".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={settings['cpus']} RealMemory={settings['memory_mb']}{gpus}\n"
        for name, port in zip(settings["node_names"], settings["node_ports"], strict=True)
    )
    text = SLURM_CONF.format(**words) + nodes + PARTITIONS.format(**words)
    (conf / "slurm.conf").write_text(text)
    lines = ["AutoDetect=off"]
    for i in range(settings["gpus"]):
        device = folder / "gpu" / f"gpu{i}"
        if not device.is_symlink():  # slurmd accepts character devices only
            device.symlink_to("/dev/null")
        lines.append(f"NodeName={words['nodes']} Name=gpu File={device}")
    (conf / "gres.conf").write_text("\n".join(lines) + "\n")
    (conf / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

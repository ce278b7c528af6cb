#!/usr/bin/env bash
# Submit the demo's sweep to the local Slurm, which must be running, and return.
# usage: slurm/demo.sh [SWEEP_DIR]     run again to replace workers that have ended
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:-runs/slurm-demo}
python=$(command -v python3 || command -v python)
[ -e "$dir/data/manifest.json" ] ||
    chinchilla data corpus=sotu tokenizer.vocab_size=512 tokenizer.train_mb=4 data_dir="$dir/data"
"$python" slurm/local_slurm.py run \
    chinchilla sweep demo recipe=demo runtime=demo cluster=slurm_local data_dir="$dir/data" sweep_dir="$dir"
"$python" slurm/local_slurm.py run squeue
echo "To query the queue: $python slurm/local_slurm.py run squeue; to stop Slurm: make slurm-down"

#!/usr/bin/env bash
# All steps on the embedded corpus: data -> plan -> sweep -> fit -> diagnose -> report.
# usage: scripts/reproduce_small.sh [SWEEP_DIR]
# Steps that are complete are skipped.
set -euo pipefail
dir=${1:-runs/demo}

step() { printf '\n==> chinchilla %s\n' "$*"; chinchilla "$@"; }

step data corpus=sotu tokenizer.vocab_size=512 tokenizer.train_mb=4 data_dir="$dir/data"
step sweep demo recipe=demo runtime=demo cluster=demo data_dir="$dir/data" sweep_dir="$dir"
step fit "$dir" loss=validation
step diagnose "$dir"
step report "$dir"

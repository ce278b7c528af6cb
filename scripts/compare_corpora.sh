#!/usr/bin/env bash
# Appendix C in small: the demo's sweep over two corpora, and their IsoFLOP curves side by side.
# usage: scripts/compare_corpora.sh [FOLDER]     run again, it does only what is missing
# The compact corpus is looked for in ./corpora/debian_compact, and made there if it is missing.
set -euo pipefail
dir=${1:-runs/compare}
compact=corpora/debian_compact

step() { printf '\n==> chinchilla %s\n' "$*"; chinchilla "$@"; }

[[ -e $compact/docs.jsonl ]] || python "$(dirname "$0")/corpora/debian_compact.py" $compact
for corpus in sotu debian_compact; do
    here=$dir/$corpus
    step data corpus=$corpus tokenizer.vocab_size=512 tokenizer.train_mb=4 data_dir="$here/data"
    step sweep grid=demo recipe=demo cluster=local runtime=demo data_dir="$here/data" sweep_dir="$here"
    step fit sweep_dir="$here" loss=validation
done
step compare sweep_dirs="[$dir/sotu,$dir/debian_compact]" out_dir="$dir/compare"

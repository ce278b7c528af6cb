#!/usr/bin/env bash
# Resolve the dependencies of pyproject.toml in an empty environment and write constraints.txt.
# usage: [TORCH=VERSION] scripts/lock.sh [PYTHON]
# The version of torch is fixed by TORCH, so that the CPU and CUDA builds share one line.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
torch=${TORCH:-2.13.0}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==$torch" '.[dev]'
{
    echo "# Exact versions of every package, direct and indirect. Written by 'make lock'; do not edit."
    echo "# torch==$torch gives the CUDA build where the default index does, the CPU build where only that is found."
    "$folder/venv/bin/pip" freeze --exclude chinchilla-lab | sed -E 's/\+[a-z0-9.]+$//' | sort -f
} >"$folder/constraints.txt"
if grep -nE '==[0-9.]+(a|b|rc|\.dev)[0-9]+' "$folder/constraints.txt"; then
    echo "lock: the pre-releases above would be installed. Restrict their versions in pyproject.toml." >&2
    exit 1
fi
mv "$folder/constraints.txt" constraints.txt
wc -l constraints.txt

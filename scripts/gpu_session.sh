#!/usr/bin/env bash
# What is measured on a GPU, in pieces: its tests, throughput beside the peers, a worker beside a process per
# run, a sweep of configs/grid/gpu_small.yaml. Each call works for at most MINUTES and goes on where the last
# one stopped; exit code 75 = call again, 0 = all is done, 1 = something failed.
#
#     bash scripts/gpu_session.sh                    the python on PATH has the package
#
#     MINUTES=9            of one call; a test file, or the longest process of throughput, has to fit in
#     STEPS='tests throughput worker sweep'
#     PEERS='--nanogpt DIR --litgpt DIR --torchtitan DIR'
#     PACK=FILE.tar.xz     a token folder to sweep on (tar -C FOLDER -cJf FILE.tar.xz .); none = the speeches
#     DATA=data/gpu        where it is extracted
#     SWEEP_DIR=runs/gpu_small   keep it between calls; SWEEP='key=value ...' changes the sweep, RECIPE its
#                          recipe: another one needs another SWEEP_DIR
#     RESULTS=docs/results receives throughput_steps_cuda.json, throughput_sweep_cuda.json, gpu_tests/
#     DEVICE=cuda          cpu, with ROUNDS, SHAPES, RECIPE and SWEEP made small, tries the script itself
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

end=$(($(date +%s) + MINUTES * 60 - 15)) # what is told to stop has 15 seconds to save
left() { echo $((end - $(date +%s))); }
asked() { [[ " $STEPS " == *" $1 "* ]]; }
again() {
    echo "gpu_session: $1; call again to go on"
    exit 75
}
# A command until the end of the piece; its own exit code, 143 or 75 where it was stopped.
within() {
    [ "$(left)" -gt "$1" ] || again "no time for the next step"
    shift
    timeout --preserve-status --signal=TERM --kill-after=30 "$(left)" "$@"
}
stopped() { [ "$1" -eq 75 ] || [ "$1" -eq 143 ] || [ "$1" -eq 137 ]; }

mkdir -p "$RESULTS/gpu_tests" "$(dirname "$SWEEP_DIR")"
failed=0
for file in $(asked tests && echo $TESTS); do
    log=$RESULTS/gpu_tests/$(basename "$file" .py).txt
    if [ ! -f "$log" ]; then
        within 60 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu "$file" >"$log.new" 2>&1
        code=$?
        if stopped $code && [ "$(left)" -le 5 ]; then again "$file was stopped"; fi
        echo "exit code $code" >>"$log.new"
        mv "$log.new" "$log"
        echo "gpu_session: $file: $(tail -n 2 "$log" | tr '\n' ' ')"
    fi
    # Passed, or no test selected; anything else is a failure that stands in the log. Delete it to try again.
    tail -n 1 "$log" | grep -qE '^exit code (0|5)$' || failed=1
done

measure() { # throughput, or worker with --sweep
    within 30 "$PYTHON" scripts/bench/bench_throughput.py --device "$DEVICE" --rounds "$ROUNDS" \
        --minutes $(($(left) / 60)) --shapes "$SHAPES" "$@"
    code=$?
    stopped $code && again "throughput is not complete"
    [ $code -eq 0 ] || exit 1
}
if asked throughput; then measure $PEERS --out "$RESULTS/throughput_steps_$DEVICE.json"; fi
if asked worker; then measure --sweep --out "$RESULTS/throughput_sweep_$DEVICE.json"; fi
asked sweep || exit $failed

if [ ! -f "$DATA/manifest.json" ]; then
    if [ "$PACK" ]; then
        rm -rf "$DATA.part" && mkdir -p "$DATA.part" && within 60 tar -xJf "$PACK" -C "$DATA.part" &&
            mv -T "$DATA.part" "$DATA" # a folder with a manifest must be complete
    else
        within 60 "$PYTHON" -m chinchilla.cli data corpus=sotu tokenizer.vocab_size=8192 data_dir="$DATA"
    fi
    code=$?
    stopped $code && again "the tokens are not there yet"
    [ $code -eq 0 ] || exit 1
fi
words="$RECIPE $SWEEP"
if [ "$(cat "$SWEEP_DIR.over" 2>/dev/null)" != "$words" ]; then # other words may be more of it
    began=$(date +%s)
    # Small corpora are read many times over: this sweep is timed, its losses are not those of fresh text.
    within 30 "$PYTHON" -m chinchilla.cli sweep grid=gpu_small $RECIPE cluster=debug \
        runtime.device="$DEVICE" data_dir="$DATA" sweep_dir="$SWEEP_DIR" epochs=1000 $SWEEP
    code=$?
    if [ $code -eq 0 ] || stopped $code; then # start-up and stopping included
        echo $(($(date +%s) - began)) >>"$SWEEP_DIR.seconds"
    fi
    stopped $code && again "the sweep is not over"
    [ $code -eq 0 ] || exit 1
    echo "$words" >"$SWEEP_DIR.over"
fi
if asked worker; then
    measure --sweep --finished "$SWEEP_DIR" --out "$RESULTS/throughput_sweep_$DEVICE.json" \
        --worker-seconds "$(awk '{ s += $1 } END { print s }' "$SWEEP_DIR.seconds")"
fi
exit $failed

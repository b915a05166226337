#!/usr/bin/env bash
# Feeds random bytes to what reads bytes from outside: libFuzzer, guided by coverage, on stable Rust.
set -euo pipefail

TARGETS=(gguf_header http_answer inference_request)

usage() {
    cat <<TEXT
usage: scripts/fuzz.sh [SECONDS] [TARGET…]

Feeds random bytes to what reads bytes from outside. Each target of fuzz/ runs for SECONDS (10); an input that breaks
one is kept, and its path is printed. What the fuzzer has learnt lies in the target folder and is gone on with. Ends
with a line 'N passed, N failed'.

TARGET: ${TARGETS[*]}; all of them, if none is named
TEXT
}

# What cargo-fuzz sets for a build without sanitizer: calls into libFuzzer at each edge and comparison.
FLAGS=(
    --cfg fuzzing
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0
    -Cdebug-assertions
    -Coverflow-checks
    -Ccodegen-units=1
)

main() {
    local argument seconds host out target passed=0 failed=0
    for argument in "$@"; do
        [[ $argument != -h && $argument != --help ]] || {
            usage
            return 0
        }
    done
    seconds=${1:-10}
    [[ $seconds =~ ^[1-9][0-9]*$ ]] || refuse "SECONDS is no number: $seconds"
    (($# == 0)) || shift
    for target in "$@"; do
        [[ " ${TARGETS[*]} " == *" $target "* ]] || refuse "unknown target: $target"
    done
    (($# == 0)) || TARGETS=("$@")
    host=$(rustc -vV | sed -n 's/^host: //p')
    out=$(target_dir)/fuzz
    # With a target triple the flags are not for build scripts.
    CARGO_TARGET_DIR=$out RUSTFLAGS="${FLAGS[*]}" \
        cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml --target "$host"
    bin=$out/$host/release
    for target in "${TARGETS[@]}"; do
        if fuzz "$target" "$seconds" "$out"; then ((++passed)); else ((++failed)); fi
    done
    printf '\n%d passed, %d failed\n' "$passed" "$failed"
    ((failed == 0))
}

# refuse WHY: an argument that cannot be meant, before anything is built.
refuse() {
    usage >&2
    stop "$1"
}

# fuzz TARGET SECONDS OUT: a failure is a panic, more than 5 s for one input, or more than 512 MiB.
fuzz() {
    local corpus=$3/corpus/$1 found=$3/found/$1
    mkdir -p "$corpus" "$found"
    # The target for headers writes its own seed: a header is no text.
    if [[ -d fuzz/seeds/$1 ]]; then cp "fuzz/seeds/$1/"* "$corpus/"; fi
    say "Fuzzing $1 for $2 s"
    RBEE_FUZZ_SEED=$corpus/seed "$bin/$1" -max_total_time="$2" -max_len=16384 -timeout=5 \
        -rss_limit_mb=512 -artifact_prefix="$found/" -verbosity=0 -print_final_stats=1 "$corpus" 2>&1 |
        # What it learns is in the corpus; what it misses are sanitizers.
        grep -vE '^("|######|WARNING: Failed to find|[[:space:]]NEW_FUNC)'
}

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=scripts/requirements.sh
source "$root/scripts/requirements.sh"
main "$@"

#!/usr/bin/env bash
# Measures rbee on this machine: ./bench.sh [tokens|prefix|draft|footprint|queen|hive|supervision|download ...] [--rounds N]
# Builds release binaries first; needs the demo model, which it fetches.
set -euo pipefail
cd "$(dirname "$0")"
bin=${CARGO_TARGET_DIR:-$PWD/target}/release
cargo build --release --locked -p rbee-keeper -p rbee-hive -p llm-worker-rbee
cargo build --release --locked -p queen-rbee
mkdir -p "$bin"/plain
cp -f "$bin"/queen-rbee "$bin"/plain/queen-rbee
cargo build --release --locked -p queen-rbee --features queen-rbee/local-hive
scripts/fetch-demo-model.sh >/dev/null
export RBEE_BIN_DIR=$bin
exec cargo run --release --locked --quiet -p rbee-bench -- "$@"

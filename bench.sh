#!/usr/bin/env bash
# Measures rbee on this machine.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: ./bench.sh [WHAT…] [--rounds N]

Measures rbee on this machine; everything, if no WHAT is named. Builds release binaries first; the queen under load
as ./quickstart.sh --pgo does it, which takes 15 minutes.

  tokens sampling prefix draft footprint download hive supervision
                             the worker and the hive; needs the demo model, which it fetches
  queen                      what the queen adds to a token, beside nginx
  decision                   one decision of the queen among 1,000 workers
  gateway scale heartbeats   the queen under load, beside nginx and Shepherd Model Gateway

  --rounds N      rounds of each comparison, of which the median is told [default: 5]
  --ways=LIST     gateway, scale: what to compare [default: nginx,SMG,queen]
  --streams=LIST  scale: how many streams, one run after the other [default: 1000,10000]
  --help          this text
TEXT
}

cd "$(dirname "$0")"
target=${CARGO_TARGET_DIR:-$PWD/target}
bin=$target/release

main() {
    local bench=() load=() decision=no options=()
    while (($#)); do
        case $1 in
        decision) decision=yes ;;
        queen | gateway | scale | heartbeats) load+=("$1") ;;
        tokens | sampling | prefix | draft | footprint | download | hive | supervision) bench+=("$1") ;;
        --rounds)
            [[ ${2-} =~ ^[1-9][0-9]*$ ]] || refuse "--rounds wants a number"
            options+=("$1" "$2")
            shift
            ;;
        --ways=* | --streams=*) options+=("$1") ;;
        -h | --help)
            usage
            return 0
            ;;
        *) refuse "unknown argument: $1" ;;
        esac
        shift
    done
    if ((${#bench[@]} + ${#load[@]} == 0)) && [[ $decision == no ]]; then
        decision=yes
        bench=(hive supervision download tokens sampling prefix draft footprint)
        load=(gateway scale heartbeats)
    fi
    [[ $decision == no ]] || cargo bench --profile lto --locked --quiet -p queen-rbee --bench decision
    ((${#bench[@]} + ${#load[@]} > 0)) || return 0
    ((${#load[@]} == 0)) || run_load
    ((${#bench[@]} == 0)) || run_bench
}

# refuse WHY: an argument that cannot be meant, before anything is built.
refuse() {
    usage >&2
    printf '\nerror: %s\n' "$1" >&2
    exit 1
}

run_load() {
    local what queen gateways
    queen=$(scripts/build-pgo-queen.sh)
    gateways=(--queen "$queen" --smg "$target/smg/bin/smg")
    cargo build --release --locked -p rbee-load
    scripts/other-gateways.sh
    # A stream through a gateway takes two open files of it.
    ulimit -n "$(ulimit -Hn)"
    for what in "${load[@]}"; do
        case $what in
        queen) "$bin/rbee-load" gateway paced --ways nginx,queen "${gateways[@]}" "${options[@]}" ;;
        *) "$bin/rbee-load" "$what" "${gateways[@]}" "${options[@]}" ;;
        esac
    done
}

run_bench() {
    cargo build --release --locked -p rbee-keeper -p rbee-hive -p llm-worker-rbee
    cargo build --release --locked -p queen-rbee --features queen-rbee/local-hive
    scripts/fetch-demo-model.sh >/dev/null
    RBEE_BIN_DIR=$bin cargo run --release --locked --quiet -p rbee-bench -- "${bench[@]}" "${options[@]}"
}

main "$@"

#!/usr/bin/env bash
# From a fresh clone to the answer of a language model on this machine.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: ./quickstart.sh [--no-start] [--lto | --pgo]

Builds rbee, starts it on this machine, loads a small demo model and asks it something.
A step that is done already is passed over, so it can be run as often as you like.

  --no-start   only build
  --lto        build the queen with link-time optimization: for many streams at once, 10 to 25 % less of
               the processor; 5 minutes more on two cores. One that runs stays until it is stopped; a
               later run without --lto builds the usual one again
  --pgo        the same, and laid out for what she was seen to do under load: a tenth to a fifth less
               of the processor than with --lto; 15 minutes more. Needs rustup
  --help       this text

Environment:
  RBEE_HOME          a folder for all of rbee's files [default: the XDG folders]
  RBEE_TEST_MODELS   where the demo model is kept [default: ~/.cache/rbee-test-models]
  CARGO_TARGET_DIR   where the build goes [default: target/ of this checkout]
TEXT
}

MODEL=smollm2-135m
PROMPT='Write one sentence about the sea.'
FIRST_BUILD_GIB=6

main() {
    local start=yes queen=usual argument
    for argument in "$@"; do
        case $argument in
        --no-start) start=no ;;
        --lto) queen=lto ;;
        --pgo) queen=pgo ;;
        -h | --help)
            usage
            return 0
            ;;
        *)
            usage >&2
            stop "unknown argument: $argument"
            ;;
        esac
    done

    local home=${RBEE_HOME-}
    if [[ -n $home && $home != /* ]]; then export RBEE_HOME=$PWD/$home; fi
    unset RBEE_QUEEN_URL # this is about the queen of this machine
    cd "$root"

    require_packages build
    require_rust
    build
    [[ $queen == usual ]] || build_queen "$queen"
    [[ $start == yes ]] || return 0
    start_model
    ask
    show_next_steps
}

build() {
    local bin began=$SECONDS
    bin=$(target_dir)/release
    if [[ -x $bin/llm-worker-rbee ]]; then
        step "Building what changed"
    else
        require_disk "$FIRST_BUILD_GIB"
        warn_memory
        step "Building rbee and llama.cpp"
        say "The first build takes 10 to 17 minutes on two cores; this machine has $(cores)."
        say "Most of it is llama.cpp, once for each kind of processor. Later builds take seconds."
    fi
    cargo build --release --locked \
        -p rbee-keeper -p rbee-hive -p llm-worker-rbee -p queen-rbee --features queen-rbee/local-hive ||
        stop "the build failed; cargo's reason is above.
  - 'signal: 9' or 'Killed': the machine ran out of memory. Run: CARGO_BUILD_JOBS=1 $0
  - 'failed to download' or 'Could not resolve host': the build needs the network once.
  - after an upgrade of compiler or CMake: cargo clean --release -p llama-cpp-sys-2, and run this again."
    say "Built in $((SECONDS - began)) s"
    keeper=$bin/rbee-keeper
}

# build_queen lto|pgo: takes the place of the queen that was built before.
build_queen() {
    local bin built features=(--features queen-rbee/local-hive) began=$SECONDS
    bin=$(target_dir)
    step "Building the queen for many streams"
    case $1 in
    lto)
        built=$bin/lto/queen-rbee
        cargo build --profile lto --locked -p queen-rbee "${features[@]}"
        ;;
    pgo) built=$(scripts/build-pgo-queen.sh "${features[@]}") ;;
    esac || stop "the build failed; the reason is above. Without --$1 it is not needed."
    cp "$built" "$bin/release/queen-rbee.part"
    mv -f "$bin/release/queen-rbee.part" "$bin/release/queen-rbee"
    say "Built in $((SECONDS - began)) s"
}

start_model() {
    step "Starting rbee"
    "$keeper" up || stop "rbee did not start; the reason is above."

    step "Loading the demo model SmolLM2-135M-Instruct (98 MB, Apache-2.0)"
    if ! "$keeper" model get "$MODEL" --json >/dev/null 2>&1; then
        local file
        file=$(scripts/fetch-demo-model.sh) || stop "the demo model could not be obtained; the reason is above."
        "$keeper" model import "$file" --alias "$MODEL" || stop "the demo model could not be imported; the reason is above."
    fi
    if has_worker; then
        say "A worker runs it already."
    else
        "$keeper" worker spawn --model "$MODEL" --device CPU-0 ||
            stop "the worker did not start; the reason is above. Its log is beside the queen's."
    fi
}

has_worker() {
    "$keeper" worker list --json | python3 -c '
import json, sys
found = any(w["model"] == sys.argv[1] and w["state"] in ("starting", "ready") for w in json.load(sys.stdin))
sys.exit(not found)' "$MODEL"
}

ask() {
    step "$PROMPT"
    "$keeper" infer --quiet --model "$MODEL" --temperature 0 --max-tokens 200 --prompt "$PROMPT" ||
        stop "the model did not answer; the reason is above."
    [[ -t 1 ]] || echo # a terminal has its line end from the keeper
}

show_next_steps() {
    local address key=unused header='' home=''
    address=$("$keeper" status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["address"])')
    address=${address#http://}
    if [[ $("$keeper" token list --json) != '[]' ]]; then
        key='<your token>'
        header=" -H 'Authorization: Bearer <your token>'"
    fi
    local command=$keeper
    if [[ $came_from == "$root" && $keeper == "$root"/* ]]; then command=./${keeper#"$root"/}; fi
    if [[ -n ${RBEE_HOME-} ]]; then home="RBEE_HOME=$(printf %q "$RBEE_HOME") "; fi
    cat <<TEXT

rbee answers at http://$address/v1, as OpenAI's API does.

With curl:
  curl http://$address/v1/chat/completions$header -H 'Content-Type: application/json' \\
    -d '{"model": "$MODEL", "messages": [{"role": "user", "content": "Hello!"}]}'

With Python (pip install openai):
  from openai import OpenAI
  client = OpenAI(base_url="http://$address/v1", api_key="$key")
  print(client.chat.completions.create(model="$MODEL", messages=[{"role": "user", "content": "Hello!"}]).choices[0].message.content)

See it:   $home$command status
Stop it:  $home$command down
TEXT
    tell_of_card "$home$command"
}

# Which cards are used is decided by the modules beside the worker, and none is built unasked.
tell_of_card() {
    local devices
    nvidia-smi -L >/dev/null 2>&1 || return 0
    devices=$("$(target_dir)/release/llm-worker-rbee" devices) || return 0
    [[ $devices != *GPU-0* ]] || return 0
    cat <<TEXT

This machine has an NVIDIA card, which rbee does not use yet. With the CUDA toolkit (nvcc in PATH):
  scripts/build-backend.sh --native cuda && $1 hive refresh
TEXT
}

came_from=$PWD
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/requirements.sh
source "$root/scripts/requirements.sh"
main "$@"

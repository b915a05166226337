#!/usr/bin/env bash
# Everything that must hold before a change lands. The last line says how many tests did.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: ./test.sh [--quick] [--long] [--vulkan]

Checks format, lints, licences and documentation, builds everything, and runs the unit tests, the
features of bdd/, the client tests of clients/ and some seconds of each fuzz target. The first run
compiles llama.cpp: about half an hour on two cores in all. Ends with the tests that this machine cannot
run and why, and a line 'N passed, N failed, N skipped'.

  --quick   install nothing: fail where something is missing
  --long    kill workers under load for two minutes, and simulate three times as many houses
  --vulkan  also build the Vulkan backend (five more minutes on two cores) and run the model on it;
            Mesa's software driver will do
  --help    this text
TEXT
}

# One profile for everything, so that llama.cpp is compiled once.
LOCAL_HIVE=(--features queen-rbee/local-hive)
EVERYTHING=(--release --locked --workspace --all-targets)
CARGO_DENY=0.20.2
CARGO_NEXTEST=0.9.143
FUZZ_SECONDS=8

main() {
    local argument
    for argument in "$@"; do
        case $argument in
        --quick) quick=yes ;;
        --long) export RBEE_TEST_SECONDS=120 RBEE_TEST_SEEDS=600 ;;
        --vulkan) vulkan=yes ;;
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
    cd "$root"
    install
    check
    build
    run_tests
}

install() {
    if [[ $quick == no ]]; then
        step "What a build and the tests need"
        require_packages test
        require_rust
    fi
    target=$(target_dir)
    logs=$target/test-logs
    python=$target/python/bin/python
    mkdir -p "$logs"
    rm -f "$logs"/*.skips
    PATH=$PATH:$target/tools/bin
    [[ $quick == yes ]] && return 0
    have cargo-deny || cargo_tool cargo-deny "$CARGO_DENY"
    have cargo-nextest || cargo_tool cargo-nextest "$CARGO_NEXTEST"
    [[ -x $python ]] || python3 -m venv "$target/python"
    "$python" -m pip install --quiet --disable-pip-version-check -r clients/python/requirements.txt
}

# Unoptimized: that compiles in a third of the time, and what it does is small.
cargo_tool() {
    say "Installing $1 $2 into $target/tools"
    cargo install --quiet --locked --debug --root "$target/tools" "$1" --version "$2" ||
        stop "$1 could not be installed; cargo's reason is above."
}

check() {
    local script
    step "Format"
    cargo fmt --all --check || stop "run: cargo fmt --all"
    cargo fmt --manifest-path fuzz/Cargo.toml --check ||
        stop "run: cargo fmt --manifest-path fuzz/Cargo.toml"
    step "Shell scripts"
    shellcheck --external-sources ./*.sh .ci/run scripts/*.sh testbed/*.sh bin/*/src/*/script/*.sh
    for script in ./bench.sh ./quickstart.sh scripts/build-backend.sh scripts/fuzz.sh; do
        "$script" --help | grep -q '^usage: ' || stop "$script --help does not say how it is used"
        ! "$script" --nope >/dev/null 2>&1 || stop "$script takes an option that it does not have"
    done
    step "Licences, sources and versions of dependencies"
    cargo deny --log-level error --locked check bans licenses sources
    step "Lints, without and with the hive inside the queen"
    cargo clippy --quiet "${EVERYTHING[@]}" -- -D warnings
    cargo clippy --quiet "${EVERYTHING[@]}" "${LOCAL_HIVE[@]}" -- -D warnings
    step "Documentation"
    RUSTDOCFLAGS='-D warnings' cargo doc --quiet --release --locked --workspace --no-deps
}

# The queen in both builds: the plain one is kept under another path, the other one stays.
build() {
    local bin=$target/release
    step "Build"
    # With the tests of bdd/, which need no queen to compile: so its dependencies are those of the second build.
    cargo build --quiet --release --locked --workspace --bin queen-rbee --test bdd
    mkdir -p "$bin/plain"
    install_file "$bin/queen-rbee" "$bin/plain/queen-rbee"
    cargo build --quiet "${EVERYTHING[@]}" "${LOCAL_HIVE[@]}"
    export RBEE_BIN_DIR=$bin
    export RBEE_TEST_QUEEN_PLAIN=$bin/plain/queen-rbee
    export RBEE_TEST_QUEEN_LOCAL=$bin/queen-rbee
}

# Replaces a file that may be running.
install_file() {
    cp "$1" "$2.part"
    mv -f "$2.part" "$2"
}

run_tests() {
    local model
    model=$(scripts/fetch-demo-model.sh)
    RBEE_TEST_MODELS=$(dirname "$model")
    export RBEE_TEST_MODELS
    scripts/fetch-embedding-model.sh >/dev/null
    unset RBEE_HOME RBEE_QUEEN_URL RBEE_API_KEY

    suite "Unit and integration tests" nextest \
        cargo nextest run --release --locked --workspace "${LOCAL_HIVE[@]}" \
        --no-fail-fast -E 'not package(bdd)'
    # --workspace with --test: one selection of features for all suites, so nothing is built twice
    suite "Features" cucumber \
        cargo test --quiet --release --locked --workspace "${LOCAL_HIVE[@]}" --test bdd
    suite "Clients: Python" pytest \
        "$python" -m pytest clients/python
    [[ $vulkan == no ]] || test_vulkan
    suite "Fuzz targets" fuzz \
        scripts/fuzz.sh "$FUZZ_SECONDS"

    tell_skips
    printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    ((failed == 0))
}

# The worker's tests of a GPU backend as a module.
test_vulkan() {
    local options=()
    [[ $quick == no ]] || options=(--quick)
    compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null || {
        [[ $quick == no && $(system) == debian ]] ||
            stop "no Vulkan driver is here. Install Mesa's (on Debian: mesa-vulkan-drivers)."
        apt_install mesa-vulkan-drivers
    }
    RBEE_TEST_VULKAN_BACKEND=$(scripts/build-backend.sh "${options[@]}" vulkan "$target/vulkan")
    export RBEE_TEST_VULKAN_BACKEND
    suite "The Vulkan backend" vulkan \
        cargo nextest run --release --locked --workspace "${LOCAL_HIVE[@]}" \
        --no-fail-fast --run-ignored only -E 'package(llm-worker-rbee) and test(/^vulkan::/)'
}

passed=0 failed=0 skipped=0

# suite TITLE RUNNER COMMAND…: runs it to its end and adds what its last lines count. Tests that find that they
# cannot run list themselves; nextest takes them for passed.
suite() {
    local title=$1 runner=$2 log=$logs/$2.log status=0 summary bad left_out
    export RBEE_TEST_SKIPS=$logs/$2.skips
    shift 2
    step "$title"
    : >"$RBEE_TEST_SKIPS"
    "$@" 2>&1 | tee "$log" || status=$?
    summary=$(sed 's/\x1b\[[0-9;]*m//g' "$log" | "summary_of_$runner")
    bad=$(($(count failed) + $(count 'timed out') + $(count 'exec failed') + $(count 'errors?')))
    if ((status != 0 && bad == 0)); then
        say "$title ended with status $status"
        bad=1
    elif ((status == 0 && $(count passed) == 0)); then
        say "$title ran no test"
        bad=1
    fi
    ((passed += $(count passed))) || true
    ((failed += bad)) || true
    ((skipped += $(count skipped))) || true
    left_out=$(wc -l <"$RBEE_TEST_SKIPS")
    ((skipped += left_out)) || true
    case $runner in
    nextest | vulkan) ((passed -= left_out)) || true ;;
    esac
}

# Each test that could not run here, with its reason.
tell_skips() {
    local lists=("$logs"/*.skips)
    [[ -n $(cat "${lists[@]}") ]] || return 0
    step "Not run on this machine"
    cat "${lists[@]}"
}

# The number before a word of $summary, or 0.
count() {
    grep -oE "[0-9]+ $1\b" <<<"$summary" | head -n 1 | grep -oE '^[0-9]+' || echo 0
}

summary_of_nextest() { grep -E '^ *Summary \[' | tail -n 1 || true; }
summary_of_vulkan() { summary_of_nextest; }
summary_of_cucumber() { grep -E '^[0-9]+ scenarios? \(' | tail -n 1 || true; }
summary_of_fuzz() { grep -E '^[0-9]+ passed, [0-9]+ failed$' | tail -n 1 || true; }
summary_of_pytest() { grep -E '^=* ?[0-9]+ [a-z]+.* in [0-9.]+s' | tail -n 1 || true; }

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
quick=no vulkan=no
# shellcheck source=scripts/requirements.sh
source "$root/scripts/requirements.sh"
# With the minutes and seconds that have passed.
step() { printf '\n==> %s (%d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)) >&2; }

main "$@"

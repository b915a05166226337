#!/usr/bin/env bash
# Builds the queen with what the compiler learns from watching her at work (profile-guided optimization).
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/build-pgo-queen.sh [CARGO OPTION…]

Builds queen-rbee three times over: one that counts what she does, a load of about a minute that she
carries (rbee-load, stand-in workers, no model), and one that is laid out for it, with link-time
optimization. She takes a tenth to a fifth less of the processor than one built with --profile lto.
15 minutes on two cores, once for each version. Prints the program's path. What is built already is passed over.

Options are given to cargo, as --features queen-rbee/local-hive. Needs rustup, which installs the
component llvm-tools.

  --help   this text

Environment:
  CARGO_TARGET_DIR   where the build goes [default: target/ of this checkout]
TEXT
}

main() {
    case ${1-} in
    -h | --help)
        usage
        return 0
        ;;
    esac
    cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
    local host target trained profdata profile
    host=$(rustc -vV | sed -n 's/^host: //p')
    target=${CARGO_TARGET_DIR:-$PWD/target}
    trained=$target/pgo/$host/lto/queen-rbee
    profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
    if [[ ! -x $profdata ]]; then
        rustup component add llvm-tools >&2 ||
            stop "llvm-profdata is missing: install rustup's component llvm-tools"
    fi

    build "-Cprofile-generate=$target/pgo/raw" "$host" "$@"
    # Cargo looks at a profile's name only, so each has a name of its own.
    profile=$target/pgo/$(sha256sum "$trained" | cut -c1-16).profdata
    if [[ ! -s $profile ]]; then
        rm -rf "$target"/pgo/raw "$target"/pgo/*.profdata
        train "$target" "$trained"
        "$profdata" merge -o "$profile.part" "$target"/pgo/raw
        mv "$profile.part" "$profile"
    fi
    build "-Cprofile-use=$profile" "$host" "$@"
    printf '%s\n' "$trained"
}

# build FLAG HOST [OPTION…]: with its own folder, since other flags build everything anew; and for a named
# target, so that what runs during the build is built without the flag.
build() {
    local flag=$1 host=$2
    shift 2
    RUSTFLAGS="${RUSTFLAGS-} $flag" CARGO_TARGET_DIR=$target/pgo \
        cargo build --profile lto --locked -p queen-rbee --target "$host" "$@" >&2
}

# train TARGET QUEEN: she writes what she has counted when she ends.
train() {
    local what
    cargo build --release --locked -p rbee-load >&2
    # A stream through her takes two open files.
    ulimit -n "$(ulimit -Hn)"
    for what in gateway heartbeats; do
        "$1/release/rbee-load" "$what" --rounds 1 --ways queen --queen "$2" >&2
    done
}

stop() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

main "$@"

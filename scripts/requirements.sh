# shellcheck shell=bash
# What a build of rbee needs from the system, and how it gets there. Sourced by quickstart.sh and
# test.sh, in the root of the checkout.
#
# On Debian and Ubuntu missing packages are installed; elsewhere the command that does it is shown.

say() { printf '%s\n' "$*" >&2; }
step() { printf '\n==> %s\n' "$*" >&2; }
stop() {
    printf '\nerror: %s\n' "$*" >&2
    exit 1
}

# require_packages build|test: compiler, CMake, libclang, Python, curl; `test` adds what test.sh needs.
require_packages() {
    local missing=()
    have cmake || missing+=(cmake)
    have c++ || missing+=(c++)
    have make || missing+=(make)
    { have clang && has_libclang; } || missing+=(libclang)
    python3 -m pip --version >/dev/null 2>&1 || missing+=(pip)
    have curl || missing+=(curl)
    if [[ $1 == test ]]; then
        python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(venv)
        have shellcheck || missing+=(shellcheck)
        if [[ $(uname -s) == Linux ]]; then
            [[ -x /usr/sbin/sshd ]] || missing+=(sshd)
            have faketime || missing+=(faketime)
            have ssh || missing+=(ssh)
            have ip || missing+=(ip)
            [[ -x /usr/sbin/mkfs.btrfs ]] || have mkfs.btrfs || missing+=(btrfs-progs)
        fi
    fi
    ((${#missing[@]})) || return 0
    case $(system) in
    debian) apt_install "$(package_names debian "${missing[@]}")" ;;
    fedora) show_install "sudo dnf install $(package_names fedora "${missing[@]}")" ;;
    arch) show_install "sudo pacman -S --needed $(package_names arch "${missing[@]}")" ;;
    macos) show_install "xcode-select --install; brew install $(package_names macos "${missing[@]}")" ;;
    *) stop "these are missing: ${missing[*]}. Install them with your system's package manager and run this again." ;;
    esac
}

# require_rust: a cargo of at least the rust-version in Cargo.toml, first in PATH.
require_rust() {
    local wanted
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    if rust_is_at_least "$wanted"; then return 0; fi
    PATH=$HOME/.cargo/bin:$PATH
    if rust_is_at_least "$wanted"; then return 0; fi
    if have rustup; then
        say "Rust $wanted or later is needed. Running: rustup update stable"
        rustup update stable || stop "rustup could not update Rust (its reason is above). When this machine is online again: rustup update stable"
    else
        say "Rust $wanted or later is needed. Installing it with rustup, into $HOME/.cargo and $HOME/.rustup"
        local installer
        installer=$(mktemp)
        curl --proto '=https' --tlsv1.2 --fail --silent --show-error --retry 2 --output "$installer" https://sh.rustup.rs ||
            stop "rustup could not be downloaded from https://sh.rustup.rs (curl's reason is above). Install Rust $wanted or later in any way you like, so that 'cargo --version' works, and run this again."
        sh "$installer" -y --quiet --profile minimal --component rustfmt --component clippy ||
            stop "rustup could not install Rust (its reason is above). Install Rust $wanted or later in any way you like and run this again."
        rm -f "$installer"
    fi
    rust_is_at_least "$wanted" ||
        stop "$(command -v cargo || echo cargo) is $(cargo --version 2>&1 | head -n 1), and Rust $wanted or later is needed. Put a later one first in PATH and run this again."
}

# require_disk GIB: free space for a first build.
require_disk() {
    local free
    mkdir -p "$(target_dir)"
    free=$(($(df -Pk "$(target_dir)" | awk 'NR == 2 { print $4 }') / 1024 / 1024))
    ((free >= $1)) ||
        stop "$(target_dir) has $free GiB free and a first build needs $1 GiB. Free some space, or build on another disk: CARGO_TARGET_DIR=/big/disk/rbee $0"
}

# warn_memory: llama.cpp's largest files need about 1 GiB for each compiler that runs.
warn_memory() {
    [[ -r /proc/meminfo ]] || return 0
    local available jobs
    available=$(awk '/^MemAvailable:/ { print int($2 / 1024 / 1024) }' /proc/meminfo)
    jobs=${CARGO_BUILD_JOBS:-$(cores)}
    ((available >= jobs + 1)) ||
        say "warning: $available GiB of memory are free for $jobs compilers at once. If the build is killed: CARGO_BUILD_JOBS=1 $0"
}

target_dir() {
    cargo metadata --no-deps --format-version 1 --locked |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])'
}

cores() { getconf _NPROCESSORS_ONLN; }

have() { command -v "$1" >/dev/null 2>&1; }

has_libclang() {
    [[ -n ${LIBCLANG_PATH-} || $(uname -s) == Darwin ]] && return 0
    compgen -G '/usr/lib/llvm*/lib*/libclang*.so*' >/dev/null ||
        compgen -G '/usr/lib*/libclang*.so*' >/dev/null ||
        compgen -G '/usr/lib/*-linux-gnu/libclang*.so*' >/dev/null
}

rust_is_at_least() {
    have cargo || return 1
    local found
    found=$(cargo --version 2>/dev/null | awk '{ print $2 }')
    [[ -n $found && $(printf '%s\n' "$1" "$found" | sort -V | head -n 1) == "$1" ]]
}

system() {
    if [[ $(uname -s) == Darwin ]]; then
        echo macos
    elif [[ -r /etc/os-release ]]; then
        case " $(. /etc/os-release && echo "${ID-} ${ID_LIKE-}") " in
        *' debian '* | *' ubuntu '*) echo debian ;;
        *' fedora '* | *' rhel '*) echo fedora ;;
        *' arch '*) echo arch ;;
        *) echo other ;;
        esac
    else
        echo other
    fi
}

# package_names SYSTEM NEED…
package_names() {
    local system=$1 names=() need
    shift
    for need in "$@"; do
        case $system:$need in
        debian:c++) names+=(g++) ;;
        debian:libclang) names+=(clang libclang-dev) ;;
        debian:pip) names+=(python3 python3-pip) ;;
        debian:venv) names+=(python3-venv) ;;
        debian:curl) names+=(curl ca-certificates) ;;
        debian:sshd) names+=(openssh-server) ;;
        debian:ssh) names+=(openssh-client) ;;
        debian:ip) names+=(iproute2) ;;
        fedora:sshd) names+=(openssh-server) ;;
        fedora:ssh) names+=(openssh-clients) ;;
        fedora:ip) names+=(iproute) ;;
        arch:sshd | arch:ssh) names+=(openssh) ;;
        arch:ip) names+=(iproute2) ;;
        fedora:c++) names+=(gcc-c++) ;;
        fedora:libclang) names+=(clang clang-devel) ;;
        fedora:pip | fedora:venv) names+=(python3-pip) ;;
        fedora:shellcheck) names+=(ShellCheck) ;;
        arch:c++) names+=(gcc) ;;
        arch:libclang) names+=(clang) ;;
        arch:pip | arch:venv) names+=(python-pip) ;;
        macos:pip | macos:venv) names+=(python) ;;
        macos:c++ | macos:make | macos:libclang) ;; # part of the command line tools
        *) names+=("$need") ;;
        esac
    done
    echo "${names[*]}"
}

apt_install() {
    local names as_root=() log
    read -ra names <<<"$1"
    if [[ $(id -u) != 0 ]]; then
        have sudo || stop "these packages are missing, and there is no sudo to install them. As root: apt-get install ${names[*]}"
        as_root=(sudo)
    fi
    local command=("${as_root[@]}" apt-get install -y --no-install-recommends "${names[@]}")
    say "Missing system packages. This takes a minute or two. Running: ${command[*]}"
    log=$(mktemp)
    "${as_root[@]}" apt-get update </dev/null >"$log" 2>&1 ||
        say "warning: apt-get update failed; trying with the package lists that are there"
    DEBIAN_FRONTEND=noninteractive "${command[@]}" </dev/null >>"$log" 2>&1 || {
        tail -n 15 "$log" >&2
        stop "the packages could not be installed (apt-get's last lines are above). Run: ${command[*]}"
    }
    rm -f "$log"
}

show_install() {
    stop "system packages are missing. Run this, then start again:

    $1"
}

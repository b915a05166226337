#!/bin/sh
# What a queen does on a hive's machine, by SSH: hive.sh VERB ARGUMENT…
#
# It is sent as an argument of `sh -c`, so nothing has to be there before. All of it happens in the
# user's own folders and needs no root. Whatever it is given came from types that hold no blanks.
set -eu
umask 077
root=$HOME/.local/share/rbee-hive
unit=rbee-hive.service
units=$HOME/.config/systemd/user
: "${XDG_RUNTIME_DIR:=/run/user/$(id -u)}"
export XDG_RUNTIME_DIR
# To `ssh` some statuses mean something else.
trap 'case $? in 0) ;; *) exit 1 ;; esac' EXIT

say() { printf '%s=%s\n' "$1" "$2"; }
stop() {
    printf '%s\n' "$*" >&2
    exit 1
}

has_systemd() {
    command -v systemctl >/dev/null 2>&1 && systemctl --user show-environment >/dev/null 2>&1
}
# Whether systemd was given the hive.
is_unit() { [ -e "$units/$unit" ] && has_systemd; }

# running FILE: the id of the process that a file names by id and start time, if it still runs.
running() {
    [ -r "$1" ] || return 1
    pid='' began=''
    read -r pid began <"$1" || return 1
    [ -n "$pid" ] && [ -n "$began" ] && [ "$(start_time "$pid")" = "$began" ] || return 1
    printf '%s\n' "$pid"
}
# Field 22 of /proc/PID/stat; the name in parentheses before can hold anything. Nothing for a zombie.
start_time() {
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    # shellcheck disable=SC2086
    set -- ${stat##*)}
    [ "$1" = Z ] || printf '%s\n' "${20}"
}
hive_process() { running "$root/run/rbee-hive.lock"; }
supervisor() { running "$root/run/supervisor.pid"; }

digest() {
    [ -r "$1" ] || return 0
    line=$(sha256sum <"$1") && printf '%s\n' "${line%% *}"
}

probe() {
    say os "$(uname -s)"
    say arch "$(uname -m)"
    say glibc "$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d ' ' -f 2)"
    folder=$root
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    # shellcheck disable=SC2046
    set -- $(df -Pk "$folder" | tail -n 1)
    say free_kib "$4"
    say connection "${SSH_CONNECTION-}"
    if has_systemd; then say systemd yes; else say systemd no; fi
    if command -v sha256sum >/dev/null 2>&1; then say sha256sum yes; else say sha256sum no; fi
    gpus=0
    for device in /dev/nvidia[0-9]* /dev/kfd /dev/dri/renderD*; do
        [ ! -e "$device" ] || gpus=$((gpus + 1))
    done
    say gpu_nodes "$gpus"
    say alias "$(cat "$root/alias" 2>/dev/null || :)"
    release=$(readlink "$root/current" 2>/dev/null || :)
    say release "${release##*/}"
    say config "$(digest "$root/config.toml" || :)"
    say secret "$(digest "$root/data/secrets/local.token" || :)"
    if hive_process >/dev/null; then say running yes; else say running no; fi
}

# The digests of what is installed.
manifest() {
    [ -d "$root/current/" ] || return 0
    cd "$root/current/" && find . -type f -exec sha256sum {} +
}

# begin STAGING: tells the uppermost folder that was not there before.
begin() {
    made=''
    folder=$root
    while [ ! -d "$folder" ]; do
        made=$folder
        folder=$(dirname "$folder")
    done
    mkdir -p "$root"
    # One that was put in place as a whole stays, also where nobody came to accept it.
    if [ -e "$root/.before/done" ]; then accept; else put_back; fi
    rm -rf "$root"/.staging-* "$root/run/brought-back"
    mkdir "$root/$1"
    say made "$made"
}

# reuse STAGING [FILE SHA256]…: takes files of the release that is there, each if it is what it was.
reuse() {
    staging=$root/$1
    shift
    while [ $# -gt 0 ]; do
        mkdir -p "$(dirname "$staging/$1")"
        ln "$root/current/$1" "$staging/$1" 2>/dev/null || cp -p "$root/current/$1" "$staging/$1"
        [ "$(digest "$staging/$1")" = "$2" ] || stop "$1 there is another file than a moment ago"
        shift 2
    done
}

# receive STAGING FILE MODE BYTES SHA256: standard input becomes the file, if it arrived whole.
receive() {
    file=$root/$1/$2
    mkdir -p "$(dirname "$file")"
    cat >"$file"
    bytes=$(($(wc -c <"$file")))
    [ "$bytes" -eq "$4" ] || stop "$2 arrived with $bytes of $4 bytes"
    [ "$(digest "$file")" = "$5" ] || stop "$2 arrived with another SHA-256 than it was sent with"
    chmod "$3" "$file"
}

# try STAGING: whether the programs run here; tells the devices that the engine can use.
try() {
    "$root/$1/rbee-hive" --version >/dev/null
    "$root/$1/llm-worker-rbee" devices --json
}

# The files that an installation consists of, beside its release: each with its place.
parts() {
    printf '%s\n' "config.toml $root/config.toml" "local.token $root/data/secrets/local.token" \
        "alias $root/alias" "$unit $units/$unit"
}

# Sets aside what an installation replaces, until it is accepted. It is whole when it says so.
set_aside() {
    forget_before
    mkdir "$root/.before"
    parts | while read -r name place; do
        [ ! -e "$place" ] || cp -p "$place" "$root/.before/$name"
    done
    readlink "$root/current" >"$root/.before/current" || :
    : >"$root/.before/whole"
}

# Puts back what was set aside, if an installation was not accepted.
put_back() {
    if [ -e "$root/.before/whole" ]; then
        parts | while read -r name place; do
            if [ -e "$root/.before/$name" ]; then
                # The copy stays until all is back: whoever is cut off here does all of it again.
                mkdir -p "$(dirname "$place")"
                cp -p "$root/.before/$name" "$place.back"
                mv -f "$place.back" "$place"
            else
                rm -f "$place"
            fi
        done
        point_at "$(cat "$root/.before/current")"
        if [ -e "$root/current" ]; then tidy; fi
        if has_systemd; then systemctl --user daemon-reload || :; fi
    fi
    forget_before
}

# forget_before: what was set aside is wanted no more, as a whole: half of it would be put back as all.
forget_before() {
    rm -f "$root/.before/whole"
    rm -rf "$root/.before"
}

# point_at RELEASE: what runs is that release; none where nothing is named.
point_at() {
    rm -f "$root/.current"
    if [ -z "$1" ]; then
        rm -f "$root/current"
        return
    fi
    ln -s "$1" "$root/.current"
    mv -T "$root/.current" "$root/current"
}

# activate STAGING RELEASE ALIAS: what was received is the installation from now on, or nothing of it is.
activate() {
    mkdir -p "$root/releases" "$root/data/secrets" "$root/models" "$root/run/logs"
    set_aside
    trap 'put_back; exit 1' EXIT
    put_in_place "$@"
    trap - EXIT
    printf '%s\n' "$1" >"$root/.before/done"
}

put_in_place() {
    staging=$root/$1
    mv -f "$staging/config.toml" "$root/config.toml"
    mv -f "$staging/local.token" "$root/data/secrets/local.token"
    if has_systemd; then
        mkdir -p "$units"
        mv -f "$staging/$unit" "$units/$unit"
        systemctl --user daemon-reload
        systemctl --user enable --quiet "$unit"
        if loginctl enable-linger >/dev/null 2>&1; then say boot yes; else say boot no; fi
        say manager systemd
    else
        rm -f "$staging/$unit"
        say boot no
        say manager supervisor
    fi
    printf '%s\n' "$3" >"$root/alias"
    if [ "$(readlink "$root/current" 2>/dev/null || :)" = "releases/$2" ]; then
        rm -rf "$staging"
        return
    fi
    rm -rf "$root/releases/$2"
    mv "$staging" "$root/releases/$2"
    point_at "releases/$2"
}

# accept: what was put in place is to stay.
accept() {
    forget_before
    tidy
}

# bring_back: what was put in place does not work; the release before it runs again. Whoever did not hear
# that it does asks again, and has it started again.
bring_back() {
    if [ -e "$root/.before/whole" ]; then
        mkdir -p "$root/run"
        : >"$root/run/brought-back"
        put_back
    fi
    [ -e "$root/run/brought-back" ] || stop "nothing was set aside"
    replace
    start
}

# tidy: removes the releases before the one in use.
tidy() {
    current=$(readlink "$root/current")
    for release in "$root"/releases/*; do
        [ "$release" = "$root/$current" ] || rm -rf "$release"
    done
}

# rollback STAGING MADE: takes away what an installation that failed has brought.
rollback() {
    rm -rf "${root:?}/$1"
    # What an earlier installation has put in place is none of this one's.
    if [ ! -e "$root/.before/done" ]; then put_back; fi
    [ -n "${2-}" ] || return 0
    case $root/ in "$2"/*) ;; *) return 0 ;; esac
    if [ -e "$units/$unit" ]; then
        systemctl --user disable --quiet "$unit" 2>/dev/null || :
        rm -f "$units/$unit"
    fi
    rm -rf "$root"
    folder=$(dirname "$root")
    case $folder/ in "$2"/*) rmdir -p "$folder" 2>/dev/null || : ;; esac
}

start() {
    [ -x "$root/current/rbee-hive" ] || stop "no hive is installed"
    if is_unit; then
        systemctl --user reset-failed "$unit" 2>/dev/null || :
        systemctl --user start "$unit"
        return
    fi
    if supervisor >/dev/null; then return; fi
    detached='setsid'
    command -v setsid >/dev/null 2>&1 || detached='nohup'
    "$detached" sh "$root/current/supervise.sh" "$root" </dev/null >/dev/null 2>&1 &
}

# halt SECONDS: the hive ends, and its workers by it.
halt() {
    [ -d "$root" ] || return 0
    # systemd waits for the end. A hive is signalled once: a second signal would end it before its
    # workers.
    if is_unit; then systemctl --user stop "$unit"; fi
    if pid=$(supervisor) || pid=$(hive_process); then
        kill -TERM "$pid" 2>/dev/null || :
    fi
    left=$(($1 * 5))
    while hive_process >/dev/null || supervisor >/dev/null; do
        [ "$left" -gt 0 ] || stop "the hive has not ended after $1 s"
        left=$((left - 1))
        sleep 0.2
    done
}

# replace: ends the hive's process alone. Whoever watches it starts the release that is in use now,
# which takes over the workers that run on.
replace() {
    if pid=$(hive_process); then kill -KILL "$pid"; fi
}

# succeed SECONDS: when the hive's process that was told to leave its workers has ended, the release that is
# in use now takes them over.
succeed() {
    left=$(($1 * 5))
    while hive_process >/dev/null || supervisor >/dev/null; do
        [ "$left" -gt 0 ] || stop "the hive has not ended after $1 s"
        left=$((left - 1))
        sleep 0.2
    done
    start
}

# logs LINES
logs() {
    [ -r "$root/run/logs/rbee-hive.log" ] || stop "there is no log: the hive was not started yet"
    tail -n "$1" "$root/run/logs/rbee-hive.log"
}

# follow FROM LINES: where the log ends, in a line, then what is after its first FROM bytes. A FROM of -
# begins with the last LINES.
follow() {
    log=$root/run/logs/rbee-hive.log
    [ -r "$log" ] || stop "there is no log: the hive was not started yet"
    size=$(($(wc -c <"$log")))
    if [ "$1" = - ]; then
        printf '%s\n' "$size"
        head -c "$size" "$log" | tail -n "$2"
        return
    fi
    from=$1
    # It was begun anew.
    [ "$from" -le "$size" ] || from=0
    [ $((size - from)) -le 262144 ] || size=$((from + 262144))
    printf '%s\n' "$size"
    tail -c "+$((from + 1))" "$log" | head -c $((size - from))
}

# uninstall PURGE: models and their catalog stay, unless PURGE is yes.
uninstall() {
    [ -d "$root" ] || return 0
    if [ -e "$units/$unit" ]; then
        systemctl --user disable --quiet "$unit" 2>/dev/null || :
        rm -f "$units/$unit"
        systemctl --user daemon-reload 2>/dev/null || :
    fi
    if [ "$1" = yes ] || [ -z "$(ls -A "$root/models" 2>/dev/null)" ]; then
        rm -rf "$root"
        say kept ''
        return
    fi
    rm -rf "$root/releases" "$root/current" "$root/config.toml" "$root/alias" "$root/run" \
        "$root/data/secrets" "$root/.before" "$root"/.staging-*
    say kept "$root/models"
}

verb=$1
shift
"$verb" "$@"

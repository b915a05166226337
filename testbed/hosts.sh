#!/usr/bin/env bash
# Machines on one computer: each has its own network, processes, users, home and sshd.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: testbed/hosts.sh VERB DIR …

  may                        whether this computer permits it; says why not
  up DIR NAME…               makes machines 10.77.0.1, 10.77.0.2, … and a switch between them; the user
                             `bee` of the first one may log in to all others
  exec DIR NAME COMMAND…     runs a command there, as bee
  root DIR NAME COMMAND…     the same, as root
  systemd DIR NAME           starts bee's user manager of systemd there, where that is possible
  cut DIR NAME               pulls the machine's network cable
  heal DIR NAME              puts it back
  kill DIR NAME              takes the machine's power
  down DIR                   ends all machines

A machine is made of Linux namespaces, so root is needed. Everything of it is in DIR/NAME; bee's home
is DIR/NAME/home. `down` leaves the files.
TEXT
}

USER_ID=4242
SWITCH=.switch

stop() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

may() {
    local program reason
    [[ $(uname -s) == Linux ]] || stop "network namespaces are Linux's"
    for program in ip unshare nsenter setpriv ssh ssh-keygen; do
        command -v "$program" >/dev/null || stop "$program is missing"
    done
    [[ -x /usr/sbin/sshd ]] || stop "/usr/sbin/sshd is missing: install openssh-server"
    reason=$(unshare --net --pid --mount --uts --fork --mount-proc \
        sh -c 'mount -t tmpfs tmpfs /run && ip link add veth-a type veth peer name veth-b' 2>&1) ||
        stop "namespaces are not permitted here: ${reason:-no reason given}"
}

up() {
    local dir=$1 number=0 name pid
    shift
    mkdir -p "$dir/$SWITCH"
    hold "$dir/$SWITCH" "exec sleep infinity"
    in_switch "$dir" ip link add bridge type bridge mcast_snooping 0
    in_switch "$dir" ip link set bridge up
    for name in "$@"; do
        number=$((number + 1))
        furnish "$dir/$name" "$name" "$@"
    done
    number=0
    for name in "$@"; do
        number=$((number + 1))
        [[ $number == 1 ]] || befriend "$dir/$1" "$dir/$name" "$name" "$number"
        hold "$dir/$name" "$(boot_script "$dir/$name" "$name")"
        pid=$(init_of "$dir/$name")
        in_switch "$dir" ip link add "port-$number" type veth peer name eth0 netns "$pid"
        in_switch "$dir" ip link set "port-$number" master bridge up
        printf '%s\n' "port-$number" >"$dir/$name/port"
        as_root "$dir" "$name" sh -c "
            ip link set lo up && ip link set eth0 up && ip addr add 10.77.0.$number/24 dev eth0
            ip route add default dev eth0"
    done
    for name in "$@"; do
        await_sshd "$dir" "$name"
    done
}

# hold FOLDER SCRIPT: namespaces of their own, whose first process runs the script.
hold() {
    local outer children=''
    setsid unshare --net --pid --mount --uts --fork --mount-proc --kill-child \
        sh -c "$2" </dev/null >"$1/boot.log" 2>&1 &
    outer=$!
    for ((i = 0; i < 500; i++)); do
        read -r children <"/proc/$outer/task/$outer/children" || true
        [[ -z $children ]] || break
        sleep 0.01
    done
    [[ -n $children ]] || stop "no namespaces for $1: $(cat "$1/boot.log")"
    printf '%s\n' "${children%% *}" >"$1/init.pid"
}

init_of() { cat "$1/init.pid"; }
in_switch() {
    local dir=$1
    shift
    nsenter --target "$(init_of "$dir/$SWITCH")" --net -- "$@"
}

# furnish FOLDER NAME ALL…: the files of a machine.
furnish() {
    local folder=$1 name=$2 number=0 other
    shift 2
    mkdir -p "$folder/home/.ssh" "$folder/etc"
    grep -v -e '^bee:' -e "^[^:]*:[^:]*:$USER_ID:" /etc/passwd >"$folder/etc/passwd"
    printf 'bee:x:%s:%s::/home/bee:/bin/sh\n' "$USER_ID" "$USER_ID" >>"$folder/etc/passwd"
    printf 'root:*::0:99999:7:::\nsshd:*::0:99999:7:::\nbee:*::0:99999:7:::\n' >"$folder/etc/shadow"
    { grep -v '^bee:' /etc/group && printf 'bee:x:%s:\n' "$USER_ID"; } >"$folder/etc/group"
    printf '127.0.0.1 localhost\n' >"$folder/etc/hosts"
    for other in "$@"; do
        number=$((number + 1))
        printf '10.77.0.%s %s\n' "$number" "$other" >>"$folder/etc/hosts"
    done
    ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$folder/etc/host_key"
    ssh-keygen -q -t ed25519 -N '' -C "bee@$name" -f "$folder/home/.ssh/id_ed25519"
    cat >"$folder/etc/sshd_config" <<'TEXT'
ListenAddress 0.0.0.0
HostKey /run/host/host_key
PidFile /run/sshd.pid
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile .ssh/authorized_keys
PermitUserEnvironment yes
Subsystem sftp internal-sftp
TEXT
    chmod 700 "$folder/home/.ssh"
    chown -R "$USER_ID:$USER_ID" "$folder/home"
}

# befriend FIRST OTHER NAME NUMBER: the first machine's bee may log in to the other one, and knows it.
befriend() {
    local key
    install -o "$USER_ID" -g "$USER_ID" -m 600 "$1/home/.ssh/id_ed25519.pub" "$2/home/.ssh/authorized_keys"
    key=$(cut -d ' ' -f 1,2 "$2/etc/host_key.pub")
    printf '%s,10.77.0.%s %s\n' "$3" "$4" "$key" >>"$1/home/.ssh/known_hosts"
    chown "$USER_ID:$USER_ID" "$1/home/.ssh/known_hosts"
}

# What the first process of a machine does. Its folders cover those of the computer.
boot_script() {
    cat <<TEXT
set -e
hostname '$2'
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd /run/host
cp '$1/etc/host_key' '$1/etc/sshd_config' /run/host/
chmod 600 /run/host/host_key
for file in passwd shadow group hosts; do mount --bind '$1/etc/'\$file /etc/\$file; done
mkdir -p /run/home
mount --bind '$1/home' /run/home
mount -t tmpfs tmpfs /home
mkdir /home/bee
mount --move /run/home /home/bee
mount -t tmpfs -o mode=1777 tmpfs /tmp
/usr/sbin/sshd -f /run/host/sshd_config -E /run/host/sshd.log
exec sleep infinity
TEXT
}

# inside DIR NAME COMMAND…
as_root() {
    local dir=$1 name=$2
    shift 2
    nsenter --target "$(init_of "$dir/$name")" --net --pid --mount --uts --wd=/ -- "$@"
}
as_bee() {
    local dir=$1 name=$2
    shift 2
    as_root "$dir" "$name" env -i HOME=/home/bee USER=bee LOGNAME=bee SHELL=/bin/sh \
        PATH=/home/bee/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
        setpriv --reuid bee --regid bee --init-groups --inh-caps=-all -- \
        sh -c 'cd && exec "$@"' sh "$@"
}

# Where the control groups of a machine are, in whichever hierarchies this computer has.
control_groups() {
    local hierarchy
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
        [[ ! -e $hierarchy/cgroup.procs ]] || printf '%s/%s-%s\n' "$hierarchy" "$(basename "$1")" "$2"
    done
}

systemd() {
    local dir=$1 name=$2 group
    [[ -x /lib/systemd/systemd ]] || stop "there is no systemd"
    for group in $(control_groups "$dir" "$name"); do
        mkdir -p "$group" || stop "no control group $group"
        chown -R "$USER_ID" "$group"
    done
    # shellcheck disable=SC2016
    as_root "$dir" "$name" sh -c '
        for group in $1; do echo 0 >"$group/cgroup.procs"; done
        mkdir -p /run/systemd/system /run/user/'"$USER_ID"'
        chown bee:bee /run/user/'"$USER_ID"' && chmod 700 /run/user/'"$USER_ID"'
        exec setpriv --reuid bee --regid bee --init-groups env -i HOME=/home/bee USER=bee \
            XDG_RUNTIME_DIR=/run/user/'"$USER_ID"' PATH=/usr/bin:/bin \
            /lib/systemd/systemd --user --log-target=console' sh "$(control_groups "$dir" "$name")" \
        </dev/null >"$dir/$name/systemd.log" 2>&1 &
    for ((i = 0; i < 200; i++)); do
        if as_bee "$dir" "$name" env XDG_RUNTIME_DIR="/run/user/$USER_ID" \
            systemctl --user show-environment >/dev/null 2>&1; then return; fi
        sleep 0.05
    done
    stop "systemd does not run: $(tail -n 3 "$dir/$name/systemd.log")"
}

await_sshd() {
    for ((i = 0; i < 500; i++)); do
        if as_root "$1" "$2" sh -c '[ -s /run/sshd.pid ]' 2>/dev/null; then return; fi
        sleep 0.02
    done
    stop "sshd of $2 does not run: $(cat "$1/$2/boot.log")"
}

# The first process is killed, and with it all others of its machine.
power_off() {
    local pid
    pid=$(cat "$1/init.pid" 2>/dev/null) || return 0
    rm -f "$1/init.pid"
    kill -KILL "$pid" 2>/dev/null || true
    while [[ -d /proc/$pid ]]; do sleep 0.01; done
}

down() {
    local folder group
    for folder in "$1"/*/ "$1/$SWITCH/"; do power_off "${folder%/}"; done
    for folder in "$1"/*/; do
        for group in $(control_groups "$1" "$(basename "$folder")"); do
            [[ ! -d $group ]] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
        done
    done
}

verb=${1-}
[[ $verb == may || $# -ge 2 ]] || verb=help
shift || true
case $verb in
may) may ;;
up) up "$@" ;;
exec) as_bee "$@" ;;
root) as_root "$@" ;;
cut) in_switch "$1" ip link set "$(cat "$1/$2/port")" down ;;
systemd) systemd "$@" ;;
heal) in_switch "$1" ip link set "$(cat "$1/$2/port")" up ;;
kill) power_off "$1/$2" ;;
down) down "$1" ;;
*)
    usage >&2
    exit 2
    ;;
esac

#!/bin/sh
# supervise.sh ROOT: keeps a hive running where no systemd does. It ends when the hive ends by being
# told to (status 0), or when it is told to itself.
set -u
root=$1
log=$root/run/logs/rbee-hive.log
RBEE_HOME=$root
export RBEE_HOME
mkdir -p "$root/run/logs"

stat=$(cat /proc/$$/stat)
# shellcheck disable=SC2086
set -- ${stat##*)}
printf '%s %s\n' "$$" "${20}" >"$root/run/supervisor.pid"

child='' told=no
trap 'told=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
trap '' HUP

pause=1
while [ "$told" = no ]; do
    if [ "$(($(wc -c <"$log" 2>/dev/null || echo 0)))" -gt 10485760 ]; then mv -f "$log" "$log.1"; fi
    began=$(date +%s)
    (
        if [ -r "$root/hive.env" ]; then
            set -a
            # shellcheck source=/dev/null
            . "$root/hive.env"
            set +a
        fi
        exec "$root/current/rbee-hive"
    ) </dev/null >>"$log" 2>&1 &
    child=$!
    # A signal ends `wait` before the hive has ended.
    while :; do
        wait "$child"
        status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    child=''
    [ "$status" -ne 0 ] || break
    [ "$told" = no ] || break
    if [ $(($(date +%s) - began)) -ge 60 ]; then pause=1; fi
    printf 'supervise: the hive ended with status %s; it starts again in %s s\n' "$status" "$pause" >>"$log"
    sleep "$pause" &
    wait "$!"
    pause=$((pause * 2))
    if [ "$pause" -gt 60 ]; then pause=60; fi
done
rm -f "$root/run/supervisor.pid"

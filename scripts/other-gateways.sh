#!/usr/bin/env bash
# Gets the gateways that the queen is compared with, as far as they can be had: nginx from the system's
# packages, Shepherd Model Gateway from PyPI into the build folder. What cannot be had is said; the
# comparison leaves it out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/requirements.sh
source scripts/requirements.sh
SMG=1.13.0

venv=${CARGO_TARGET_DIR:-$PWD/target}/smg
if [[ ! -x /usr/sbin/nginx ]]; then
    if [[ $(system) == debian ]]; then
        (apt_install nginx-light) || say "nginx could not be installed; the comparison leaves it out."
    else
        say "nginx is not at /usr/sbin/nginx; the comparison leaves it out."
    fi
fi
if [[ ! -x $venv/bin/smg ]]; then
    say "Installing smg $SMG into $venv"
    { python3 -m venv "$venv" &&
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "smg==$SMG"; } ||
        say "smg could not be installed; the comparison leaves it out."
fi

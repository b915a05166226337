#!/usr/bin/env bash
# Obtains a model of scripts/fetch_model.py and prints its path; see fetch-demo-model.sh.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

stop() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

if [[ ${2-} == -* ]]; then
    echo "usage: fetch-demo-model.sh|fetch-gemma-model.sh|fetch-embedding-model.sh [DIR]   (by default \$RBEE_TEST_MODELS or ~/.cache/rbee-test-models)" >&2
    [[ $2 == -h || $2 == --help ]]
    exit
fi
command -v python3 >/dev/null ||
    stop "python3 is missing. Debian, Ubuntu: sudo apt-get install python3 python3-pip. Fedora: sudo dnf install python3-pip. Arch: sudo pacman -S python-pip. macOS: brew install python."
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
    stop "python3 is $(python3 --version 2>&1); 3.9 or later is needed."
python3 -m pip --version >/dev/null 2>&1 ||
    stop "pip is missing for $(command -v python3). Debian, Ubuntu: sudo apt-get install python3-pip. Fedora: sudo dnf install python3-pip. Arch: sudo pacman -S python-pip."
exec python3 "$here/fetch_model.py" "$@"

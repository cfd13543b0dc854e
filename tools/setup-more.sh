#!/bin/sh
# Adds optional packages to the virtual environment: tools/setup-more.sh VENV READY LOCK NAME SIZE [PIP-OPTION...]
# (called by the Makefile). READY is a file in VENV that is touched at the end.
set -eu
venv=$1 ready=$2 lockfile=$3 name=$4 size=$5
shift 5

# As in setup.sh: another make may be changing the same environment.
lock='import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
exec 9>>"$venv.lock"
"$venv/bin/python" -c "$lock" 9>&9 || echo "warning: $venv.lock cannot be locked: run one make at a time" >&2
if [ -f "$ready" ] && [ -z "$(find "$lockfile" "$0" -newer "$ready" 2>/dev/null)" ]; then
    exit 0
fi
echo "adding $name to $venv (once; $size)" >&2
if ! "$venv/bin/python" -m pip --disable-pip-version-check -qq install --no-compile "$@" -r "$lockfile"; then
    echo "error: $name could not be installed: see the message of pip above, fix it, and repeat the command." >&2
    exit 2
fi
touch "$ready"

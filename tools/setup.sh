#!/bin/sh
# Makes the virtual environment: tools/setup.sh VENV PYTHON DEEPSPARSE READY INPUT... (called by the Makefile).
# READY is a file in VENV that is touched at the end; VENV is up to date if no INPUT is newer.
set -eu
venv=$1 python=$2 deepsparse=$3 ready=$4
shift 4

is_ready() {
    [ -f "$ready" ] && [ -z "$(find "$@" -newer "$ready" 2>/dev/null)" ]
}

supported='import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))'
if [ -n "$python" ]; then
    if ! "$python" -c "$supported" 2>/dev/null; then
        echo "error: PYTHON=$python is not a working Python 3.11, 3.12 or 3.13." >&2
        exit 2
    fi
else
    for candidate in python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c "$supported" 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        other=$(python3 -c 'import sys; print("; python3 is %d.%d" % sys.version_info[:2])' 2>/dev/null) || other=
        echo "error: no Python 3.11, 3.12 or 3.13 was found$other: install one (3.11 for DeepSparse), or set PYTHON=/path/to/it." >&2
        exit 2
    fi
fi

if [ -L "$venv" ]; then
    echo "error: $venv is a symbolic link, and setup would empty its target: remove the link first." >&2
    exit 2
fi

# Another make may be setting up the same environment. The kernel frees this lock when the process that holds it ends,
# however it ends; Python takes it on the open file, because not every system has flock(1).
lock='import fcntl, sys; fcntl.flock(9, fcntl.LOCK_EX | int(sys.argv[1]))'
exec 9>>"$venv.lock"
if ! "$python" -c "$lock" 4 9>&9 2>/dev/null; then
    echo "another make is setting up $venv: waiting for it" >&2
    "$python" -c "$lock" 0 9>&9 || echo "warning: $venv.lock cannot be locked: run one make at a time" >&2
fi
if is_ready "$@"; then
    echo "$venv is ready" >&2
    exit 0
fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
removed=
for extra in training:PyTorch:TRAIN cluster:Ray:CLUSTER parquet:pyarrow:PARQUET mlflow:MLflow:MLFLOW; do
    [ ! -f "$ready-${extra%%:*}" ] || removed="$removed ${extra#*:}"
done
echo "setting up $venv with Python $version (once; about a minute)" >&2
if ! "$python" -m venv --clear "$venv"; then
    echo "error: $python cannot make a virtual environment: install its venv module (on Debian and Ubuntu: apt install" \
        "python$version-venv), then run the same command again." >&2
    exit 2
fi
pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check -qq "$@"
}
# LoadGen has wheels for x86-64 only; elsewhere pip builds it from its source distribution.
explain() {
    header='import os, sys, sysconfig; sys.exit(not os.path.isfile(sysconfig.get_path("include") + "/Python.h"))'
    if [ "$(uname -m)" = x86_64 ] || { command -v "${CXX:-c++}" && "$python" -c "$header"; } >/dev/null 2>&1; then
        echo "error: the packages could not be installed: see the message of pip above, then run the same command again."
    else
        echo "error: the packages could not be installed; where LoadGen has no wheel, as here ($(uname -m)), building it" \
            "needs a C++ compiler and Python's headers, which are missing: install them (on Debian and Ubuntu: apt" \
            "install g++ python$version-dev), then run the same command again."
    fi >&2
}
# Python compiles the modules that are imported; compiling all of them would take half of the set-up. The lock is
# complete (pip accepts no dependency without a hash), so that pip need not resolve it again.
if ! pip install --no-compile --no-deps --require-hashes -r requirements.lock; then
    explain
    exit 2
fi
if [ "$deepsparse" = 0 ]; then
    echo "DeepSparse is left out (DEEPSPARSE=0)" >&2
elif [ "$version" != 3.11 ]; then
    echo "DeepSparse needs Python 3.11, but this is $version: it is left out" >&2
elif ! pip install --no-compile --require-hashes -r requirements-deepsparse.lock; then
    echo "DeepSparse could not be installed here: the other engines work without it" >&2
fi
pip install --no-deps --no-build-isolation --editable .
for extra in $removed; do
    echo "${extra%:*} was removed with the old $venv: make setup ${extra#*:}=1 adds it again" >&2
done
touch "$ready"

#!/bin/sh
# Runs the doctor even if set-up failed: tools/doctor.sh VENV PYTHON [OPTION...] (called by the Makefile).
set -u
venv=$1 python=$2
shift 2

here=$(cd "$(dirname "$0")/.." && pwd)
known='import sys; sys.exit(sys.version_info < (3, 9))'  # older versions cannot parse the doctor's code
for candidate in "$venv/bin/python" "$python" python3.11 python3.12 python3.13 python3; do
    if [ -n "$candidate" ] && "$candidate" -c "$known" 2>/dev/null; then
        PYTHONPATH="$here/code${PYTHONPATH:+:$PYTHONPATH}" exec "$candidate" -m harness.doctor "$@"
    fi
done
echo "bad      Python  no working Python 3.9 or newer was found -> install Python 3.11, or set PYTHON=/path/to/it"
exit 1

#!/bin/sh
# Builds the wheel from a copy of its sources: tools/wheel.sh VENV FOLDER (called by the Makefile).
# setuptools reuses the project's build/lib, and would also pack files there that have since been removed from code/.
set -eu
venv=$1 folder=$2
here=$(cd "$(dirname "$0")/.." && pwd)

room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
trap 'exit 130' INT TERM
cp -R "$here/code" "$here/pyproject.toml" "$here/README.md" "$here/LICENSE" "$here/NOTICE" "$room"
find "$room/code" \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +
mkdir -p "$folder"
"$venv/bin/python" -m pip --disable-pip-version-check -q wheel --no-deps --no-build-isolation --no-index \
    -w "$folder" "$room"
for wheel in "$folder"/*.whl; do
    echo "$wheel"
done

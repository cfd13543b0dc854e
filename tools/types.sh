#!/bin/sh
# Checks types: tools/types.sh VENV (called by `make lint` and pre-commit). Without PyTorch, code that calls it is
# checked only as far as is possible without its types.
set -eu
python=$1/bin/python
if "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then
    exec "$python" -m mypy
fi
echo "PyTorch is not installed, so its types are not checked: make setup TRAIN=1 adds it" >&2
exec "$python" -m mypy --disable-error-code=import-not-found --allow-subclassing-any --allow-untyped-decorators \
    --no-warn-unused-ignores --no-warn-return-any

"""Certificates for tests of TLS, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def certificate_in(folder: Path, name: str = "IP:127.0.0.1") -> dict[str, str]:
    """Ray's variables for a new certificate of this subjectAltName, which is its own CA; skips without openssl."""
    cert, private = folder / "cert.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    given = ["-keyout", private, "-out", cert, "-subj", f"/CN={folder.name}", "-addext", f"subjectAltName={name}"]
    try:
        subprocess.run([*made, *given], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    files = {"RAY_TLS_SERVER_CERT": cert, "RAY_TLS_SERVER_KEY": private, "RAY_TLS_CA_CERT": cert}
    return {"RAY_USE_TLS": "1", **{variable: str(path) for variable, path in files.items()}}

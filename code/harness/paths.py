"""The project's own folders."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The top of the submission: this repository."""
DATA_DIR = ROOT / "build" / "data"
CACHE_DIR = ROOT / "build" / "cache"
MODELS_DIR = ROOT / "build" / "models"
"""What was fetched, as NAME.onnx beside its record NAME.json, and what was built, under other names."""

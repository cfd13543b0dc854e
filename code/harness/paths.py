"""The project's own folders."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The root of the submission: this repository."""
DATA_DIR = ROOT / "build" / "data"
CACHE_DIR = ROOT / "build" / "cache"
MODELS_DIR = ROOT / "build" / "models"
"""Fetched models as NAME.onnx with their record NAME.json, and built models under other names."""

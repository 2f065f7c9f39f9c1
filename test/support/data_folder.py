"""Where the recorded sequences are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("VGGT_ROS_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def recorded(name: str) -> Path:
    """Return the folder of a recorded sequence; skips the test where it is missing."""
    if not (DATA / name).is_dir():
        pytest.skip(f"needs the recorded sequence {name} in VGGT_ROS_DATA ({DATA})")
    return DATA / name

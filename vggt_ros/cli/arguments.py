"""Types of arguments of command lines, which argparse checks before any work begins."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from vggt_ros.storage.files import why_not_writable


def positive(text: str) -> float:
    """Return a positive number; argparse reports anything else."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def count(text: str) -> int:
    """Return a whole number from 1 up; argparse reports anything else."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def new_file(text: str) -> Path:
    """Return the path of a file that can be written; argparse reports anything else."""
    path = Path(text).expanduser()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: permission denied")
    return path


def new_folder(text: str) -> Path:
    """Return the path of a folder that can be written, and made where it is missing; argparse reports anything else."""
    if reason := why_not_writable(Path(text)):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {reason}")
    return Path(text).expanduser()

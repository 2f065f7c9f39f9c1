"""Types of arguments of command lines, which argparse checks before any work begins."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from pathlib import Path

from vggt_ros.storage.files import why_not_writable

_SMALLEST = 1e-6
"""Least positive number; times are nanoseconds in 64 bits."""


def positive(text: str) -> float:
    """Return a positive number, neither tiny nor huge; argparse reports anything else."""
    with contextlib.suppress(ValueError):
        if _SMALLEST <= (value := float(text)) <= 1 / _SMALLEST:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number, from {_SMALLEST:g} to {1 / _SMALLEST:g}")


def not_negative(text: str) -> float:
    """Return zero or a positive number; argparse reports anything else."""
    return 0.0 if re.fullmatch(r"0+(\.0*)?", text) else positive(text)


def count(text: str) -> int:
    """Return a whole number from 1 up; argparse reports anything else."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def given_path(text: str) -> Path:
    """Return a path, whose `~` is expanded: shells leave it as it is behind `=`. argparse reports what names nothing.

    Such as an empty text, which `Path` takes as the folder that one is in.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; if it is from a variable of the shell, that is not set")
    path = Path(os.path.expanduser(text))
    if text.startswith("~") and path == Path(text):
        raise argparse.ArgumentTypeError(f"{text}: {path.parts[0]} is the home of no user; a file of that name is "
                                         f"./{text}")
    try:
        path.resolve().exists()
    except (OSError, RuntimeError) as error:  # too long, not to be read, or links in a circle
        raise argparse.ArgumentTypeError(f"{text[:100]}: {getattr(error, 'strerror', error)}") from error
    return path


def new_file(text: str) -> Path:
    """Return the path of a file that can be written; argparse reports anything else."""
    path = given_path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: permission denied")
    return path


def new_folder(text: str) -> Path:
    """Return the path of a folder that can be written, and made where it is missing; argparse reports anything else."""
    path = given_path(text)
    if reason := why_not_writable(path):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {reason}")
    return path


def add_settings(parser: argparse.ArgumentParser, text: str = "change a setting") -> None:
    """Add `--set`, which changes a setting."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)

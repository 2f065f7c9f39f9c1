"""Which files of a bag can be read.

A robot that loses its power leaves a rosbag2 without metadata.yaml, or one whose last file is cut off. The other files
are whole, and are read without them.
"""

from __future__ import annotations

import re
from pathlib import Path

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from vggt_ros.sequences.image_list import storage_files
from vggt_ros.sequences.sequence import SequenceError

_CURES = {".mcap": "`mcap recover` mends an unfinished one", ".db3": "`.recover` of sqlite3 mends an unfinished one",
          ".bag": "`rosbag reindex` mends an unfinished one"}


def reader_of(files: list[Path]) -> AnyReader:
    """Return a reader, not opened yet, of a bag, or of several files as one."""
    return AnyReader(files, default_typestore=get_typestore(Stores.ROS2_JAZZY))


def readable(path: Path) -> tuple[list[Path], str]:
    """Return what `reader_of` can open of a bag, and what it lacks then, as the end of a sentence; empty if nothing.

    Raises:
        SequenceError: nothing of it can be read; the text has the reason of each file.

    """
    if not (problem := _problem(path)):
        return [path], ""
    files = storage_files(path)
    if len({re.sub(r"_\d+$", "", file.stem) for file in files}) > 1:
        raise SequenceError(f"{path}: {problem}, and files of several bags: name one of them, such as {files[0]}")
    problems = {file: reason for file in files if (reason := _problem(file))}
    whole = [file for file in files if file not in problems]
    lacking = "; ".join(f"{file.name}: {reason}" for file, reason in problems.items()) or problem
    if not whole:
        raise SequenceError(f"{path}: not a readable bag ({lacking})")
    return whole, f"{', '.join(file.name for file in whole)} alone, since not all of the bag can be read ({lacking})"


def _problem(path: Path) -> str:
    """Return why a bag, or one of its files, cannot be opened, and the cure; empty if it can."""
    if path.is_dir() and not (path / "metadata.yaml").exists():
        return "there is no metadata.yaml, which `ros2 bag reindex` writes"
    try:
        with reader_of([path]):
            return ""
    except Exception as error:  # the parser of a damaged file may raise anything
        cure = f"; {_CURES[path.suffix]}" if path.suffix in _CURES else ""
        return f"{' '.join(str(error).split())[:300].rstrip('.')}{cure}"

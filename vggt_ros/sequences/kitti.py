"""KITTI's odometry recordings: `sequences/NN` with `image_0` to `image_3`, `times.txt` and `calib.txt`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, pose
from vggt_ros.sequences.sequence import SequenceError
from vggt_ros.storage.files import parse_stamp, read_lines


def camera_number(folder: Path) -> int | None:
    """Return the number of the camera whose images are in a folder, 0 to 3; None if it is none of KITTI's."""
    match = re.fullmatch(r"image_([0-3])", folder.resolve().name)
    return int(match[1]) if match else None


def times(folder: Path, files: list[Path]) -> list[int] | None:
    """Return the stamps, nanoseconds, of a camera's images by the numbers in their names; None without `times.txt`.

    Raises:
        SequenceError: a line is no time, or there is none for one of the images.
        FileError: the file is not text.

    """
    path = folder.resolve().parent / "times.txt"
    if camera_number(folder) is None or not path.exists() or not all(file.stem.isdecimal() for file in files):
        return None
    stamps = read_times(path)
    if (last := max(int(file.stem) for file in files)) >= len(stamps):
        raise SequenceError(f"{path}: it has {len(stamps)} times, and none for image {last}, counted from 0")
    return [stamps[int(file.stem)] for file in files]


def read_times(path: Path) -> list[int]:
    """Return the times of a file with one a line, nanoseconds; raises FileError or SequenceError."""
    try:
        return [parse_stamp(line) for line in read_lines(path) if line.strip()]
    except ValueError as error:
        raise SequenceError(f"{path}: expected one time a line, in seconds ({error})") from error


def projection(path: Path, number: int) -> NDArray[np.float64]:
    """Return the projection matrix (3, 4) of a rectified camera in `calib.txt`; raises FileError or SequenceError."""
    line = next((line for line in read_lines(path) if line.startswith(f"P{number}:")), "")
    try:
        matrix = np.array([float(word) for word in line.split()[1:]]).reshape(3, 4)
        np.linalg.inv(matrix[:, :3])
    except (ValueError, np.linalg.LinAlgError) as error:
        raise SequenceError(f"{path}: no line `P{number}:` with the 12 numbers of a projection ({error})") from error
    return matrix


def first_camera(path: Path, number: int) -> Array:
    """Return the pose (4, 4) of a camera in the first one; raises FileError or SequenceError."""
    matrix = projection(path, number)
    return pose(np.eye(3), -np.linalg.inv(matrix[:, :3]) @ matrix[:, 3])

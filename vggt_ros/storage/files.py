"""Files that other programs read: point clouds as PLY, trajectories in TUM's format with exact stamps, pictures."""

from __future__ import annotations

import codecs
import os
import re
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, matrix_from_quaternion, pose, quaternion_from_matrix
from vggt_ros.windows.point_cloud import PointCloud

_VERTEX = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("nx", "<f4"), ("ny", "<f4"), ("nz", "<f4"),
                    ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("confidence", "<f4")])
_POSITION, _NORMAL, _COLOR = ("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue")
_PLY_NAMES = {"f4": "float", "u1": "uchar"}


_NUMBER = re.compile(r"\+?(\d{1,40}(\.\d{0,60})?|\.\d{1,60})([eE][+-]?\d{1,2})?")
_MIN_NANOSECONDS = 10**17
"""Nanoseconds since 1970 are more, since 1973; stamps are 64 bits."""


class FileError(ValueError):
    """A file is missing, damaged or of another format; the text names it and says why."""


def parse_stamp(text: str) -> int:
    """Return the nanoseconds of a number of seconds, exactly: a float64 of a Unix time resolves 200 ns only.

    It may have an exponent and any number of decimals, as numpy writes it; digits beyond nanoseconds are rounded. A
    whole number too large for seconds is taken as nanoseconds, as in EuRoC's files.

    Raises:
        ValueError: not a number, negative, or so large that its unit is unclear.

    """
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a time in seconds")
    seconds = Decimal(text.strip())
    nanoseconds = (seconds * 10**9).to_integral_value()
    if nanoseconds < 2**63:
        return int(nanoseconds)
    if _MIN_NANOSECONDS <= seconds < 2**63 and seconds == seconds.to_integral_value():
        return int(seconds)
    raise ValueError(f"{text!r} is too large for a time in seconds; give seconds, or whole nanoseconds")


def is_name(word: str) -> bool:
    """Return True if the first word of a table is the name of a column."""
    return word.isalpha() and word.lower() not in ("nan", "inf")


def format_stamp(stamp: int) -> str:
    """Return nanoseconds as seconds with nine decimals."""
    return f"{int(stamp) // 10**9}.{int(stamp) % 10**9:09d}"


def write_trajectory(path: Path, stamps: NDArray[np.int64], world_camera: Array) -> None:
    """Write poses (n, 4, 4) in TUM's format: `timestamp tx ty tz qx qy qz qw`."""
    with path.open("w") as file:
        file.write("# timestamp tx ty tz qx qy qz qw (world <- camera, optical axes)\n")
        for stamp, matrix in zip(stamps, world_camera, strict=True):
            values = (*matrix[:3, 3], *quaternion_from_matrix(matrix[:3, :3]))
            file.write(f"{format_stamp(stamp)} " + " ".join(f"{value:.9f}" for value in values) + "\n")


def read_trajectory(path: Path) -> tuple[NDArray[np.int64], Array]:
    """Return stamps, nanoseconds (n,), and poses (n, 4, 4) of a file in TUM's format, sorted by time.

    Raises:
        FileError: the file is missing, empty, or a line is not eight numbers.

    """
    stamps, poses = [], []
    for number, line in enumerate(read_lines(path), 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#") or (number == 1 and is_name(words[0])):
            continue
        try:
            x, y, z, *quaternion = _numbers(words[1:])
            stamps.append(parse_stamp(words[0]))
        except ValueError as error:
            raise FileError(f"{path}, line {number}: expected `timestamp tx ty tz qx qy qz qw` ({error})") from error
        poses.append(pose(matrix_from_quaternion(np.array(quaternion)), np.array([x, y, z])))
    if not stamps:
        raise FileError(f"{path}: there are no poses in it")
    order = np.argsort(stamps, kind="stable")
    return np.array(stamps, np.int64)[order], np.array(poses)[order]


def _numbers(words: list[str]) -> list[float]:
    """Return the seven numbers of a pose; raises ValueError if they are none."""
    if len(words) != 7:
        other = "; `evo_traj` converts those of KITTI and EuRoC" if len(words) in (11, 16) else ""
        raise ValueError(f"{len(words)} values after the time{other}")
    values = [float(word) for word in words]
    if not np.isfinite(values).all() or not any(values[3:]):
        raise ValueError("not finite, or without a rotation")
    return values


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, also with a byte order mark; raises FileError if it is missing or not text."""
    try:
        if path.is_dir():
            raise FileError(f"{path}: it is a folder; name a file")
        data = path.read_bytes()
        encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        return data.decode(encoding).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: {getattr(error, 'strerror', None) or 'not a text file'}") from error


def output_folder(path: Path, *inputs: Path) -> Path:
    """Create a folder for results before the work begins, and return it.

    Raises:
        FileError: it cannot be written, or is one of the inputs: results would be taken for images the next time.

    """
    if any(path.resolve() == given.resolve() for given in inputs):
        raise FileError(f"{path}: it is the input, too; name another folder for the results")
    if path.exists() and not path.is_dir():
        raise FileError(f"{path}: it is a file; name a folder for the results")
    if (path / "map.json").exists():
        raise FileError(f"{path}: a map is saved there, whose files are not overwritten; name another folder for the "
                        "results")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise FileError(f"{path}: results cannot be written there: {error.strerror or error}") from error
    return path


def why_not_writable(folder: Path) -> str:
    """Return why nothing can be written into a folder, which may have to be made; empty if it can.

    Nothing is made, but in a file system without blocks, such as /proc: there the kernel grants root all access.
    """
    try:
        folder = folder.resolve()
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not existing.is_dir():
            return f"{existing} is a file, not a folder"
        if os.statvfs(existing).f_flag & os.ST_RDONLY:
            return f"{existing} is on a file system that is mounted read-only"
        if not os.access(existing, os.W_OK | os.X_OK):
            return f"{existing} may not be written by this user"
        if os.statvfs(existing).f_blocks == 0:
            try:
                os.rmdir(tempfile.mkdtemp(prefix=".vggt_ros_", dir=existing))
            except OSError as error:
                return f"{existing} keeps no folders: {error.strerror}"
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or error}"
    except RuntimeError:
        return f"{folder} cannot be found: its links go in a circle"
    return ""


def write_picture(path: Path, image: NDArray[Any], png_compression: int | None = None) -> None:
    """Write an image, RGB (h, w, 3) or gray (h, w), in the format of the file's name, or as PNG if that names none.

    Raises:
        FileError: the file cannot be written, such as on a full disk, of which OpenCV says nothing.

    """
    kind = path.suffix if cv2.haveImageWriter(path.name) else ".png"
    options = [] if png_compression is None else [cv2.IMWRITE_PNG_COMPRESSION, png_compression]
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    try:
        path.write_bytes(cv2.imencode(kind, pixels, options)[1].tobytes())
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error


def write_ply(path: Path, cloud: PointCloud) -> None:
    """Write a cloud as binary PLY: x y z, normal nx ny nz, red green blue, confidence."""
    vertices = np.empty(len(cloud), _VERTEX)
    columns = (*cloud.points.T, *cloud.normals.T, *cloud.colors.T, cloud.confidence)
    for name, values in zip(_VERTEX.names or (), columns, strict=True):
        vertices[name] = values
    properties = [f"property {_PLY_NAMES[_VERTEX[name].str[1:]]} {name}" for name in _VERTEX.names or ()]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(cloud)}", *properties, "end_header", ""]
    with path.open("wb") as file:
        file.write("\n".join(header).encode())
        file.write(vertices.tobytes())


def read_ply(path: Path) -> PointCloud:
    """Return the cloud of a PLY file that `write_ply` wrote; without normals, as it once was, they are zero.

    Raises:
        FileError: the file is missing, of another kind, or truncated.

    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
    header, end, body = data.partition(b"end_header\n")
    names = [line.split()[-1] for line in header.decode(errors="replace").splitlines() if line.startswith("property")]
    known = [name for name in _VERTEX.names or () if name in names]
    vertex = np.dtype([(name, _VERTEX[name]) for name in known])
    if not end or not header.startswith(b"ply\nformat binary_little_endian") or names != known \
            or set(_VERTEX.names or ()) - set(known) - set(_NORMAL):
        raise FileError(f"{path}: not a PLY file written by this package")
    if len(body) != vertex.itemsize * int(header.split(b"element vertex ")[1].split()[0]):
        raise FileError(f"{path}: the file is truncated")
    vertices = np.frombuffer(body, vertex)
    points, colors = (np.stack([vertices[name] for name in group], axis=1) for group in (_POSITION, _COLOR))
    normals = (np.stack([vertices[name] for name in _NORMAL], axis=1) if set(_NORMAL) <= set(known)
               else np.zeros_like(points))
    return PointCloud(points, colors, vertices["confidence"].copy(), normals)

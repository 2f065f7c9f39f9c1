"""Ground truth beside recordings: trajectories of TUM RGB-D, of EuRoC and of KITTI, as poses of the camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, matrix_from_quaternion, pose
from vggt_ros.sequences import kitti
from vggt_ros.sequences.sequence import SequenceError, Truth
from vggt_ros.storage.files import parse_stamp, read_lines, read_trajectory

FORMATS = ("groundtruth.txt of TUM, `timestamp tx ty tz qx qy qz qw`; mav0/state_groundtruth_estimate0/data.csv of "
           "EuRoC, with mav0/cam0/sensor.yaml; poses/NN.txt of KITTI, with sequences/NN/times.txt; or a bag with "
           "geometry_msgs/PoseStamped")
_EUROC = "state_groundtruth_estimate0"


def find_truth(folder: Path) -> Truth | None:
    """Return the ground truth in a folder, or where EuRoC and KITTI keep that of the camera whose folder it is.

    Raises:
        FileError, SequenceError: a file has another format, or what belongs to it is missing.

    """
    folder = folder.resolve()
    if (folder / "groundtruth.txt").exists():
        return read_trajectory(folder / "groundtruth.txt")
    euroc = (folder / "mav0" / "cam0", folder / "cam0", folder, folder.parent)
    for camera in euroc:
        if (csv := camera.parent / _EUROC / "data.csv").exists():
            return _euroc(csv, camera if camera.name.startswith("cam") else csv.parent.parent / "cam0")
    number = kitti.camera_number(folder)
    sequence = folder if number is None else folder.parent
    poses = sequence.parent.parent / "poses" / f"{sequence.name}.txt"
    if not poses.exists() or not (sequence / "times.txt").exists():
        return None
    stamps, world_first = _kitti(poses, sequence / "times.txt")
    return stamps, world_first @ (np.eye(4) if not number else kitti.first_camera(sequence / "calib.txt", number))


def read_truth(path: Path) -> Truth:
    """Return the ground truth in a file of one of the `FORMATS`.

    Raises:
        FileError, SequenceError: it is missing, or has none of these formats; what belongs to it is missing.

    """
    words = next((line.replace(",", " ").split() for line in read_lines(path) if line and line[0] != "#"), [])
    if len(words) == 17:
        return _euroc(path, path.resolve().parent.parent / "cam0")
    if len(words) == 12:
        places = (path.parent / "times.txt", path.resolve().parent.parent / "sequences" / path.stem / "times.txt")
        times = next((place for place in places if place.exists()), None)
        if times is None:
            raise SequenceError(f"{path}: poses of KITTI, whose times are missing: expected is "
                                f"{' or '.join(map(str, places))}")
        return _kitti(path, times)
    return read_trajectory(path)


def _euroc(path: Path, camera: Path) -> Truth:
    """Return the poses of a camera: `timestamp [ns], p x y z, q w x y z, ...` of the body, times T_BS of the camera."""
    stamps, rows = _table(path, 17)
    world_body = np.array([pose(matrix_from_quaternion(row[[4, 5, 6, 3]]), row[:3]) for row in rows])
    return stamps, world_body @ _body_camera(camera / "sensor.yaml")


def _body_camera(path: Path) -> Array:
    """Return T_BS (4, 4) of EuRoC's sensor.yaml; raises SequenceError."""
    import yaml

    text = "\n".join(line for line in read_lines(path) if not line.startswith("%YAML"))
    try:
        found: Any = yaml.safe_load(text)
        matrix = np.array(found["T_BS"]["data"], np.float64).reshape(4, 4)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SequenceError(f"{path}: no T_BS of 16 numbers, the pose of the camera in the body ({error})") from error
    if not np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-3) or np.linalg.det(matrix) < 0:
        raise SequenceError(f"{path}: T_BS is no rotation with a translation")
    return matrix


def _kitti(path: Path, times: Path) -> Truth:
    """Return the poses of the first camera: 12 numbers a line, the upper rows of a matrix."""
    stamps = kitti.read_times(times)
    _, rows = _table(path, 12, has_stamps=False)
    if len(rows) != len(stamps):
        raise SequenceError(f"{path} has {len(rows)} poses, {times} has {len(stamps)} times")
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    matrices[:, :3] = rows.reshape(-1, 3, 4)
    return np.array(stamps, np.int64), matrices


def _table(path: Path, columns: int, has_stamps: bool = True) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the stamps (n,) of the first column, if it has them, and the other columns (n, k), sorted by time."""
    stamps, rows = [], []
    for number, line in enumerate(read_lines(path), 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if len(words) != columns:
                raise ValueError(f"it has {len(words)}")
            stamps.append(parse_stamp(words.pop(0)) if has_stamps else number)
            rows.append([float(word) for word in words])
        except ValueError as error:
            raise SequenceError(f"{path}, line {number}: expected {columns} numbers ({error})") from error
    if not rows or not np.isfinite(rows).all():
        raise SequenceError(f"{path}: {'not all of its poses are finite' if rows else 'there are no poses in it'}")
    order = np.argsort(stamps, kind="stable")
    return np.array(stamps, np.int64)[order], np.array(rows)[order]

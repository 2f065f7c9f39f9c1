"""Saving a map: a folder of its own inside the folder of saved maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggt_ros.files import write_ply, write_trajectory
from vggt_ros.geometry import Array
from vggt_ros.solution import PointCloud


class StorageError(ValueError):
    """A map cannot be saved; the text says why."""


def map_folder(folder: str, name: str) -> Path:
    """Return the folder of the map `name` inside `folder`.

    Raises:
        StorageError: the name is empty, or leads out of the folder.

    """
    inside = Path(folder).expanduser().resolve()
    target = (inside / name).resolve()
    if target == inside or not target.is_relative_to(inside):
        raise StorageError(f"map.name {name!r} does not name a folder inside map.folder, {inside}")
    return target


def save_map(folder: Path, cloud: PointCloud, stamps: NDArray[np.int64], map_camera: Array) -> None:
    """Write `map.ply` and `trajectory.txt` (TUM format, camera poses in optical axes) into `folder`.

    Raises:
        StorageError: there is nothing to save yet.
        OSError: the folder cannot be written.

    """
    if len(stamps) == 0:
        raise StorageError("nothing is mapped yet")
    folder.mkdir(parents=True, exist_ok=True)
    write_ply(folder / "map.ply", cloud)
    write_trajectory(folder / "trajectory.txt", stamps, map_camera)

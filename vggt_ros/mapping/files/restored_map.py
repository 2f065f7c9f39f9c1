"""A saved map, restored beside the present one, which it replaces only when nothing of it can fail any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vggt_ros.config import Config
from vggt_ros.mapping.dense.surface import Surface
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.storage.map_folder import StorageError
from vggt_ros.storage.map_record import MapRecord


@dataclass(frozen=True, eq=False)
class RestoredMap:
    """A map that `Slam` can continue from: the record, and the atlas and the points that were made of it."""

    record: MapRecord
    atlas: Atlas
    surface: Surface


def restore(record: MapRecord, config: Config, name: str = "the map") -> RestoredMap:
    """Restore a record that was checked.

    Raises:
        StorageError: the poses and points of the map, which errors call `name`, cannot be computed from it.

    """
    atlas, surface = Atlas(config), Surface(config.map)
    try:
        atlas.restore(record)
        solution = atlas.solution()
        surface.update(solution, complete=True)
        finite = all(np.isfinite(values).all() for values in (solution.map_camera, solution.scale,
                                                              surface.cloud(solution).points))
    except Exception as error:  # whatever the checks let pass must not cost the present map
        raise StorageError(f"{name}: cannot be restored ({error!r})") from error
    if not finite:
        raise StorageError(f"{name}: cannot be restored (a pose or a point is not finite)")
    return RestoredMap(record, atlas, surface)

"""What of the map a receiver does not have yet: the points of keyframes that are new, have changed or are gone."""

from __future__ import annotations

import weakref

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.dense.surface import Surface
from vggt_ros.windows.point_cloud import PointCloud
from vggt_ros.windows.solution import Solution


class MapUpdates:
    """Compares the points of the map with what was taken before.

    A map is a set of keyframes with points. Who replaces the points of a keyframe by those of every update has the map.
    """

    def __init__(self) -> None:
        """Begin with a receiver that has nothing."""
        self._surface: weakref.ref[Surface] | None = None  # weak, so that the points of a map before a reset are freed
        self._map_world: Array | None = None
        self._version = 0
        self._stale: set[int] = set()
        self._known: set[int] = set()  # keyframes that the receiver has
        self._gone: set[int] = set()

    def invalidate(self) -> None:
        """Count all points as changed: there is a new receiver, or an update was lost."""
        self._map_world = None

    def refresh(self, surface: Surface, map_world: Array) -> bool:
        """Compare with the points at present; return whether anything is to be taken.

        Args:
            surface: the points of the map; another object is another map.
            map_world: 4x4 pose of the world of the map in the receiver's frame.

        """
        if self._surface is None or surface is not self._surface() or self._map_world is None \
                or not np.array_equal(map_world, self._map_world):
            self._surface, self._map_world, self._version = weakref.ref(surface), map_world.copy(), 0
        changes, present = surface.changes(self._version), set(surface.keyframes)
        self._stale = (self._stale | set(changes.updated)) & present
        self._version = changes.version
        self._gone = self._known - present
        return bool(self._stale or self._gone)

    def take(self, surface: Surface, solution: Solution, limit: int | None = None) -> dict[int, PointCloud]:
        """Return keyframe to its points in the receiver's frame, after `refresh`; no points for those that are gone.

        The newest keyframes come first. With more than `limit` points, the others are left for the next call.
        """
        assert self._map_world is not None
        taken = {keyframe: PointCloud.empty() for keyframe in sorted(self._gone)}
        count = 0
        for keyframe in sorted(self._stale, reverse=True):
            cloud = surface.keyframe_cloud(keyframe, solution)
            if limit is not None and count and count + len(cloud) > limit:
                break
            taken[keyframe] = cloud.transformed(self._map_world)
            count += len(cloud)
        self._known = (self._known | taken.keys()) - self._gone
        self._stale -= taken.keys()
        self._gone = set()
        return taken

    def skip(self, surface: Surface) -> None:
        """Count everything as taken, after `refresh`: the receiver gets the whole map."""
        self._known, self._stale, self._gone = set(surface.keyframes), set(), set()

    @property
    def waiting(self) -> int:
        """Number of keyframes that are left for the next call of `take`."""
        return len(self._stale)

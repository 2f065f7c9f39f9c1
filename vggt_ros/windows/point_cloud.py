"""Colored points with normals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points of a surface.

    Attributes:
        points: float32 (n, 3).
        colors: RGB, uint8 (n, 3).
        confidence: rank in [0, 1], float32 (n,).
        normals: float32 (n, 3), unit vectors on the side from which the surface was seen; zero where unknown.

    """

    points: NDArray[np.float32]
    colors: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    normals: NDArray[np.float32]

    @staticmethod
    def empty() -> PointCloud:
        """Return a cloud without points."""
        return PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32),
                          np.zeros((0, 3), np.float32))

    @staticmethod
    def concatenate(clouds: Sequence[PointCloud]) -> PointCloud:
        """Return all points of several clouds in one."""
        if not clouds:
            return PointCloud.empty()
        return PointCloud(np.concatenate([cloud.points for cloud in clouds]),
                          np.concatenate([cloud.colors for cloud in clouds]),
                          np.concatenate([cloud.confidence for cloud in clouds]),
                          np.concatenate([cloud.normals for cloud in clouds]))

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.points)

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> PointCloud:
        """Return the points at `rows`, indices or a mask."""
        return PointCloud(self.points[rows], self.colors[rows], self.confidence[rows], self.normals[rows])

    def transformed(self, target_source: Array, scale: float = 1.0) -> PointCloud:
        """Return the cloud in the target frame of a similarity: `target_source`, a 4x4 pose, after `scale`."""
        rotation = target_source[:3, :3].T.astype(np.float32)
        points = (np.float32(scale) * self.points) @ rotation + target_source[:3, 3].astype(np.float32)
        return PointCloud(np.asarray(points, np.float32), self.colors, self.confidence, self.normals @ rotation)

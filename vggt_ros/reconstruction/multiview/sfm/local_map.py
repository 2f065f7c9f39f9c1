"""The newest solved keyframes of the reconstructor, with their tracks and points, which the next window continues.

Most of a window was solved before. Its known poses and points are the beginning; its new keyframes are registered by
them, and a local bundle adjustment over the newest keyframes, with the older ones fixed, connects windows by everything
that both see (as the local mapping of ORB-SLAM, Mur-Artal et al., TRO 2015).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.bundle import Scene
from vggt_ros.reconstruction.adjustment.lens import MIN_RADIAL
from vggt_ros.reconstruction.multiview.matching.views import View
from vggt_ros.windows.keyframe import Window

Mask = NDArray[np.bool_]
DepthMap = tuple[NDArray[np.float32], NDArray[np.float32]]

MAX_VIEWS = 16
"""Most keyframes of a local map with the new ones of the window that continues it."""
FREE_VIEWS = 10
"""Newest keyframes whose poses are free in the local bundle adjustment; the older ones are fixed."""


@dataclass(frozen=True, eq=False)
class LocalMap:
    """Solved keyframes in one frame and unit.

    Attributes:
        views: the S keyframes, oldest first.
        scene: their poses, focal lengths and n points.
        tracks: (n, S, 2), pixels in the images, only of inliers, else NaN.
        reference: (n,), view whose patch defines the point.
        depth: by keyframe id, depth and its relative sigma, each float32 (h, w).
        cost: mean robust cost of the solution, square pixels.
        distance: median depth of its points, or of the last ones that were known before a turn on the spot.
        radial: radial distortion that it was solved with.
        numbers: (n,), numbers of the points, which they keep in the local maps that continue it.

    """

    views: tuple[View, ...]
    scene: Scene
    tracks: Array
    reference: NDArray[np.intp]
    depth: dict[int, DepthMap]
    cost: float
    distance: float = 1.0
    radial: float = 0.0
    numbers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the keyframes."""
        return tuple(view.keyframe.id for view in self.views)

    def is_continued_by(self, window: Window) -> bool:
        """Return whether a window has the newest keyframe, and else only known keyframes and newer ones."""
        newest = self.ids[-1]
        shared = [k for k in window.shared if k in self.ids]
        return newest in shared and all(k in window.shared or k > newest for k in window.ids)

    def is_outdated(self, radial: float) -> bool:
        """Return whether the radial distortion is another one than it was solved with."""
        return abs(radial - self.radial) >= MIN_RADIAL

    def newest(self, count: int) -> LocalMap:
        """Return the newest `count` keyframes, and the points that two of them see."""
        kept = slice(max(0, len(self.views) - count), None)
        first = len(self.views) - len(self.views[kept])
        rows = np.flatnonzero((~np.isnan(self.tracks[:, kept, 0])).sum(1) >= 2)
        views = self.views[kept]
        return replace(self, views=views, scene=self.scene.part(kept, rows), tracks=self.tracks[rows][:, kept],
                       reference=np.maximum(self.reference[rows] - first, -1), numbers=self.numbers[rows],
                       depth={view.keyframe.id: self.depth[view.keyframe.id] for view in views})

    def of_tracks(self, rows: NDArray[np.intp]) -> LocalMap:
        """Return it with these of its tracks only."""
        return replace(self, scene=replace(self.scene, points=self.scene.points[rows]), tracks=self.tracks[rows],
                       reference=self.reference[rows], numbers=self.numbers[rows])

    def rescaled_depth(self, scene: Scene, tracks: Array) -> dict[int, DepthMap]:
        """Return the depth of the keyframes in a newer solution.

        Its `scene` and `tracks` begin with the views and points of this local map. Of each keyframe, depth changes by
        the median ratio of the depths of its points.
        """
        count, views = len(self.scene.points), len(self.views)
        before = self.scene.in_cameras()[..., 2]
        after = scene.part(slice(views), slice(count)).in_cameras()[..., 2]
        seen = ~np.isnan(self.tracks[..., 0]) & ~np.isnan(tracks[:count, :views, 0]) & (before > 0) & (after > 0)
        ratios = [float(np.median(after[seen[:, s], s] / before[seen[:, s], s])) if seen[:, s].sum() >= 10 else 1.0
                  for s in range(views)]
        return {view.keyframe.id: (self.depth[view.keyframe.id][0] * np.float32(ratio),
                                   self.depth[view.keyframe.id][1])
                for view, ratio in zip(self.views, ratios, strict=True)}


def numbered(before: LocalMap | None, count: int, window: int) -> NDArray[np.int64]:
    """Return numbers (count,) of points: those of the local map `before` come first, others are by the `window`."""
    known = np.zeros(0, np.int64) if before is None else before.numbers
    first = max(window << 32, int(known.max(initial=-1)) + 1)  # a second choice of keyframes goes on
    return np.concatenate([known, first + np.arange(count - len(known), dtype=np.int64)])

"""The map: windows in a pose graph, keyframes in windows, and submaps where the chain of windows broke."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vggt_ros.alignment import View, align
from vggt_ros.camera import resize_intrinsics
from vggt_ros.config import Config
from vggt_ros.geometry import Array, Sim3
from vggt_ros.pose_graph import PoseGraph
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.scale import UNKNOWN, initial_scale
from vggt_ros.solution import KeptKeyframe, Solution
from vggt_ros.windows import Keyframe, Window


@dataclass(frozen=True, eq=False)
class _Placed:
    """A solved keyframe: the window that placed it, its pose there, and its submap."""

    stamp: int
    submap: int
    window: int
    window_camera: Array


class Atlas:
    """Everything solved so far. A keyframe belongs to the first window that solved it.

    Attributes:
        submap: the submap that grows; -1 before the first.
        kept: keyframe id to what is kept of it.

    """

    def __init__(self, config: Config) -> None:
        """Begin empty."""
        self._config = config
        self._graph = PoseGraph()
        self._placed: dict[int, _Placed] = {}
        self._version = 0
        self._scale_state = UNKNOWN
        self.kept: dict[int, KeptKeyframe] = {}
        self.submap = -1

    def knows(self, keyframe: int) -> bool:
        """Return True if a keyframe is solved in the submap that grows."""
        return keyframe in self._placed and self._placed[keyframe].submap == self.submap

    def attach(self, window: Window, geometry: WindowGeometry) -> None:
        """Align a window to the submap that grows by the keyframes that both know, and add it to the graph.

        Raises:
            AlignmentRefused: the overlap does not determine its place, or contradicts itself.

        """
        kept = keep(window, geometry, self._config.map.kept_width)
        shared = [k for k in geometry.keyframe_ids if self.knows(k)]
        reference = self._reference(shared)
        reference_map = self._graph.map_window[reference].inverse() if shared else Sim3.identity()
        known = {}
        for keyframe in shared:
            placed = self._placed[keyframe]
            reference_owner = reference_map @ self._graph.map_window[placed.window]
            known[keyframe] = View(reference_owner.apply_pose(placed.window_camera), self.kept[keyframe],
                                   reference_owner.scale)
        views = {k: View(camera, kept[k])
                 for k, camera in zip(geometry.keyframe_ids, geometry.window_camera, strict=True)}
        alignment = align(known, views, self._config.alignment)
        self._graph.add_window(window.id, reference, alignment.reference_window, alignment.covariance)
        self._take(window, geometry, kept)

    def begin_submap(self, window: Window, geometry: WindowGeometry) -> None:
        """Begin a submap with a window.

        The first lies at the map's origin. Where a later one lies is not known: until a loop tells, it begins where
        the newest keyframe of the submap before was, and takes over its median depth.
        """
        if self.submap < 0:
            scale, self._scale_state = initial_scale(geometry, self._config.scale)
            map_window = Sim3.from_pose(np.eye(4), scale)
        else:
            newest = max(self._placed)
            placed, before = self._placed[newest], self._graph.map_window[self._placed[newest].window]
            depth = float(np.nanmedian(self.kept[newest].depth.astype(np.float32))) * before.scale
            scale = 1.0 if geometry.metric else depth / float(np.nanmedian(geometry.depth))
            map_window = Sim3.from_pose(before.apply_pose(placed.window_camera), scale)
        self.submap += 1
        self._graph.add_submap(window.id, map_window)
        self._take(window, geometry, keep(window, geometry, self._config.map.kept_width))

    def solution(self) -> Solution:
        """Return the state of the map as the graph holds it now."""
        self._version += 1
        ids = sorted(self._placed)
        placed = [self._placed[k] for k in ids]
        places = self._graph.map_window
        return Solution(
            version=self._version,
            ids=np.array(ids, np.int64),
            stamps=np.array([p.stamp for p in placed], np.int64),
            submaps=np.array([p.submap for p in placed], np.int64),
            windows=np.array([p.window for p in placed], np.int64),
            map_camera=np.array([places[p.window].apply_pose(p.window_camera) for p in placed]).reshape(-1, 4, 4),
            scale=np.array([places[p.window].scale for p in placed]),
            kept=self.kept,
            window_ids=np.array(list(places), np.int64),
            window_origin=np.array([place.translation for place in places.values()]).reshape(-1, 3),
            edges=tuple(self._graph.edges),
            scale_state=self._scale_state,
        )

    def _reference(self, shared: list[int]) -> int:
        """Return the window that placed most of the `shared` keyframes, the newest on ties; -1 if there are none."""
        owners = [self._placed[k].window for k in shared]
        return max(owners, key=lambda owner: (owners.count(owner), owner), default=-1)

    def _take(self, window: Window, geometry: WindowGeometry, kept: dict[int, KeptKeyframe]) -> None:
        stamps = {keyframe.id: keyframe.stamp for keyframe in window.keyframes}
        for keyframe, camera in zip(geometry.keyframe_ids, geometry.window_camera, strict=True):
            if not self.knows(keyframe):
                self._placed[keyframe] = _Placed(stamps[keyframe], self.submap, window.id, camera)
                self.kept[keyframe] = kept[keyframe]


def keep(window: Window, geometry: WindowGeometry, width: int) -> dict[int, KeptKeyframe]:
    """Return what is kept of each keyframe of a solved window, its maps at most `width` pixels wide."""
    height_full, width_full = geometry.depth.shape[1:]
    factor = min(1.0, width / width_full)
    size = (max(1, round(width_full * factor)), max(1, round(height_full * factor)))
    columns = ((np.arange(size[0]) + 0.5) * width_full / size[0]).astype(int)
    rows = ((np.arange(size[1]) + 0.5) * height_full / size[1]).astype(int)
    images: dict[int, Keyframe] = {keyframe.id: keyframe for keyframe in window.keyframes}
    kept = {}
    for row, keyframe in enumerate(geometry.keyframe_ids):
        depth = geometry.depth[row][np.ix_(rows, columns)].astype(np.float16)
        depth[~np.isfinite(depth)] = np.nan  # float16 ends at 65504
        confidence = np.nan_to_num(geometry.confidence[row][np.ix_(rows, columns)])
        kept[keyframe] = KeptKeyframe(
            keyframe, images[keyframe].stamp,
            resize_intrinsics(geometry.intrinsics[row], size[0] / width_full, size[1] / height_full), depth,
            np.rint(255 * np.clip(confidence, 0, 1)).astype(np.uint8),
            np.asarray(cv2.resize(images[keyframe].image, size, interpolation=cv2.INTER_AREA), np.uint8),
            None if geometry.descriptors is None else geometry.descriptors[row])
    return kept

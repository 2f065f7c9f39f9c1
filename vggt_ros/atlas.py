"""The map: windows in a pose graph, keyframes in windows, and submaps where the chain of windows broke."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.alignment import Alignment, AlignmentRefused, View, align
from vggt_ros.appearance import Features, describe
from vggt_ros.camera import nearest_pixels, resize_intrinsics
from vggt_ros.config import Config
from vggt_ros.consensus import Loop
from vggt_ros.features import ImageFeatures, resize_pixels
from vggt_ros.geometry import Array, Sim3
from vggt_ros.map_packing import (
    pack_edges,
    pack_keyframes,
    pack_similarities,
    unpack_edges,
    unpack_keyframes,
    unpack_similarities,
)
from vggt_ros.map_record import MapRecord
from vggt_ros.pose_graph import PoseGraph
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.relocalization import Found, depth_seen, neighbors
from vggt_ros.scale import initial_scale, taken_over
from vggt_ros.solution import KeptKeyframe, MetricScale, Solution
from vggt_ros.windows import Keyframe, Window

_NEIGHBORS = 4
"""Keyframes of the map whose depth stands for what the map knows of an image found in it."""


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
        metric: what is known of the unit of the submap that grows.

    """

    def __init__(self, config: Config, version: int = 0) -> None:
        """Begin empty; the solutions' versions go on from `version`."""
        self._config = config
        self._graph = PoseGraph()
        self._placed: dict[int, _Placed] = {}
        self._version = version
        self.metric = MetricScale()
        self.kept: dict[int, KeptKeyframe] = {}
        self.submap = -1
        self._labels: list[int] = []  # of each submap, the oldest one that loops connect it with
        self._pivot: dict[int, Array] = {}  # of a window, where its newest camera that the map knew is in it
        self._metrics: dict[int, MetricScale] = {}  # of submaps, as they were when the next one began

    def knows(self, keyframe: int) -> bool:
        """Return True if a keyframe is solved in the submap that grows, or in one that loops connect it with."""
        return keyframe in self._placed and self._labels[self._placed[keyframe].submap] == self._labels[self.submap]

    def window_of(self, keyframe: int) -> int:
        """Return the window that placed a solved keyframe."""
        return self._placed[keyframe].window

    def views(self, keyframes: Iterable[int], reference: int) -> dict[int, View]:
        """Return what is known of solved keyframes, in the frame and units of a window of their submap."""
        reference_map = self._graph.map_window[reference].inverse()
        known = {}
        for keyframe in keyframes:
            placed = self._placed[keyframe]
            reference_owner = reference_map @ self._graph.map_window[placed.window]
            known[keyframe] = View(reference_owner.apply_pose(placed.window_camera), self.kept[keyframe],
                                   reference_owner.scale)
        return known

    def chain(self, keyframe: int, count: int) -> list[int]:
        """Return the solved keyframes of one's submap that came at most `count` before or after it."""
        submap = self._placed[keyframe].submap
        return [k for k in range(keyframe - count, keyframe + count + 1)
                if k in self._placed and self._placed[k].submap == submap]

    def describe(self, keyframes: Sequence[Keyframe]) -> list[Features]:
        """Note what the places of solved keyframes look like, and return the local features of each."""
        found = []
        for keyframe in keyframes:
            features, appearance = describe(keyframe.image)
            self.kept[keyframe.id] = replace(self.kept[keyframe.id], appearance=appearance)
            found.append(features)
        return found

    def release(self, keyframes: Iterable[int]) -> None:
        """Let go of solved keyframes; solutions that were handed out before keep them."""
        gone = set(keyframes)
        self.kept = {k: kept for k, kept in self.kept.items() if k not in gone}
        self._placed = {k: placed for k, placed in self._placed.items() if k not in gone}

    def close_loop(self, first: int, second: int, first_second: Sim3, covariance: Array) -> Loop:
        """Relate two windows that see the same place; the graph says whether it believes it, see PoseGraph.add_loop."""
        loop = self._graph.add_loop(first, second, first_second, covariance)
        before, self._labels = self._labels, [self._graph.component(anchor) for anchor in self._graph.anchors]
        joined = self._labels[self.submap]
        if joined != before[self.submap]:  # the younger submap has taken over the unit of the older
            self.metric = self._metrics.get(joined, self.metric)
        return loop

    def attach(self, window: Window, geometry: WindowGeometry) -> None:
        """Align a window to the submap that grows by the keyframes that both know, and add it to the graph.

        Raises:
            AlignmentRefused: the overlap does not determine its place, or contradicts itself.

        """
        kept = keep(window, geometry, self._config.map.kept_width)
        shared = [k for k in geometry.keyframe_ids if self.knows(k)]
        reference = self._reference(shared)
        known = self.views(shared, reference) if shared else {}
        alignment = align(known, own_views(geometry, kept), self._config.alignment)
        self._graph.add_window(window.id, reference, alignment.reference_window, alignment.drift)
        self._hang(window, geometry, alignment)
        self._take(window, geometry, kept)

    def join(self, window: Window, geometry: WindowGeometry, places: Mapping[int, Found], solution: Solution) -> None:
        """Align a window that shares no keyframe with the map by where its images were found in it.

        The map knows an image by the depth that its own keyframes have of what the image sees, the window by its own;
        so found images stand for shared keyframes. `places` is keyframe id to where it was found in `solution`.

        Raises:
            AlignmentRefused: no image was found, or they contradict each other.

        """
        kept = keep(window, geometry, self._config.map.kept_width)
        reference, alignment = self._seen_from_map(geometry, kept, places, solution)
        self.submap = next(p.submap for p in self._placed.values() if p.window == reference)
        self._graph.add_window(window.id, reference, alignment.reference_window, alignment.covariance)
        self._hang(window, geometry, alignment)
        self._take(window, geometry, kept)

    def rejoin(self, window: Window, geometry: WindowGeometry, places: Mapping[int, Found],
               solution: Solution) -> Loop:
        """Relate a solved window's submap to another one by where its images were found there; see `join`.

        Raises:
            AlignmentRefused: the places found contradict each other.

        """
        kept = keep(window, geometry, self._config.map.kept_width)
        reference, alignment = self._seen_from_map(geometry, kept, places, solution)
        return self.close_loop(reference, window.id, alignment.reference_window, alignment.covariance)

    def elsewhere(self, solution: Solution) -> NDArray[np.int64]:
        """Return the rows of the solution whose submaps nothing connects with the one that grows."""
        return np.flatnonzero(solution.submaps != self._labels[self.submap]) if self._labels else np.zeros(0, np.int64)

    def _seen_from_map(self, geometry: WindowGeometry, kept: Mapping[int, KeptKeyframe], places: Mapping[int, Found],
                       solution: Solution) -> tuple[int, Alignment]:
        """Return where a solved window lies in a window of the map; raises AlignmentRefused."""
        found = {k: place for k, place in places.items() if k in kept}
        if len({place.submap for place in found.values()}) > 1:  # the oldest knows the most
            found = {k: place for k, place in found.items() if place.submap == min(p.submap for p in found.values())}
        if not found:
            raise AlignmentRefused("no keyframe of the window is known, nor was one found in the map")
        around = {k: neighbors(solution, place.map_camera, place.submap, _NEIGHBORS) for k, place in found.items()}
        reference = self._reference(solution.ids[np.concatenate([rows[:1] for rows in around.values()])].tolist())
        reference_map = self._graph.map_window[reference].inverse()
        known = {}
        for keyframe, place in found.items():
            own = kept[keyframe]
            depth = depth_seen(solution, around[keyframe], place.map_camera, own.intrinsics, own.depth.shape)
            seen = replace(own, depth=depth, confidence=np.full(depth.shape, 255, np.uint8))
            known[keyframe] = View(reference_map.apply_pose(place.map_camera), seen, reference_map.scale)
        return reference, align(known, own_views(geometry, kept), self._config.alignment)

    def begin_submap(self, window: Window, geometry: WindowGeometry) -> None:
        """Begin a submap with a window.

        The first lies at the map's origin. Where a later one lies is not known: until a loop tells, it begins where
        the newest keyframe of the submap before was, and takes over its median depth.
        """
        if self.submap < 0:
            scale, self.metric = initial_scale(geometry, self._config.scale)
            map_window = Sim3.from_pose(np.eye(4), scale)
        else:
            newest = max(self._placed)
            placed, before = self._placed[newest], self._graph.map_window[self._placed[newest].window]
            depth = self.kept[newest].median_depth * before.scale
            scale = 1.0 if geometry.metric else depth / float(np.nanmedian(geometry.depth))
            map_window = Sim3.from_pose(before.apply_pose(placed.window_camera), scale)
            self._metrics[self.submap] = self.metric
            if not geometry.metric:
                self.metric = taken_over(self.metric)
        self.submap = len(self._labels)
        self._labels.append(self.submap)
        self._graph.add_submap(window.id, map_window)
        self._take(window, geometry, keep(window, geometry, self._config.map.kept_width))

    def rescale(self, factor: float, metric: MetricScale) -> None:
        """Make the submap that grows, and what loops connect it with, larger by `factor`; see PoseGraph.rescale."""
        self._graph.rescale(self._placed[max(self._placed)].window, factor)
        self.metric = metric

    def observe_scale(self, log_scale: Mapping[int, float], metric: MetricScale) -> None:
        """Take in the scale of all windows connected with the submap that grows; see PoseGraph.observe_scale."""
        if log_scale:
            self._graph.observe_scale(log_scale, self._pivot)
        self.metric = metric

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
            submaps=np.array([self._labels[p.submap] for p in placed], np.int64),
            windows=np.array([p.window for p in placed], np.int64),
            map_camera=np.array([places[p.window].apply_pose(p.window_camera) for p in placed]).reshape(-1, 4, 4),
            scale=np.array([places[p.window].scale for p in placed]),
            kept=self.kept,
            window_ids=np.array(list(places), np.int64),
            window_origin=np.array([place.translation for place in places.values()]).reshape(-1, 3),
            window_scale=np.array([place.scale for place in places.values()]),
            edges=tuple(self._graph.edges),
            metric=self.metric,
        )

    def record(self, next_keyframe: int, next_window: int, map_world: Array) -> MapRecord:
        """Return all that the map is, for storage; `map_world` 4x4 turns it upright, ids below `next_...` are used.

        Raises:
            ValueError: nothing is mapped yet.

        """
        if not self._placed:
            raise ValueError("nothing is mapped yet")
        ids = sorted(self._placed)
        placed, places = [self._placed[k] for k in ids], self._graph.map_window
        window_pose, window_scale = pack_similarities(list(places.values()))
        return MapRecord(
            **pack_keyframes([self.kept[k] for k in ids]), **pack_edges(self._graph.edges),
            keyframe_submap=np.array([p.submap for p in placed], np.int64),
            keyframe_window=np.array([p.window for p in placed], np.int64),
            keyframe_pose=np.array([p.window_camera for p in placed]),
            window_id=np.array(list(places), np.int64), window_pose=window_pose, window_scale=window_scale,
            anchor=np.array(self._graph.anchors, np.int64), submap=self.submap, next_keyframe=next_keyframe,
            next_window=next_window, scale_state=self.metric.state, scale_sigma=self.metric.sigma,
            scale_source=self.metric.source, map_world=map_world)

    def restore(self, record: MapRecord) -> None:
        """Go on, in an empty atlas, from a record that was checked."""
        places = unpack_similarities(record.window_pose, record.window_scale)
        self._graph.restore(dict(zip(record.window_id.tolist(), places, strict=True)), record.anchor.tolist(),
                            unpack_edges(record))
        self.kept = {kept.id: kept for kept in unpack_keyframes(record)}
        self._placed = {keyframe: _Placed(kept.stamp, int(submap), int(window), camera) for (keyframe, kept), submap,
                        window, camera in zip(self.kept.items(), record.keyframe_submap, record.keyframe_window,
                                              record.keyframe_pose, strict=True)}
        self.submap = record.submap
        self.metric = MetricScale(record.scale_state, record.scale_sigma, record.scale_source)
        self._labels = [self._graph.component(anchor) for anchor in self._graph.anchors]

    def _reference(self, shared: list[int]) -> int:
        """Return the window that placed most of the `shared` keyframes, the newest on ties; -1 if there are none."""
        owners = [self._placed[k].window for k in shared]
        return max(owners, key=lambda owner: (owners.count(owner), owner), default=-1)

    def _hang(self, window: Window, geometry: WindowGeometry, alignment: Alignment) -> None:
        """Note the camera about which a window turns out larger or smaller: there the path goes on from the map's."""
        newest = geometry.keyframe_ids.index(max(alignment.shared))
        self._pivot[window.id] = geometry.window_camera[newest, :3, 3]

    def _take(self, window: Window, geometry: WindowGeometry, kept: dict[int, KeptKeyframe]) -> None:
        images = {keyframe.id: keyframe for keyframe in window.keyframes}
        for keyframe, camera in zip(geometry.keyframe_ids, geometry.window_camera, strict=True):
            if not self.knows(keyframe):
                self._placed[keyframe] = _Placed(images[keyframe].stamp, self.submap, window.id, camera)
                self.kept[keyframe] = _with_features(kept[keyframe], images[keyframe])


def keep(window: Window, geometry: WindowGeometry, width: int) -> dict[int, KeptKeyframe]:
    """Return what is kept of each keyframe of a solved window, its maps at most `width` pixels wide."""
    height_full, width_full = geometry.depth.shape[1:]
    factor = min(1.0, width / width_full)
    size = (max(1, round(width_full * factor)), max(1, round(height_full * factor)))
    columns, rows = nearest_pixels(width_full, size[0]), nearest_pixels(height_full, size[1])
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


def own_views(geometry: WindowGeometry, kept: Mapping[int, KeptKeyframe]) -> dict[int, View]:
    """Return keyframe id to what a solved window says of it, in its own frame and units."""
    return {k: View(camera, kept[k]) for k, camera in zip(geometry.keyframe_ids, geometry.window_camera, strict=True)}


def _with_features(kept: KeptKeyframe, keyframe: Keyframe) -> KeptKeyframe:
    """Return `kept` with the binary features of the full image: by them a camera finds its place in the map again."""
    binary = ImageFeatures.of(keyframe).binary
    small = resize_pixels(binary.pixels, kept.depth.shape[1] / keyframe.image.shape[1])
    return replace(kept, pixels=small, features=binary.looks)

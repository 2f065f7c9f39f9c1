"""The map: solved keyframes in a pose graph, and submaps where the chain of windows broke."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.features.appearance import Features, describe
from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.geometry.sim3 import to_matrix, transported
from vggt_ros.mapping.keyframe_graph import KeyframeGraph
from vggt_ros.mapping.map_keyframes import map_keyframes, window_views, with_binary_features
from vggt_ros.places.relocalization import Relocalization, neighbors, render_depth
from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.pose_graph.relative_poses import LoopMeasurement, relative_poses
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.scale.observer import initial_scale, taken_over
from vggt_ros.storage.map_packing import pack_keyframes, unpack_keyframes
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.threads import yield_to_tracking
from vggt_ros.windows.alignment import Alignment, AlignmentRefused, View, align, guess_alignment
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import MapKeyframe, MetricScale, Solution

_NEIGHBORS = 4
"""Keyframes of the map whose depth stands for what the map knows of an image found in it."""


class Atlas:
    """Everything solved so far. A keyframe has the units of the first window that solved it.

    Attributes:
        submap: the submap that grows; -1 before the first.
        kept: keyframe id to what is kept of it.
        metric: what is known of the unit of the submap that grows.

    """

    def __init__(self, config: Config, version: int = 0) -> None:
        """Begin empty; the solutions' versions go on from `version`."""
        self._config = config
        self._graph = KeyframeGraph(config.windows.size - config.windows.overlap)
        self._version = version
        self.metric = MetricScale()
        self.keyframes: dict[int, MapKeyframe] = {}
        self.submap = -1
        self._metrics: dict[int, MetricScale] = {}  # of submaps, as they were when the next one began

    @property
    def loops(self) -> int:
        """How many loops the map was bent by, those that the overlaps have taken over among them."""
        return self._graph.loops

    def knows(self, keyframe: int) -> bool:
        """Return True if a keyframe is solved in the submap that grows, or in one that loops connect it with."""
        labels = self._graph.labels
        return keyframe in self._graph and labels[self._graph.submap(keyframe)] == labels[self.submap]

    def window_of(self, keyframe: int) -> int:
        """Return the window that placed a solved keyframe."""
        return self._graph.window(keyframe)

    def views(self, keyframes: Iterable[int], reference: int) -> dict[int, View]:
        """Return what is known of solved keyframes, in the frame and units of one of their submap."""
        reference_map, known = self._graph.pose(reference).inverse(), {}
        for keyframe in keyframes:
            place = reference_map @ self._graph.pose(keyframe)
            known[keyframe] = View(place.apply_pose(np.eye(4)), self.keyframes[keyframe], place.scale)
        return known

    def chain(self, keyframe: int, count: int) -> list[int]:
        """Return the solved keyframes of one's submap that came at most `count` before or after it."""
        return self._graph.near(keyframe, count)

    def describe(self, keyframes: Sequence[Keyframe]) -> list[Features]:
        """Note what the places of solved keyframes look like, and return the local features of each."""
        found = []
        for keyframe in keyframes:
            yield_to_tracking()
            features, appearance = describe(keyframe.image)
            self.keyframes[keyframe.id] = replace(self.keyframes[keyframe.id], appearance=appearance)
            found.append(features)
        return found

    def release(self, keyframes: Iterable[int]) -> None:
        """Let go of solved keyframes; solutions that were handed out before keep them."""
        gone = set(keyframes)
        self.keyframes = {k: kept for k, kept in self.keyframes.items() if k not in gone}
        self._graph.release(gone)

    def close_loop(self, first: int, second: int, relation: LoopMeasurement) -> Loop:
        """Relate two keyframes that see the same place; the graph says whether it believes it: PoseGraph.add_loop.

        If the loop is likely, what the joint reconstruction says of steps that the map has is merged with it.
        """
        before = self._graph.labels
        loop = self._graph.close_loop(first, second, relation)
        joined = self._graph.labels[self.submap]
        if joined != before[self.submap]:  # the younger submap has taken over the unit of the older
            self.metric = self._metrics.get(joined, self.metric)
        return loop

    def attach(self, window: Window, geometry: WindowGeometry) -> None:
        """Align a window to the submap that grows by the keyframes that both know, and add it to the graph.

        Raises:
            AlignmentRefused: the overlap does not determine its place, or contradicts itself.

        """
        kept = map_keyframes(window, geometry, self._config.map.kept_width)
        shared = [k for k in geometry.keyframe_ids if self.knows(k)]
        known, views = self.views(shared, shared[-1]) if shared else {}, window_views(geometry, kept)
        alignment = align(known, views, self._config.alignment)
        self._take(window, kept)
        self._graph.attach(relative_poses(views, known, alignment))

    def join(
        self, window: Window, geometry: WindowGeometry, places: Mapping[int, Relocalization], solution: Solution
    ) -> None:
        """Align a window that shares no keyframe with the map by where its images were found in it.

        The map knows an image by the depth that its own keyframes have of what the image sees, the window by its own;
        so found images stand for shared keyframes. `places` is keyframe id to where it was found in `solution`.

        Raises:
            AlignmentRefused: no image was found, or they contradict each other.

        """
        kept = map_keyframes(window, geometry, self._config.map.kept_width)
        reference, alignment = self._seen_from_map(geometry, kept, places, solution)
        self.submap = self._graph.submap(reference)
        self._take(window, kept)
        newest = geometry.keyframe_ids.index(max(alignment.shared))
        self._graph.attach_by(reference, geometry.keyframe_ids[0], alignment.reference_window, alignment.covariance,
                              geometry.window_camera[newest, :3, 3])  # there the path goes on from the map's
        self._graph.attach(relative_poses(window_views(geometry, kept)))

    def rejoin(self, window: Window, geometry: WindowGeometry, places: Mapping[int, Relocalization],
               solution: Solution) -> Loop:
        """Relate a solved window's submap to another one by where its images were found there; see `join`.

        Raises:
            AlignmentRefused: the places found contradict each other.

        """
        kept = map_keyframes(window, geometry, self._config.map.kept_width)
        reference, alignment = self._seen_from_map(geometry, kept, places, solution)
        views = window_views(geometry, kept)
        own = next(k for k in views if self.knows(k))
        # The window hangs where its keyframes do, which may have the units of the one before.
        back = align(self.views([k for k in views if self.knows(k)], own), views, self._config.alignment)
        window_own = back.reference_window.inverse()
        covariance = transported(alignment.covariance[None], to_matrix(back.reference_window)[None])[0]
        return self.close_loop(reference, own, LoopMeasurement(alignment.reference_window @ window_own, covariance,
                                                        images=len(alignment.shared)))

    def elsewhere(self, solution: Solution) -> NDArray[np.int64]:
        """Return the rows of the solution whose submaps nothing connects with the one that grows."""
        labels = self._graph.labels
        return np.flatnonzero(solution.submaps != labels[self.submap]) if labels else np.zeros(0, np.int64)

    def _seen_from_map(
        self,
        geometry: WindowGeometry,
        kept: Mapping[int, MapKeyframe],
        places: Mapping[int, Relocalization],
        solution: Solution,
    ) -> tuple[int, Alignment]:
        """Return a keyframe of the map, and where a solved window lies in its frame; raises AlignmentRefused."""
        found = {k: place for k, place in places.items() if k in kept}
        if len({place.submap for place in found.values()}) > 1:  # the oldest knows the most
            found = {k: place for k, place in found.items() if place.submap == min(p.submap for p in found.values())}
        if not found:
            raise AlignmentRefused("no keyframe of the window is known, nor was one found in the map")
        around = {k: neighbors(solution, place.map_camera, place.submap, _NEIGHBORS) for k, place in found.items()}
        reference = int(max(solution.ids[rows[0]] for rows in around.values()))
        reference_map = self._graph.pose(reference).inverse()
        known = {}
        for keyframe, place in found.items():
            own = kept[keyframe]
            depth = render_depth(solution, around[keyframe], place.map_camera, own.intrinsics, own.depth.shape)
            seen = replace(own, depth=depth, confidence=np.full(depth.shape, 255, np.uint8))
            known[keyframe] = View(reference_map.apply_pose(place.map_camera), seen, reference_map.scale)
        return reference, align(known, window_views(geometry, kept), self._config.alignment)

    def begin_submap(self, window: Window, geometry: WindowGeometry) -> None:
        """Begin a submap with a window.

        The first lies at the map's origin. Where a later one lies is hardly known: until a loop tells, by a keyframe
        that the submap before has, too, or else where the newest one was; it takes over the median depth.
        """
        kept = map_keyframes(window, geometry, self._config.map.kept_width)
        views, reference, covariance = window_views(geometry, kept), None, None
        if self.submap < 0:
            scale, self.metric = initial_scale(geometry, self._config.scale)
            map_window = Sim3.from_pose(np.eye(4), scale)
        else:
            newest = self._graph.ids[-1]
            before = self._graph.pose(newest)
            known = self.views((k for k in geometry.keyframe_ids if self.knows(k)), newest)
            if (supposed := guess_alignment(known, views, self._config.alignment)) is not None:
                reference, newest_window, covariance = supposed
                map_window = before @ newest_window
            else:
                depth = self.keyframes[newest].median_depth * before.scale
                scale = 1.0 if geometry.metric else depth / float(np.nanmedian(geometry.depth))
                map_window = Sim3.from_pose(before.apply_pose(np.eye(4)), scale)
            self._metrics[self.submap] = self.metric
            if not geometry.metric:
                self.metric = taken_over(self.metric)
        self.submap = len(self._graph.labels)
        self._graph.labels.append(self.submap)
        self._take(window, kept)
        self._graph.begin_submap(geometry.keyframe_ids[0], map_window, reference, covariance)
        self._graph.attach(relative_poses(views))

    def rescale(self, factor: float, metric: MetricScale) -> None:
        """Make the submap that grows, and what loops connect it with, larger by `factor`; see PoseGraph.rescale."""
        self._graph.rescale(self._graph.ids[-1], factor)
        self.metric = metric

    def observe_scale(self, log_scale: Mapping[int, float], metric: MetricScale) -> None:
        """Take in the scale of all windows connected with the submap that grows; see PoseGraph.observe_scale."""
        if log_scale:
            self._graph.observe_scale(log_scale)
        self.metric = metric

    def solution(self) -> Solution:
        """Return the state of the map as the graph holds it now."""
        self._version += 1
        return Solution(version=self._version, keyframes=self.keyframes, metric=self.metric, **self._graph.arrays())

    def record(self, next_keyframe: int, next_window: int, map_world: Array) -> MapRecord:
        """Return all that the map is, for storage; `map_world` 4x4 turns it upright, ids below `next_...` are used.

        Raises:
            ValueError: nothing is mapped yet.

        """
        if not len(self._graph):
            raise ValueError("nothing is mapped yet")
        return MapRecord(
            **pack_keyframes([self.keyframes[k] for k in self._graph.ids]), **self._graph.record(), submap=self.submap,
            next_keyframe=next_keyframe, next_window=next_window, scale_state=self.metric.state,
            scale_sigma=self.metric.sigma, scale_source=self.metric.source, map_world=map_world)

    def restore(self, record: MapRecord) -> None:
        """Go on, in an empty atlas, from a record that was checked."""
        self.keyframes = {kept.id: kept for kept in unpack_keyframes(record)}
        self._graph.restore(record, self.keyframes.values())
        self.submap = record.submap
        self.metric = MetricScale(record.scale_state, record.scale_sigma, record.scale_source)

    def _take(self, window: Window, kept: dict[int, MapKeyframe]) -> None:
        images = {keyframe.id: keyframe for keyframe in window.keyframes}
        for keyframe, what in kept.items():
            if not self.knows(keyframe):
                yield_to_tracking()
                self._graph.add(what, self.submap, window.id)
                self.keyframes[keyframe] = with_binary_features(what, images[keyframe])

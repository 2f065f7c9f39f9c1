"""The atlas: solved keyframes in a pose graph, in submaps that begin where the chain of windows breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.features.appearance import Features
from vggt_ros.features.description import Description, describe_keyframe
from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.geometry.sim3 import to_matrix, transported
from vggt_ros.mapping.submaps.keyframe_graph import KeyframeGraph
from vggt_ros.mapping.submaps.map_keyframes import map_keyframes, map_views, window_views, with_depth, with_description
from vggt_ros.mapping.submaps.map_tracks import MapTracks
from vggt_ros.mapping.submaps.relocalized_windows import align_found, align_relocalized, check_reach, reach_of
from vggt_ros.places.relocalization import Relocalization
from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.pose_graph.planar import PlanarGround
from vggt_ros.pose_graph.plausibility import Drift
from vggt_ros.pose_graph.relative_poses import LoopMeasurement, relative_poses
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.scale.observer import inherited_scale, initial_scale, median_depth
from vggt_ros.storage.map_packing import pack_keyframes, unpack_keyframes
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.threads import yield_to_tracking
from vggt_ros.windows.alignment import View, align, guess_alignment
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import MapKeyframe, MetricScale, Solution


class Atlas:
    """Everything solved so far. A keyframe has the units of the window that solved it first, or placed it anew.

    Attributes:
        current_submap: the submap that windows are attached to; -1 before the first.
        keyframes: keyframe id to the data that the map keeps of it.
        metric: what is known of the scale of the current submap.
        describe, tracks: returns the features of a keyframe that is added; what the keyframes have observed.

    """

    def __init__(self, config: Config) -> None:
        """Begin empty."""
        self._config, self._version, self.metric = config, 0, MetricScale()
        self._graph = KeyframeGraph(config.windows.size - config.windows.overlap, config.loops.drift)
        self.keyframes: dict[int, MapKeyframe] = {}
        self.describe: Callable[[Keyframe], Description] = describe_keyframe
        self._local_features: dict[int, Features] = {}  # of the keyframes that were added last
        self.current_submap, self.tracks = -1, MapTracks()
        self._submap_metrics: dict[int, MetricScale] = {}  # of earlier submaps, as they were when the next one began

    @property
    def graph(self) -> KeyframeGraph:
        """The poses of the keyframes."""
        return self._graph

    @property
    def loop_count(self) -> int:
        """How many loops were accepted, settled ones (absorbed into the overlap factors) included."""
        return self._graph.loop_count

    def is_connected(self, keyframe: int) -> bool:
        """Return whether a keyframe is solved in the current submap, or in one that loops connect it with."""
        components = self._graph.components
        return keyframe in self._graph and components[self._graph.submap(keyframe)] == components[self.current_submap]

    def window_of(self, keyframe: int) -> int:
        """Return the window that placed a solved keyframe."""
        return self._graph.window(keyframe)

    def metric_of(self, keyframe: int) -> MetricScale:
        """Return what is known of the metric scale of a solved keyframe's submap."""
        component = self._graph.components[self._graph.submap(keyframe)]
        return self.metric if self.is_connected(keyframe) else self._submap_metrics.get(component, self.metric)

    def views(self, keyframes: Iterable[int], reference: int) -> dict[int, View]:
        """Return the views of solved keyframes in the map, in the frame and units of one of their submap."""
        return map_views(self._graph, self.keyframes, keyframes, reference)

    def temporal_neighbors(self, keyframe: int, count: int) -> list[int]:
        """Return the solved keyframes of the same submap whose ids differ by at most `count`, itself included."""
        return self._graph.temporal_neighbors(keyframe, count)

    def drift(self, first: int, second: int) -> Drift | None:
        """Return the drift to expect between two solved keyframes, in units of the first one; None if unconstrained."""
        drift = self._graph.drift(first, second)
        return drift and replace(drift, translation=drift.translation / self._graph.pose(first).scale)

    def take_local_features(self, keyframes: Sequence[int]) -> list[Features]:
        """Return the local features of the keyframes that were added since the last call; they are not kept."""
        taken, self._local_features = self._local_features, {}
        return [taken[keyframe] for keyframe in keyframes]

    def remove(self, keyframes: Iterable[int]) -> None:
        """Remove solved keyframes; earlier solutions keep them."""
        removed = set(keyframes)
        self.tracks.remove(removed)
        self.keyframes = {k: keyframe for k, keyframe in self.keyframes.items() if k not in removed}
        self._graph.remove(removed)

    def close_loop(self, first: int, second: int, measurement: LoopMeasurement) -> Loop:
        """Add a loop between two keyframes; see `PoseGraph.add_loop` for whether it is accepted.

        If the loop is likely, the relative poses of the joint reconstruction are merged with those in the map.
        """
        before = self._graph.components
        loop = self._graph.close_loop(first, second, measurement)
        self.tracks.add_loop(loop, (first, second), measurement.tracks)
        joined = self._graph.components[self.current_submap]
        if joined != before[self.current_submap]:  # the younger submap now has the unit of the older
            self.metric = self._submap_metrics.get(joined, self.metric)
        return loop

    def attach(self, window: Window, geometry: WindowGeometry) -> None:
        """Align a window with the current submap by the keyframes that both have, and add it to the graph.

        If it is `revised`, it is aligned by the first of those, and places the others anew.

        Raises:
            AlignmentRefused: the overlap does not determine the alignment, or is inconsistent.

        """
        keyframes = map_keyframes(window, geometry, self._config.map.kept_width, lambda k: not self.is_connected(k))
        shared = [k for k in geometry.keyframe_ids if self.is_connected(k)]
        revised = shared[1:] if geometry.report.get("revised", 0) > 0 and self._graph.is_chain(shared) else []
        shared = shared[:1] if revised else shared
        known, views = self.views(shared, shared[-1]) if shared else {}, window_views(geometry, keyframes)
        alignment = align(known, views, self._config.alignment, same_unit=geometry.report.get("continued", 0) > 0,
                          scale_sigma=geometry.report.get("scale_sigma", 0.0))
        self._add_keyframes(window, keyframes)
        self.keyframes = self.keyframes | {k: with_depth(self.keyframes[k], keyframes[k]) for k in revised}
        self._graph.attach(relative_poses(views, known, alignment))

    def attach_relocalized(self, window: Window, geometry: WindowGeometry, found: Mapping[int, Relocalization],
                           solution: Solution) -> None:
        """Align a window that shares no keyframe with the map by relocalizing its images, and add it to the graph.

        See `align_relocalized`; `found` is keyframe id to its relocalization in `solution`.

        Raises:
            AlignmentRefused: no image was relocalized, the relocalizations are inconsistent, or the camera cannot have
                come there since the newest keyframe.

        """
        keyframes = map_keyframes(window, geometry, self._config.map.kept_width)
        reference, alignment = align_relocalized(self._graph, geometry, keyframes, found, solution,
                                                 self._config.alignment)
        map_window = self._graph.pose(reference) @ alignment.reference_window
        if self.is_connected(reference):
            check_reach(self._graph, self.keyframes, map_window.apply_pose(geometry.window_camera[0]),
                        keyframes[geometry.keyframe_ids[0]].stamp)
        self.current_submap = self._graph.submap(reference)
        self._add_keyframes(window, keyframes)
        newest = geometry.keyframe_ids.index(max(alignment.shared))  # its position is known best
        self._graph.attach_keyframe(reference, geometry.keyframe_ids[0], alignment.reference_window,
                                    alignment.covariance, geometry.window_camera[newest, :3, 3])
        self._graph.attach(relative_poses(window_views(geometry, keyframes)))

    def close_loop_relocalized(self, window: Window, geometry: WindowGeometry, found: Mapping[int, Relocalization],
                               solution: Solution) -> Loop:
        """Add a loop between a solved window's submap and another one; see `attach_relocalized` for the alignment.

        Raises:
            AlignmentRefused: the relocalizations are inconsistent.

        """
        keyframes = map_keyframes(window, geometry, self._config.map.kept_width)
        reference, alignment = align_relocalized(self._graph, geometry, keyframes, found, solution,
                                                 self._config.alignment)
        views = window_views(geometry, keyframes)
        own = next(k for k in views if self.is_connected(k))
        # The pose of the window in its own submap is that of its keyframes, which may have the units of the one before.
        own_alignment = align(self.views(filter(self.is_connected, views), own), views, self._config.alignment)
        window_own = own_alignment.reference_window.inverse()
        covariance = transported(alignment.covariance[None], to_matrix(own_alignment.reference_window)[None])[0]
        return self.close_loop(reference, own, LoopMeasurement(alignment.reference_window @ window_own, covariance,
                                                               images=len(alignment.shared)))

    def measure_relocalized(self, found: Mapping[int, Relocalization],
                            solution: Solution) -> tuple[int, int, LoopMeasurement]:
        """Return the relative pose of two parts of the map, by keyframes of the one that were found in the other.

        `found` is keyframe id to its relocalization in the other part, in the poses of `solution`. Returned are a
        keyframe of the part in which they were found, one of those found, and the measurement, for `close_loop`.

        Raises:
            AlignmentRefused: the relocalizations are inconsistent, with each other or in depth.

        """
        own = max(found)
        reference, alignment = align_found(self._graph, self.keyframes, found, solution, self.views(found, own),
                                           self._config.alignment)
        return reference, own, LoopMeasurement(alignment.reference_window, alignment.covariance,
                                               images=len(alignment.shared))

    def unconnected_rows(self, solution: Solution) -> NDArray[np.int64]:
        """Return the rows of the solution whose submaps no loop connects with the current one."""
        own = self._graph.components[self.current_submap] if self._graph.components else solution.submaps
        return np.flatnonzero(solution.submaps != own)

    def begin_submap(self, window: Window, geometry: WindowGeometry) -> None:
        """Begin a submap with a window.

        The first begins at the map's origin. The pose of a later one is uncertain until a loop connects it: that by a
        keyframe which the window shares with the submap before, or of the newest one, with the same median depth.
        """
        keyframes = map_keyframes(window, geometry, self._config.map.kept_width)
        views, reference_node, covariance, limit = window_views(geometry, keyframes), None, None, None
        first, newest = geometry.keyframe_ids[0], -1
        if self.current_submap < 0:
            scale, self.metric = initial_scale(geometry, self._config.scale)
            map_window = Sim3.from_pose(np.eye(4), scale)
        else:
            map_newest = self._graph.pose(newest := self._graph.ids[-1])
            known = self.views(filter(self.is_connected, geometry.keyframe_ids), newest)
            if (guess := guess_alignment(known, views, self._config.alignment)) is not None:
                reference, newest_window, covariance = guess
                reference_node = self._graph.node(reference)  # before its keyframe gets a node in the new submap
                map_window = map_newest @ newest_window
            else:
                deep = next((k for k in self._graph.ids[::-1] if self.keyframes[k].median_depth > 0), newest)
                depth = self.keyframes[deep].median_depth * self._graph.pose(deep).scale
                scale = 1.0 if geometry.metric or not depth > 0 else depth / median_depth(geometry)
                map_window = Sim3.from_pose(map_newest.apply_pose(np.eye(4)), scale)
                limit = reach_of(self._graph, self.keyframes, keyframes[first].stamp)
            self._submap_metrics[self.current_submap] = self.metric
            if not geometry.metric:
                self.metric = inherited_scale(self.metric)
        self.current_submap = len(self._graph.components)
        self._graph.components.append(self.current_submap)
        self._add_keyframes(window, keyframes)
        self._graph.begin_submap(first, map_window, reference_node, covariance)
        if limit is not None:
            self._graph.set_reach(first, newest, limit)
        self._graph.attach(relative_poses(views))

    def apply_ground(self, up_world: Array, up_camera: Array | None) -> None:
        """With `map.planar` and `up_camera`, solve with soft factors by the ground; see `PlanarGround` for both."""
        settings = self._config.map
        if settings.planar and up_camera is not None and len(self._graph):
            self._graph.apply_ground(PlanarGround(up_world, up_camera, float(np.radians(settings.planar_tilt)),
                                                  settings.planar_height))

    def rescale(self, factor: float, metric: MetricScale, keyframe: int | None = None) -> None:
        """Scale the component of a keyframe, by default the newest, and set what is known of the current submap's."""
        self._graph.rescale(self._graph.ids[-1] if keyframe is None else keyframe, factor)
        self.metric = metric

    def set_scales(self, log_scale: Mapping[int, float], metric: MetricScale) -> None:
        """Set the scales of all windows connected with the current submap; see `KeyframeGraph.set_scales`."""
        if log_scale:
            self._graph.set_scales(log_scale)
        self.metric = metric

    def solution(self) -> Solution:
        """Return the current state of the map as a new version."""
        self._version += 1
        return Solution(version=self._version, keyframes=self.keyframes, metric=self.metric,
                        **self._graph.solution_fields())

    def record(self, next_keyframe: int, next_window: int, map_world: Array) -> MapRecord:
        """Return the whole map for storage; `map_world` 4x4 is the pose of its world in the z-up frame `map`.

        All ids in use are below `next_keyframe` and `next_window`; raises ValueError where nothing is mapped yet.
        """
        if not len(self._graph):
            raise ValueError("nothing is mapped yet")
        return MapRecord(
            **pack_keyframes([self.keyframes[k] for k in self._graph.ids]), **self._graph.record_fields(),
            submap=self.current_submap, next_keyframe=next_keyframe, next_window=next_window,
            scale_state=self.metric.state, scale_sigma=self.metric.sigma, scale_source=self.metric.source,
            map_world=map_world)

    def restore(self, record: MapRecord) -> None:
        """Restore an empty atlas from a record that was checked."""
        self.keyframes = {keyframe.id: keyframe for keyframe in unpack_keyframes(record)}
        self._graph.restore(record, self.keyframes.values())
        self.current_submap = record.submap
        self.metric = MetricScale(record.scale_state, record.scale_sigma, record.scale_source)

    def renumber(self, version: int) -> None:
        """Continue the versions of the solutions from `version`."""
        self._version = version

    def _add_keyframes(self, window: Window, keyframes: dict[int, MapKeyframe]) -> None:
        """Add those keyframes of a window that the current component does not have yet."""
        images = {keyframe.id: keyframe for keyframe in window.keyframes}
        if not all(keyframe.calibrated for keyframe in window.keyframes):
            self._graph.expect_uncalibrated()
        for k, keyframe in keyframes.items():
            if not self.is_connected(k):
                yield_to_tracking()
                self._graph.add(keyframe, self.current_submap, window.id)
                found = self.describe(images[k])
                self._local_features[k] = found.local
                self.keyframes[k] = with_description(keyframe, found, images[k].image.shape[1])

"""Slam: the algorithm, without ROS and without threads.

`track` runs for every image on the caller's thread and never waits; the node calls its two halves, to publish the pose
before the second. `step` runs for every window, in replay after `track`, in the node on the worker's thread. They meet
in one immutable `Solution`, which `step` replaces as a whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.features.tracks import ImageFeatures
from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.loops.closing import LoopCloser
from vggt_ros.mapping.atlas import Atlas
from vggt_ros.mapping.point_map import PointMap, unproject
from vggt_ros.mapping.window_placement import Placement, WindowPlacer
from vggt_ros.odometry.keyframe_selection import MIN_CORNERS, KeyframeSelector
from vggt_ros.odometry.localizer import Localizer
from vggt_ros.places.relocalization import PosePrior
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.scale.depth_source import DepthSource
from vggt_ros.scale.height_source import HeightSource
from vggt_ros.scale.imu_source import ImuSource
from vggt_ros.scale.observer import ScaleObserver, given, refactored
from vggt_ros.scale.odometry_source import OdometrySource
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.sliding_buffer import SlidingBuffer
from vggt_ros.windows.solution import OBSERVED, Counts, Frame, PointCloud, Solution, TrackedFrame, Update

_LOG = logging.getLogger(__name__)
_NEWEST = 64
"""Keyframes that are never let go of: those that tracking and the next windows build on."""


class Slam:
    """Monocular SLAM by windows of keyframes, each reconstructed at once and fused in a pose graph.

    Attributes:
        solution: the newest state of the map; any thread may read it.
        counts: what came in and what became of it.
        last_loop: what became of the newest place that seemed to be seen again.
        odometry, depth, height, imu: sources of metric scale, which take what they know from any thread.
        scale: what the sources of metric scale say.

    """

    def __init__(self, config: Config, reconstructor: Reconstructor) -> None:
        """Begin with an empty map."""
        self.config = config
        self.reconstructor = reconstructor
        self._next_keyframe = 0
        self.last_loop = ""
        self._stamp = 0
        self._selector = KeyframeSelector(config.keyframes)
        self._localizer = Localizer(config.tracking)
        self._buffer = SlidingBuffer(config.windows)
        self.odometry = OdometrySource()
        self.depth, self.height = DepthSource(), HeightSource(config.scale.camera_height)
        self.imu = ImuSource()
        self.scale = ScaleObserver(config.scale, [self.odometry, self.depth, self.height, self.imu])
        self.solution = Solution(version=-2)
        self.reset()

    def reset(self) -> None:
        """Begin anew; keyframe and window ids go on. With a worker, call its `reset` instead."""
        self.reset_tracking()
        self.reset_map()

    # Every image, on the caller's thread.

    def track(self, frame: Frame, has_capacity: bool = True) -> TrackedFrame:
        """Locate a frame in the newest solution, and form a window if it completes one; see `locate` and `select`."""
        self.locate(frame)
        return self.select(has_capacity)

    def locate(self, frame: Frame, search: bool = True) -> TrackedFrame:
        """Return where a frame was taken, by the newest solution; `select` has to follow.

        What only keyframes need is left to it, so that the pose can go out before. Without `search` a lost camera is
        not looked for all over the map, which takes as long as several images do.
        """
        gray = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), np.uint8)
        image = ImageFeatures(gray, self.config.tracking.features)
        self.counts.frames += 1
        self._was_away = self._localizer.is_lost
        self._localizer.features.advance(gray)
        self._newest = frame, image, self._locate(frame, image, search)
        return self._newest[2]

    def select(self, has_capacity: bool = True) -> TrackedFrame:
        """Take the frame located last as a keyframe if it should be one, and form a window if it completes one.

        `room` says whether there is room for another window; without it, waiting keyframes are thinned.
        """
        tracked = self._select(has_capacity)
        self._localizer.update_solution(self._newest[0], self.solution)
        return tracked

    def _select(self, has_capacity: bool) -> TrackedFrame:
        frame, image, tracked = self._newest
        previous, self._stamp = self._stamp, frame.stamp
        features = self._localizer.features
        if not self._selector.needs_keyframe(features, image.gray.shape[1]):
            return tracked
        features.replenish()
        if len(features.ids) < MIN_CORNERS:
            return tracked
        keyframe = Keyframe(self._next_keyframe, frame.stamp, frame.image, frame.intrinsics, frame.calibrated,
                            features.corners((frame.stamp - previous) * 1e-9), tracked.map_camera, image.binary)
        self._next_keyframe += 1
        before = (self._buffer.flush_without_overlap() if self._was_away and self._selector.has_no_overlap(features)
                  else None)
        self._selector.set_keyframe(features)
        self._localizer.add_keyframe(keyframe, image)
        if self.config.mode == "localization":
            return tracked
        self.counts.keyframes += 1
        window = self._buffer.add(keyframe, has_capacity) or before  # after a cut one keyframe completes no window
        self.counts.thinned = self._buffer.thinned
        return replace(tracked, keyframe=keyframe.id, window=window)

    def flush(self) -> Window | None:
        """Return the partial window that waits, or None: for the end of a stream, or a pause in it."""
        return self._buffer.flush()

    def reset_tracking(self, record: MapRecord | None = None) -> None:
        """Forget what `track` knows; windows formed so far will not be solved.

        With the `record` of a map that `restore_map` will take, ids go on from its own, and the odometry from where it
        is, without a jump.
        """
        self.counts = Counts()
        if record is not None:
            self._next_keyframe = max(self._next_keyframe, record.next_keyframe)
            self._buffer.next_window = max(self._buffer.next_window, record.next_window)
        self._first_keyframe = self._next_keyframe
        self._stamp = 0
        self._localizer.clear(keep_odometry=record is not None)
        self._selector.clear()
        self._buffer.clear()

    def set_pose_prior(self, map_camera: Array, radius: float, angle: float) -> None:
        """Look for the camera within `radius` map units and `angle` radians of a pose 4x4, from the next image on."""
        self._localizer.set_pose_prior(PosePrior(map_camera, radius, angle))

    def _locate(self, frame: Frame, image: ImageFeatures, search: bool) -> TrackedFrame:
        """Return the frame's pose by the newest solution, and count what became of it."""
        solution = self.solution
        visitor = len(solution) > 0 and (self.config.mode == "localization" or
                                         solution.ids[-1] < self._first_keyframe)
        wanted = self._selector.needs_keyframe(self._localizer.features, image.gray.shape[1])
        tracked = self._localizer.locate(frame, image, solution, visitor, wanted, search)
        self.counts.tracked += tracked.map_camera is not None
        self.counts.lost += tracked.map_camera is None and len(solution) > 0
        self.counts.relocalized = self._localizer.relocalizations
        return tracked

    # Every window, on the worker's thread.

    def step(self, window: Window, verify: bool = True) -> Update:
        """Reconstruct a window, align it to the map by the keyframes that they share, and solve the graph.

        Then places seen before are looked for; `verify` says whether there is time to verify one of them now.
        """
        began = time.perf_counter()
        if window.ids[0] < self._first_keyframe:
            return Update(window.id, (), self._atlas.submap, refused="formed before the reset")
        self._offered.update(window.ids)
        self._let_go()
        before = set(self._atlas.keyframes)
        attempt = self._placer.place(window, self.solution)
        solution, rescaled = self._with_scale(self._atlas.solution())
        placed = tuple(sorted(self._atlas.keyframes.keys() - before))
        loop = "; ".join(filter(None, (attempt.rejoined, self._close_loop(window, placed, solution, verify))))
        self.solution = replace(self._atlas.solution() if loop else solution,
                                refused_loops=tuple(self._loops.refused))
        self._map.update(self.solution)
        self.last_loop = loop or self.last_loop
        self._count(attempt)
        return Update(window.id, placed, self._atlas.submap, "; then: ".join(attempt.refusals), attempt.fresh,
                      rescaled, time.perf_counter() - began, attempt.seconds, attempt.report, loop)

    def _close_loop(self, window: Window, placed: Sequence[int], solution: Solution, verify: bool) -> str:
        """Look for the places of newly placed keyframes in the map; return what became of a loop, if one was tried."""
        keyframes = [self._placer.recent[keyframe] for keyframe in placed]
        looks = self._atlas.describe(keyframes)
        if not self.config.loops.enabled:
            return ""
        self._loops.look(keyframes, looks, self._atlas, solution, self.counts)
        return self._loops.close(window.id, self._atlas, self.counts) if verify else ""

    def _count(self, attempt: Placement) -> None:
        """Count a window, and what the map has now."""
        self.counts.windows += 1
        self.counts.retried += bool(attempt.refusals)
        self.counts.refused += attempt.failed
        self.counts.submaps = len(np.unique(self.solution.submaps))
        self.counts.loops = self._atlas.loops
        self.counts.unplaced = len(self._offered - self._atlas.keyframes.keys())

    def _with_scale(self, solution: Solution) -> tuple[Solution, float]:
        """Return a solution after what the sources of scale ask for, and by how much it was made larger."""
        rescaling = self.scale.observe(solution)
        if rescaling is None:
            return solution, 1.0
        if rescaling.metric.state == OBSERVED:
            _LOG.info("the map is rescaled by %.4g: its unit is the meter by %s, sigma %.2g %%", rescaling.factor,
                      rescaling.metric.source, 100 * rescaling.metric.sigma)
        else:
            _LOG.warning("scale is in doubt: %s, sigma %.2g %%", rescaling.metric.source, 100 * rescaling.metric.sigma)
        self._atlas.observe_scale(rescaling.log_scale, rescaling.metric)
        return self._atlas.solution(), rescaling.factor

    def reset_map(self) -> None:
        """Forget the map."""
        self.scale.clear()
        self.solution = Solution(version=self.solution.version + 1)
        self._atlas = Atlas(self.config, self.solution.version)
        self._placer = WindowPlacer(self.config, self.reconstructor, self._atlas)
        self._loops = LoopCloser(self.config, self.reconstructor)
        self.last_loop = ""
        self._map = PointMap(self.config.map)
        self._offered: set[int] = set()

    def restore_map(self, record: MapRecord) -> None:
        """Go on from a saved map; on the worker's thread, after `reset_tracking` with the same record."""
        self.reset_map()
        self._atlas.restore(record)
        self.solution = self._atlas.solution()
        self._map.update(self.solution)
        self.counts.submaps = len(np.unique(self.solution.submaps))

    def configure(self, config: Config) -> None:
        """Take settings that may change while it runs, and choose the map's points anew; on the worker's thread."""
        factor = refactored(self.config.scale.factor, config.scale.factor)
        self.config = config
        if factor != 1.0 and len(self.solution) and self.solution.metric.state != OBSERVED:
            self._atlas.rescale(factor, given(config.scale))
            self.solution = self._atlas.solution()
        self._map = PointMap(config.map)
        self._map.update(self.solution)

    def record(self, map_world: Array) -> MapRecord:
        """Return all that the map is, for storage, with the pose 4x4 that turns it upright; on the worker's thread.

        Raises:
            ValueError: nothing is mapped yet.

        """
        return self._atlas.record(self._next_keyframe, self._buffer.next_window, map_world)

    def map_cloud(self) -> PointCloud:
        """Return all points of the map, in the map's frame and units."""
        return self._map.cloud(self.solution)

    def _let_go(self) -> None:
        """Let go of the keyframes that hold the fewest points of the map, if there are too many."""
        excess = len(self._atlas.keyframes) - self.config.map.max_keyframes
        if excess <= 0:
            return
        gone = self._map.redundant(excess, before=max(self._atlas.keyframes) - _NEWEST)
        self._atlas.release(gone)
        self._offered -= set(gone)
        self.counts.released += len(gone)
        for keyframe in gone:
            self._loops.forget(keyframe)

    # What became of it.

    def keyframe_cloud(self, keyframe: int) -> PointCloud:
        """Return a solved keyframe's points, in its camera frame and in map units."""
        solution = self.solution
        row = solution.index(keyframe)
        assert row is not None, f"keyframe {keyframe} is not solved"
        cloud = unproject(solution.keyframes[keyframe], self.config.map)
        return replace(cloud, points=cloud.points * np.float32(solution.scale[row]))

    def trajectory(self, submap: int) -> tuple[NDArray[np.int64], Array]:
        """Return stamps (n,) and poses `map_camera` (n, 4, 4) of a submap's keyframes, as the graph holds them now."""
        solution = self.solution
        rows = solution.submaps == submap
        return solution.stamps[rows], solution.map_camera[rows]

    def frame_pose(self, tracked: TrackedFrame) -> Array | None:
        """Return the pose 4x4 of a tracked frame, moved with what its reference keyframe has been corrected by."""
        solution = self.solution
        row = None if tracked.reference is None else solution.index(tracked.reference)
        if row is None or tracked.reference_camera is None:
            return None
        return Sim3.from_pose(solution.map_camera[row], float(solution.scale[row])).apply_pose(tracked.reference_camera)

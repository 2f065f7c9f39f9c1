"""The SLAM algorithm, without ROS and without threads.

`track` processes images on the caller's thread and never waits; the node calls its two halves, to publish the pose
between them. `step` processes windows: in replay after `track`, in the node on the worker's thread. They share one
immutable `Solution`, which `step` replaces as a whole.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vggt_ros.config import Config
from vggt_ros.features.tracks import FeatureTracks, ImageFeatures
from vggt_ros.geometry.poses import Array
from vggt_ros.images.exposure import gray_image
from vggt_ros.loops.closing import LoopCloser
from vggt_ros.mapping.dense.surface import Surface
from vggt_ros.mapping.files.restored_map import RestoredMap
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.mapping.submaps.window_placement import Placement, WindowPlacer
from vggt_ros.odometry.keyframe_color import KeyframeColor
from vggt_ros.odometry.keyframe_selection import MIN_CORNERS, KeyframeSelector
from vggt_ros.odometry.localizer import Localizer
from vggt_ros.odometry.solved_focal import FrameIntrinsics
from vggt_ros.places.relocalization import PosePrior
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.scale.depth_source import DepthSource
from vggt_ros.scale.height_source import HeightSource
from vggt_ros.scale.imu_source import ImuSource
from vggt_ros.scale.observer import ScaleObserver, configured_scale, factor_change
from vggt_ros.scale.odometry_source import OdometrySource
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.windows.frame import Frame, TrackedFrame
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.load import Load
from vggt_ros.windows.point_cloud import PointCloud
from vggt_ros.windows.sliding_buffer import SlidingBuffer
from vggt_ros.windows.solution import OBSERVED, Counts, Solution, Update

if TYPE_CHECKING:
    from vggt_ros.mapping.submaps.map_adjustment import MapAdjustment

_NEVER_CULLED = 64
"""Newest keyframes that are never culled, since tracking and the next windows depend on them."""


class Slam:
    """Monocular SLAM with windows of keyframes, each reconstructed at once and fused in a pose graph.

    Attributes:
        solution: the newest state of the map; any thread may read it.
        counts, last_loop: counters of what was processed; the result of the newest loop candidate that was verified.
        buffer: the keyframes that wait to form a window; any thread may ask how many `waiting` windows there are.
        surface, follows_map: the points of the map, for the worker's thread only, and whether they follow each window.
        odometry, depth, height, imu, scale: sources of metric scale, fed from any thread, and their combination.
        tracked_corners, search_in_background: of `Localizer`.
        located_late: poses of images that had none when they came, found when keyframes around them were solved.

    """

    def __init__(self, config: Config, reconstructor: Reconstructor) -> None:
        """Begin with an empty map."""
        self.config, self.reconstructor, self.last_loop = config, reconstructor, ""
        self._selector, self._localizer = KeyframeSelector(config.keyframes), Localizer(config.tracking)
        self.buffer, self.odometry, self.depth = SlidingBuffer(config.windows), OdometrySource(), DepthSource()
        self.height, self.imu, self._colors = HeightSource(config.scale.camera_height), ImuSource(), KeyframeColor()
        self.scale = ScaleObserver(config.scale, [self.odometry, self.depth, self.height, self.imu])
        self.tracked_corners = self._localizer.tracked_corners
        self.search_in_background = self._localizer.search_in_background
        self.solution, self.follows_map, self._next_keyframe = Solution(version=-2), True, 0
        self.reset()

    def reset(self) -> None:
        """Begin a new map; keyframe and window ids go on. With a worker, call its `reset` instead."""
        self.reset_tracking()
        self.reset_map()

    def track(self, frame: Frame, load: Load = Load()) -> TrackedFrame:
        """Process one image: locate it in the newest solution, select keyframes, and form the windows for `step`."""
        self.locate(frame)
        return self.select_keyframe(load)

    def locate(self, frame: Frame, search: bool = True) -> TrackedFrame:
        """Track features into a frame, and return its pose in the newest solution; `select_keyframe` has to follow.

        Without `search` a lost camera is not matched to keyframes, which takes as long as tracking several images.
        """
        gray = gray_image(frame.image)
        self.counts.frames, self._was_lost = self.counts.frames + 1, self._localizer.is_lost
        self._localizer.features.advance(gray, frame.excluded, frame.stamp)
        self._selector.add_image(gray, frame.stamp)
        image = ImageFeatures(gray, self.config.tracking.features, self._localizer.features.excluded)
        intrinsics = self._intrinsics(frame, self.solution, self._first_keyframe)
        self._assumed, frame = frame.intrinsics, replace(frame, intrinsics=intrinsics)
        self._current = frame, image, self._locate(frame, image, search)
        return self._current[2]

    def select_keyframe(self, load: Load = Load()) -> TrackedFrame:
        """Form a window of the keyframes before, and make the frame one if needed; under `load`, less of all."""
        tracked, solution = self._make_keyframe(load), self.solution
        self.counts.spaced, self.counts.thinned = self.buffer.spaced, self.buffer.thinned
        self.located_late += self._localizer.update_solution(self._current[0], solution, load.spare_images)
        return tracked

    def locate_late(self) -> None:
        """Give all images a pose that had none when they came, where the map has one now; see `located_late`."""
        self.located_late += self._localizer.locate_late(self.solution, most=1_000_000)

    def _make_keyframe(self, load: Load) -> TrackedFrame:
        (frame, image, tracked), features = self._current, self._localizer.features
        tracked = replace(tracked, window=self.buffer.next_image(features.corners_before, load))
        if not self._selector.needs_keyframe(features, image.gray.shape, load.spacing):
            return tracked
        features.replenish()
        if len(features.ids) < MIN_CORNERS:
            return tracked
        rgb = self._colors.image(self._next_keyframe, frame, features.attached, self.config.mode != "localization")
        keyframe = Keyframe(self._next_keyframe, frame.stamp, rgb, self._assumed, frame.calibrated, features.corners(),
                            tracked.map_camera, image.known_binary, features.excluded)
        self._next_keyframe += 1
        if self._was_lost and self._selector.is_elsewhere(features, self.buffer.newest, keyframe, self._colors):
            self.buffer.end_overlap()
            tracked = replace(tracked, window=tracked.window or self.buffer.flush())
        self._selector.set_keyframe(features)
        self._localizer.add_keyframe(replace(keyframe, intrinsics=frame.intrinsics), image)
        if self.config.mode == "localization":
            return tracked
        self.counts.keyframes += 1
        self.buffer.add(keyframe, load)
        return replace(tracked, keyframe=keyframe.id)

    def flush(self) -> Window | None:
        """Return the next window of waiting keyframes, partial if it is the last, or None: for a pause, or the end."""
        return self.buffer.flush()

    def interrupt(self) -> Window | None:
        """Let the next image not continue the last one: it is relocalized, or begins a submap; returns as `flush`."""
        self._localizer.lose()
        self._selector.clear()
        return self.buffer.flush_without_overlap()

    def reset_tracking(self, record: MapRecord | None = None) -> None:
        """Reset the state of `track`; windows formed so far will be ignored by `step`.

        With the `record` of a map that `reset_map` will continue from, its ids and the odometry are continued.
        """
        self.counts, self._intrinsics = Counts(), FrameIntrinsics()
        self.located_late: deque[TrackedFrame] = deque(maxlen=20_000)  # 1 kB each
        if record is not None:
            self._next_keyframe = max(self._next_keyframe, record.next_keyframe)
            self.buffer.next_window = max(self.buffer.next_window, record.next_window)
        self._first_keyframe = self._resumed_keyframe = self._next_keyframe
        self._localizer.clear(keep_odometry=record is not None)
        self._selector.clear()
        self.buffer.clear()

    @property
    def selection(self) -> tuple[FeatureTracks, KeyframeSelector, SlidingBuffer, int]:
        """The state that selects keyframes and forms windows; set it to a copy of another one's to go on from there."""
        return self._localizer.features, self._selector, self.buffer, self._next_keyframe

    @selection.setter
    def selection(self, state: tuple[FeatureTracks, KeyframeSelector, SlidingBuffer, int]) -> None:
        self._localizer.features, self._selector, self.buffer, self._next_keyframe = state

    def change_mode(self, mode: str) -> Window | None:
        """Map, or only localize, from the next image on; returns the waiting keyframes, as `flush`."""
        self.config, self._resumed_keyframe = self.config.replace({"mode": mode}), self._next_keyframe
        self._selector.clear()
        return self.buffer.flush_without_overlap()

    def set_pose_prior(self, prior: PosePrior) -> bool:
        """Search for the camera near a pose from the next image on; return False, and go on, if no keyframe is near."""
        return self._localizer.set_pose_prior(prior, self.solution)

    def _locate(self, frame: Frame, image: ImageFeatures, search: bool) -> TrackedFrame:
        """Return the frame with its pose in the newest solution, and update the counters."""
        solution, only_located = self.solution, self.config.mode == "localization"
        in_saved_map = len(solution) > 0 and (only_located or solution.ids[-1] < self._resumed_keyframe)
        needed = self._selector.needs_keyframe(self._localizer.features, image.gray.shape)
        tracked = self._localizer.locate(frame, image, solution, in_saved_map, needed, search)
        self.counts.tracked += tracked.map_camera is not None
        self.counts.lost += tracked.map_camera is None and len(solution) > 0
        self.counts.relocalized = self._localizer.relocalizations
        return tracked

    def step(self, window: Window, verify: bool = True) -> Update:
        """Process one window; return what became of it, and replace `solution`.

        1. Reconstruct the window, align it to the map by shared keyframes, and add it to the pose graph.
        2. Scale the map to meters, if the sources of metric scale agree.
        3. Collect loop candidates of the added keyframes; if there is time to `verify`, verify and close the best.
        4. Update the solution and the point map.
        """
        began = time.perf_counter()
        self._colors.wait(window.ids)
        if window.ids[0] < self._first_keyframe:
            return Update(window.id, (), self._atlas.current_submap, refused="the window was formed before the reset")
        self._window_keyframes.update(window.ids)
        self._cull_keyframes()
        known = set(self._atlas.keyframes)
        placement = self._placer.place(window, self.solution)
        if "readout_s" in placement.report:
            self._localizer.set_readout(placement.report["readout_s"])
        self._atlas.apply_ground(self.height.up, self.height.up_camera)
        solution, rescaled = self._update_scale(self._atlas.solution())
        added = tuple(sorted(self._atlas.keyframes.keys() - known))
        loop = "; ".join(filter(None, (placement.join_result, self._close_loop(window, added, solution, verify))))
        self.solution = replace(self._atlas.solution() if loop else solution,
                                refused_loops=tuple(self._loop_closer.rejected))
        if self.follows_map:
            self.surface.update(self.solution)
        self.last_loop = loop or self.last_loop
        self._update_counts(placement)
        return Update(window.id, added, self._atlas.current_submap, "; then: ".join(placement.refusals),
                      placement.new_submap, rescaled, time.perf_counter() - began, placement.seconds, placement.report,
                      loop, placement.notes)

    def _close_loop(self, window: Window, added: Sequence[int], solution: Solution, verify: bool) -> str:
        """Collect loop candidates of the added keyframes; return what became of a loop, if one was verified."""
        features = self._atlas.take_local_features(added)
        if not self.config.loops.enabled:
            return ""
        keyframes = [self._placer.recent[k] for k in added]
        self._loop_closer.add_keyframes(keyframes, features, self._atlas, solution, self.counts)
        return self._loop_closer.close(window.id, self._atlas, self.counts) if verify else ""

    def _update_counts(self, placement: Placement) -> None:
        """Update the counters after a window."""
        placement.add_to(self.counts)
        self.counts.submaps, self.counts.loops = len(np.unique(self.solution.submaps)), self._atlas.loop_count
        self.counts.unplaced = len(self._window_keyframes - self._atlas.keyframes.keys())

    def _update_scale(self, solution: Solution) -> tuple[Solution, float]:
        """Return the solution after a rescaling by the sources of metric scale, and the factor of the active submap."""
        if (rescaling := self.scale.observe(solution)) is not None:
            self._atlas.set_scales(rescaling.log_scale, rescaling.metric)
        return (solution, 1.0) if rescaling is None else (self._atlas.solution(), rescaling.factor)

    def reset_map(self, restored: RestoredMap | None = None) -> None:
        """Begin an empty map, or continue from a saved one; then after `reset_tracking` with its record."""
        self.scale.clear()
        version = self.solution.version + 1
        self._atlas = Atlas(self.config) if restored is None else restored.atlas
        self._atlas.renumber(version)
        self.solution = Solution(version=version) if restored is None else self._atlas.solution()
        self._placer = WindowPlacer(self.config, self.reconstructor, self._atlas)
        self._loop_closer, self.last_loop = LoopCloser(self.config, self.reconstructor), ""
        self.surface = Surface(self.config.map) if restored is None else restored.surface
        self._window_keyframes: set[int] = set()
        self.counts.submaps = len(np.unique(self.solution.submaps))

    def configure(self, config: Config) -> None:
        """Apply settings that may change at run time, and select the map's points again; on the worker's thread."""
        factor, self.config = factor_change(self.config.scale.factor, config.scale.factor), config
        if factor != 1.0 and len(self.solution) and self.solution.metric.state != OBSERVED:
            self._atlas.rescale(factor, configured_scale(config.scale))
            self.solution = self._atlas.solution()
        self.surface = Surface(config.map)
        self.surface.update(self.solution)

    def record(self, map_world: Array) -> MapRecord:
        """Return the map for storage, with the pose 4x4 that makes it upright; ValueError if nothing is mapped yet."""
        return self._atlas.record(self._next_keyframe, self.buffer.next_window, map_world)

    def map_cloud(self) -> PointCloud:
        """Return all points of the map, in the map's frame and units."""
        return self.surface.cloud(self.solution)

    def _cull_keyframes(self) -> None:
        """Remove the keyframes with the fewest points of the map, if there are more than `map.max_keyframes`."""
        if (excess := len(self._atlas.keyframes) - self.config.map.max_keyframes) <= 0:
            return
        if not self.follows_map:
            self.surface.update(self.solution)
        culled = self.surface.redundant(excess, before=max(self._atlas.keyframes) - _NEVER_CULLED)
        self._atlas.remove(culled)
        self._window_keyframes -= set(culled)
        self.counts.released += len(culled)
        self._loop_closer.remove(culled)

    def adjustment(self) -> MapAdjustment:
        """Return the adjustment of all keyframes at once, to be solved on any thread; on the worker's thread."""
        from vggt_ros.mapping.submaps.map_adjustment import MapAdjustment  # scipy.sparse takes 26 MB and 0.2 s
        return MapAdjustment(self._atlas)

    def take_adjusted(self, adjustment: MapAdjustment) -> str:
        """Take a solved adjustment into the map, and return what became of it; on the worker's thread."""
        message, self.solution = adjustment.take(self._atlas), self._atlas.solution()
        return message

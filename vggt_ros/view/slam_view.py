"""Shows a run of the pipeline in a scene, image by image and window by window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.dense.map_updates import MapUpdates
from vggt_ros.mapping.grid.occupancy_grid import Occupancy
from vggt_ros.slam import Slam
from vggt_ros.view.shapes import graph_lines, submap_color
from vggt_ros.windows.frame import Frame, TrackedFrame
from vggt_ros.windows.solution import Update

if TYPE_CHECKING:
    from vggt_ros.view.scene import Scene


class SlamView:
    """Feeds a scene from `Slam`; its methods are the callbacks of `replay.run`."""

    def __init__(self, scene: Scene, map_world: Array) -> None:
        """Show runs in `scene`; `map_world` 4x4 is the pose of the world of the core in the z-up frame `map`."""
        self._scene, self._map_world = scene, map_world
        self._updates = MapUpdates()
        self._version: int | None = None
        self._state = ""
        self._occupancy: Occupancy | None = None

    def on_frame(self, slam: Slam, frame: Frame, tracked: TrackedFrame) -> None:
        """Show an image and its pose."""
        scene, pose = self._scene, tracked.map_camera
        scene.time(frame.stamp)
        scene.image(frame.rgb)
        scene.camera(None if pose is None else self._map_world @ pose, frame.intrinsics, frame.image.shape[1::-1])
        state = f"{tracked.state.lower()}{': ' if tracked.reason else ''}{tracked.reason}"
        if state != self._state:
            self._state = state
            scene.message(state, "INFO" if tracked.state in ("TRACKING", "INITIALIZING") else "WARN")
        scene.number("inliers", tracked.inliers)
        if slam.solution.version != self._version and len(slam.solution):  # a loaded map
            self.show_map(slam)

    def on_update(self, slam: Slam, update: Update) -> None:
        """Show the map after a window."""
        scene, solution = self._scene, slam.solution
        if update.refused:
            scene.message(f"window {update.window} refused: {update.refused}", "WARN")
        if update.new_submap:
            scene.message(f"break in the map: submap {update.submap} starts at window {update.window}", "WARN")
        if update.loop:
            scene.message(update.loop)
        self.show_map(slam)
        for keyframe in update.keyframes[-1:]:
            if solution.index(keyframe) is not None:
                scene.depth(solution.depth(keyframe))
        scene.number("keyframes", len(solution))

    def close(self) -> None:
        """Finish a file."""
        self._scene.close()

    def show_map(self, slam: Slam) -> None:
        """Show keyframes, pose graph, points and grid as they are now."""
        scene, solution, map_world = self._scene, slam.solution, self._map_world
        self._version = solution.version
        colors = np.array([submap_color(int(submap)) for submap in solution.submaps]).reshape(-1, 3)
        scene.keyframes(map_world @ solution.map_camera, np.rint(255 * colors).astype(np.uint8))
        scene.graph(*graph_lines(solution, map_world))
        if self._updates.refresh(slam.surface, map_world):
            scene.points(self._updates.take(slam.surface, solution))
        if self._occupancy is None:
            self._occupancy = Occupancy(slam.config.grid)
        self._occupancy.update(solution, map_world, keyframes=slam.surface.fused(solution))
        scene.grid(self._occupancy.grid())

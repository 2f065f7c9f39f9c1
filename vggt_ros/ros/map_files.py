"""Saving, loading and finding oneself in a map: the node's part of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.lifecycle import LifecycleNode

from vggt_ros.config import Config
from vggt_ros.geometry.poses import inverse
from vggt_ros.ros.commands import Steps
from vggt_ros.ros.messages import pose_matrix
from vggt_ros.ros.transforms import Frames
from vggt_ros.slam import Slam
from vggt_ros.storage.map_folder import StorageError, load_map, map_folder, save_map
from vggt_ros.storage.map_record import MapRecord

_SIGMAS = 3.0
_LEAST_RADIUS, _LEAST_ANGLE = 0.5, 0.5
"""A pose given by hand is good to so many of its sigmas, and never taken as better than this (map units, radians)."""


class MapFiles:
    """Maps in `map.folder`.

    Attributes:
        trouble: why the map that should be loaded at the start was not, empty if there is none.

    """

    def __init__(self, node: LifecycleNode, config: Callable[[], Config], slam: Slam, frames: Frames,
                 in_worker: Callable[[Callable[[], Any]], Future[Any]],
                 restart: Callable[[str, MapRecord], Future[Any]]) -> None:
        """Serve a node.

        Args:
            node: whose topic `/initialpose` it is.
            config: returns the settings in force.
            slam: holds the map.
            frames: knows how the map is turned upright.
            in_worker: runs a function on the thread that owns the map, and the disk.
            restart: goes on from a record, and says why.

        """
        self._node, self._config, self._slam, self._frames = node, config, slam, frames
        self._in_worker, self._restart = in_worker, restart
        self.trouble = ""
        self._starting: tuple[Steps, Future[Any]] | None = None
        self._subscription = node.create_subscription(PoseWithCovarianceStamped, "initialpose", self._expect, 1)

    def close(self) -> None:
        """Give the subscription back."""
        self._node.destroy_subscription(self._subscription)

    def save(self) -> Steps:
        """Save the map as `map.name`."""
        folder = self._folder()
        yield self._in_worker(lambda: self._save(folder))
        return str(folder)

    def load(self) -> Steps:
        """Go on from the map `map.name`; if it cannot be loaded, the present one stays."""
        folder = self._folder()
        record: MapRecord = yield self._in_worker(lambda: load_map(folder))
        yield self._restart(f"{folder} is loaded", record)
        self.trouble = ""
        return f"{len(record)} keyframes from {folder}"

    def load_at_start(self) -> None:
        """Begin to load the map if the settings say so; a failure is said, and stays in the status."""
        config = self._config()
        if config.map.load or config.mode == "localization":
            self.trouble, steps = "the map is being loaded", self.load()
            try:
                self._starting = steps, next(steps)
            except StorageError as error:
                self._complain(error)

    def load_again(self) -> None:
        """Load the map anew after a reset if there is nothing without it, in mode localization."""
        if self._config().mode == "localization":
            self.load_at_start()

    def look_after(self) -> None:
        """Go on with the loading at the start; called now and then on the executor."""
        if self._starting is None or not self._starting[1].done():
            return
        (steps, future), self._starting = self._starting, None
        try:
            self._starting = steps, steps.send(future.result())
        except StopIteration as end:
            self._node.get_logger().info(f"loaded: {end.value}")
        except Exception as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        self.trouble = f"no map was loaded: {error}"
        self._node.get_logger().error(self.trouble)

    def _folder(self) -> Path:
        settings = self._config().map
        return map_folder(settings.folder, settings.name)

    def _save(self, folder: Path) -> None:
        """Write the map in the z-up frame `map`, as it is published."""
        solution, turn = self._slam.solution, self._frames.map_world
        if turn is None:
            raise StorageError("nothing is mapped yet")
        save_map(folder, self._slam.record(turn), self._slam.map_cloud().transformed(turn), turn @ solution.map_camera,
                 self._config())

    def _expect(self, message: PoseWithCovarianceStamped) -> None:
        """Look for the camera where RViz's `2D Pose Estimate`, or another node, says that the base is in `map`."""
        log, base_camera, turn = self._node.get_logger(), self._frames.base_camera, self._frames.map_world
        frame = message.header.frame_id.lstrip("/")
        values = pose_matrix(message.pose.pose.position, message.pose.pose.orientation)
        covariance = np.array(message.pose.covariance).reshape(6, 6)
        if frame != self._config().tf.map_frame or not np.isfinite(values).all() or not np.isfinite(covariance).all():
            log.warning(f"/initialpose: a pose in {frame!r}, or not finite, is ignored; it has to be in "
                        f"{self._config().tf.map_frame!r}")
            return
        if base_camera is None or turn is None or len(self._slam.solution) == 0:
            log.warning("/initialpose: there is no map yet, or the camera's place on the robot is not known")
            return
        sigmas = np.sqrt(np.maximum(np.diag(covariance), 0))
        radius = max(_LEAST_RADIUS, _SIGMAS * float(sigmas[:3].max()))
        angle = max(_LEAST_ANGLE, _SIGMAS * float(sigmas[3:].max()))
        self._slam.set_pose_prior(inverse(turn) @ values @ base_camera, radius, angle)
        log.info(f"/initialpose: looking for the camera within {radius:.1f} m and {np.degrees(angle):.0f} degrees")

"""Publication of the occupancy grid, computed on the worker thread, a few keyframes at a time, for who asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import Any

from nav_msgs.msg import OccupancyGrid
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.grid.occupancy_grid import Occupancy
from vggt_ros.ros.conversions import messages
from vggt_ros.ros.outputs.renamed_topics import ChangedType, RenamedPublisher
from vggt_ros.slam import Slam

_MIN_PERIOD = 2.0
"""Shortest time between two grids, seconds of wall time."""
_MAX_KEYFRAMES = 16
"""Keyframes ray-cast for one grid, about 40 ms each, which delays windows; the others follow in the next grid."""


class GridOutput:
    """Publisher of `~/map`: publishes when the map has changed, and again until every keyframe is included.

    The grid is of what is connected with the place of the camera: the relative poses of submaps are not known.

    Attributes:
        published: True if a grid was published; late subscribers receive it until the next one.
        reference: id of the keyframe by which the camera was located last; None if it was not yet.

    """

    def __init__(self, node: LifecycleNode, slam: Slam, run_in_worker: Callable[[Callable[[], Any]], Future[Any]],
                 qos: QoSProfile) -> None:
        """Create the publisher; `run_in_worker` runs a function on the worker thread, which owns the map."""
        self._node, self._slam, self._run_in_worker = node, slam, run_in_worker
        self.publisher = RenamedPublisher(node, OccupancyGrid, "~/map", "~/grid", qos)
        self._as_cloud = ChangedType(node, "~/map", "sensor_msgs/msg/PointCloud2", "~/cloud_map")
        self.published = False
        self.clear()

    def clear(self) -> None:
        """Clear the grid, before a reset; a grid that is being computed is not published."""
        self._occupancy = Occupancy(self._slam.config.grid)
        self._request: Future[tuple[OccupancyGrid, int]] | None = None
        self._next_time = 0.0
        self.reference: int | None = None
        self.republish()

    def republish(self) -> None:
        """Publish the grid again at the next call of `publish_changes`, even if the map has not changed."""
        self._shown: tuple[int, int] | None = None

    def close(self) -> None:
        """Destroy the publisher."""
        self.publisher.close()

    def poll(self) -> None:
        """Say once that somebody subscribes to the old name, or expects on `~/map` what was there before."""
        self.publisher.get_subscription_count()
        self._as_cloud.poll()

    def whole(self, map_world: Array, head: Header) -> Generator[Future[Any], Any, OccupancyGrid]:
        """Compute a grid with every keyframe, for a service; yields what to wait for, and returns the message."""
        while True:
            message, remaining = yield self._run_in_worker(partial(self._build, self._occupancy, map_world, head))
            if not remaining:
                return message

    def publish_changes(self, map_world: Array, head: Header) -> None:
        """Publish the grid if it is ready, and request another if the map has changed.

        Call it periodically, and whenever a function on the worker thread is done.

        Args:
            map_world: 4x4 pose of the world of the solution in `map`.
            head: header of the grid.
        """
        if self._request is not None and self._request.done():
            self._publish_result(self._request)
            self._request = None
        if self._request is not None or time.monotonic() < self._next_time \
                or not self.publisher.get_subscription_count():
            return
        solution, part = self._slam.solution, self._slam.solution.connected(self.reference)
        shown = solution.version, len(part) and int(part.submaps[0])
        if self._shown != shown:
            self._shown, self._next_time = shown, time.monotonic() + _MIN_PERIOD
            if len(part) < len(solution):
                self._node.get_logger().info(f"{self.publisher.topic_name}: of {len(part)} of {len(solution)} "
                                             "keyframes, those connected with the place of the camera: where the other "
                                             "submaps are is not known", throttle_duration_sec=60.0)
            self._request = self._run_in_worker(partial(self._build, self._occupancy, map_world, head))

    def _build(self, occupancy: Occupancy, map_world: Array, head: Header) -> tuple[OccupancyGrid, int]:
        """Return the grid, and the number of keyframes still to be ray-cast at new poses; on the worker thread."""
        slam = self._slam
        remaining = occupancy.update(slam.solution.connected(self.reference), map_world, _MAX_KEYFRAMES,
                                     slam.surface.fused(slam.solution))
        return messages.occupancy_grid(occupancy.grid(), head), remaining

    def _publish_result(self, request: Future[tuple[OccupancyGrid, int]]) -> None:
        if error := request.exception():  # such as out of memory; the node continues
            self._node.get_logger().error(f"{self.publisher.topic_name}: the grid cannot be published: {error!r}")
            self._occupancy = Occupancy(self._slam.config.grid)
            return
        message, remaining = request.result()
        self.publisher.publish(message)
        self.published = True
        config = self._slam.config.grid
        if config.max_cells in (message.info.width, message.info.height):
            self._node.get_logger().warning(f"{self.publisher.topic_name}: the grid is cropped to grid.max_cells, "
                                            f"{config.max_cells} cells per side", throttle_duration_sec=60.0)
        if remaining:
            self._node.get_logger().info(f"{self.publisher.topic_name}: {remaining} keyframes are still to be ray-cast",
                                         throttle_duration_sec=5.0)
            self.republish()

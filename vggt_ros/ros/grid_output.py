"""The occupancy grid as a topic: made on the worker's thread, a few keyframes at a time, while somebody subscribes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from nav_msgs.msg import OccupancyGrid
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.occupancy_grid import Occupancy
from vggt_ros.ros import messages
from vggt_ros.slam import Slam

_PERIOD = 2.0
"""Least seconds from one grid to the next, by the wall clock."""
_LIMIT = 16
"""Keyframes whose rays are cast for one grid, about 40 ms each: windows do not wait for more. The next grid goes on."""


class GridOutput:
    """`~/grid`, published when the map has changed, and again until every keyframe is in it.

    Attributes:
        published: True if there has been a grid, which subscribers hold until there is another.

    """

    def __init__(self, node: LifecycleNode, slam: Slam, in_worker: Callable[[Callable[[], Any]], Future[Any]],
                 qos: QoSProfile) -> None:
        """Create the publisher; `in_worker` runs a function on the thread that owns the map."""
        self._node, self._slam, self._in_worker = node, slam, in_worker
        self.publisher = node.create_lifecycle_publisher(OccupancyGrid, "~/grid", qos)
        self.published = False
        self.clear()

    def clear(self) -> None:
        """Forget the map, before a reset; a grid that is being made is not published."""
        self._occupancy = Occupancy(self._slam.config.grid)
        self._request: Future[tuple[OccupancyGrid, int]] | None = None
        self._next = 0.0
        self.republish()

    def republish(self) -> None:
        """Let the grid be published anew, although the map has not changed."""
        self._version: int | None = None

    def close(self) -> None:
        """Give the publisher back to the node."""
        self._node.destroy_publisher(self.publisher)

    def refresh(self, turn: Array, head: Header) -> None:
        """Publish the grid that is done, and ask for another if the map has changed; `turn` 4x4 is its world in `map`.

        Call it now and then, and whenever something that ran in the worker is done.
        """
        if self._request is not None and self._request.done():
            self._finish(self._request)
            self._request = None
        version = self._slam.solution.version
        if self._request is None and self._version != version and time.monotonic() >= self._next \
                and self.publisher.get_subscription_count():
            self._version, self._next = version, time.monotonic() + _PERIOD
            self._request = self._in_worker(partial(self._make, self._occupancy, turn, head))

    def _make(self, occupancy: Occupancy, turn: Array, head: Header) -> tuple[OccupancyGrid, int]:
        """Return the grid, and how many keyframes are not in it yet as they lie now; on the worker's thread."""
        left = occupancy.update(self._slam.solution, turn, _LIMIT)
        return messages.occupancy_grid(occupancy.grid(), head), left

    def _finish(self, request: Future[tuple[OccupancyGrid, int]]) -> None:
        if error := request.exception():  # out of memory, say; the node stays up
            self._node.get_logger().error(f"{self.publisher.topic_name}: the grid cannot be published: {error!r}")
            self._occupancy = Occupancy(self._slam.config.grid)
            return
        message, left = request.result()
        self.publisher.publish(message)
        self.published = True
        config = self._slam.config.grid
        if config.max_cells in (message.info.width, message.info.height):
            self._node.get_logger().warning(f"{self.publisher.topic_name}: cut off at grid.max_cells, "
                                            f"{config.max_cells} cells a side", throttle_duration_sec=60.0)
        if left:
            self._node.get_logger().info(f"{self.publisher.topic_name}: {left} keyframes are still to be cast anew",
                                         throttle_duration_sec=5.0)
            self.republish()

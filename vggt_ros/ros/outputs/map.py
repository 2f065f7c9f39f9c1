"""Publication of the map: whole on `~/cloud_map`, at most once a period, what is new of it on `~/cloud_map_updates`."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.dense.map_updates import MapUpdates
from vggt_ros.ros.conversions import messages
from vggt_ros.ros.conversions.map_updates import update_message
from vggt_ros.ros.outputs.renamed_topics import RenamedPublisher
from vggt_ros.slam import Slam

_UPDATE_PERIOD = 0.4
"""Shortest time between two updates, seconds."""
_MAX_POINTS = 50_000
"""Points of an update, 1.8 MB; the others follow in the next one. A single keyframe is never split."""


class MapOutput:
    """Publishers of the map. Messages are built on the worker thread, which owns the map, and only for subscribers."""

    def __init__(self, node: LifecycleNode, slam: Slam, run_in_worker: Callable[[Callable[[], Any]], Future[Any]],
                 qos: QoSProfile) -> None:
        """Create the publishers; `run_in_worker` runs a function on the worker thread."""
        self._slam = slam
        whole = node.create_lifecycle_publisher(PointCloud2, "~/cloud_map", qos)
        self._whole = _Topic(node, whole, run_in_worker, slam.config.map.period)
        updates = RenamedPublisher(node, PointCloud2, "~/cloud_map_updates", "~/map_updates", 10)
        self._updates = _Topic(node, updates, run_in_worker, _UPDATE_PERIOD)

    @property
    def published(self) -> bool:
        """True if anything was published: only then an empty map is."""
        return self._whole.published or self._updates.published

    def close(self) -> None:
        """Destroy the publishers."""
        self._whole.close()
        self._updates.close()

    def clear(self) -> None:
        """Before a reset: messages that are being built are not published."""
        self._whole.clear()
        self._updates.clear()

    def republish(self) -> None:
        """Publish everything again at the next call of `publish_changes`, even if the map has not changed."""
        self._whole.renew()
        self._updates.renew()

    def publish_changes(self, map_world: Array, head: Header) -> None:
        """Publish what is ready, and request what is to follow.

        Call it periodically, and whenever a function on the worker thread is done.

        Args:
            map_world: 4x4 pose of the world of the solution in `map`.
            head: header of the messages.

        """
        version = self._slam.solution.version
        self._whole.poll(version, partial(self._build_whole, map_world, head))
        # A new subscriber has nothing yet. What it gets anew is no loss for the others.
        if self._updates.has_new_subscriber():
            self._updates.renew()
        self._updates.poll(version, partial(self._build_update, map_world, head))

    def _build_whole(self, map_world: Array, head: Header, unsent: MapUpdates) -> PointCloud2 | None:
        """Return the whole map, or None if it has not changed; on the worker thread."""
        slam = self._slam
        if not unsent.refresh(slam.surface, map_world):
            return None
        message = messages.point_cloud(slam.map_cloud().transformed(map_world), head)
        unsent.skip(slam.surface)
        return message

    def _build_update(self, map_world: Array, head: Header, unsent: MapUpdates) -> PointCloud2 | None:
        """Return the next update, or None if there is nothing new; on the worker thread."""
        slam = self._slam
        if not unsent.refresh(slam.surface, map_world):
            return None
        return update_message(unsent.take(slam.surface, slam.solution, _MAX_POINTS), head)


class _Topic:
    """A publisher whose messages are built on the worker thread, one at a time and at most one a period."""

    def __init__(self, node: LifecycleNode, publisher: Any, run_in_worker: Callable[[Callable[[], Any]], Future[Any]],
                 period: float) -> None:
        self._node, self._publisher, self._run_in_worker, self._period = node, publisher, run_in_worker, period
        self._unsent = MapUpdates()  # used on the worker thread only
        self._subscribers = 0
        self._next_time = 0.0
        self.published = False
        self.clear()

    def clear(self) -> None:
        self._request: Future[PointCloud2 | None] | None = None
        self.renew()

    def renew(self) -> None:
        self._version: int | None = None
        self._renewed = True

    def close(self) -> None:
        if isinstance(self._publisher, RenamedPublisher):
            self._publisher.close()
        else:
            self._node.destroy_publisher(self._publisher)

    def has_new_subscriber(self) -> bool:
        """Return whether the number of subscribers has risen since the last call."""
        before, self._subscribers = self._subscribers, self._publisher.get_subscription_count()
        return self._subscribers > before

    def poll(self, version: int, build: Callable[[MapUpdates], PointCloud2 | None]) -> None:
        """Publish the message that is ready; request the next one if the map has changed since, and there is time."""
        if self._request is not None and self._request.done():
            request, self._request = self._request, None
            if error := request.exception():  # such as out of memory; the node continues
                self._node.get_logger().error(f"{self._publisher.topic_name}: the map cannot be published: {error!r}")
                self._renewed = True  # with the next version
            elif (message := request.result()) is not None:
                self._publisher.publish(message)
                self.published, self._next_time = True, time.monotonic() + self._period
        due = self._version != version or self._unsent.waiting > 0
        if self._request is None and due and time.monotonic() >= self._next_time \
                and self._publisher.get_subscription_count():
            self._version = version
            renewed, self._renewed = self._renewed, False
            self._request = self._run_in_worker(partial(self._run, build, renewed))

    def _run(self, build: Callable[[MapUpdates], PointCloud2 | None], renewed: bool) -> PointCloud2 | None:
        if renewed:
            self._unsent.invalidate()
        return build(self._unsent)

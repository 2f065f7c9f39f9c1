"""Topics that got new names: the old ones stay for one release, and are mentioned once in the log."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile

from vggt_ros.ros.common.silence import node_name


class RenamedPublisher:
    """Lifecycle publishers of one type on a topic and on the name that it had before.

    Attributes:
        topic_name: the present name.

    """

    def __init__(self, node: LifecycleNode, kind: type, name: str, old_name: str, qos: QoSProfile | int) -> None:
        """Create both publishers; `close` destroys them."""
        self._node = node
        self._new, self._old = (node.create_lifecycle_publisher(kind, topic, qos) for topic in (name, old_name))
        self.topic_name: str = self._new.topic_name
        self._is_said = False

    def get_subscription_count(self) -> int:
        """Return the number of subscribers of both."""
        old = int(self._old.get_subscription_count())
        if old and not self._is_said:
            self._is_said = True
            self._node.get_logger().warning(f"{self._old.topic_name} is now {self.topic_name}; the old name goes with "
                                            "the next release: change what subscribes to it")
        return int(self._new.get_subscription_count()) + old

    def publish(self, message: Any) -> None:
        """Publish on both: a latched message must also reach who subscribes to the old name later."""
        self._new.publish(message)
        self._old.publish(message)

    def close(self) -> None:
        """Destroy both publishers."""
        for publisher in (self._new, self._old):
            self._node.destroy_publisher(publisher)


class ChangedType:
    """Watches for subscribers that expect the type that a topic had before: they get nothing, and see no error."""

    def __init__(self, node: LifecycleNode, topic: str, old_type: str, new_topic: str) -> None:
        """Watch `topic` for subscribers of `old_type`, such as sensor_msgs/msg/PointCloud2, now on `new_topic`."""
        self._node, self._old_type = node, old_type
        self._topic, self._new_topic = node.resolve_topic_name(topic), node.resolve_topic_name(new_topic)
        self._is_said = False

    def poll(self) -> None:
        """Say once that there is such a subscriber; called periodically."""
        if self._is_said:
            return
        for info in self._node.get_subscriptions_info_by_topic(self._topic):
            if info.topic_type == self._old_type:
                self._is_said = True
                self._node.get_logger().warning(f"{node_name(info)} subscribes to {self._topic} as {self._old_type}, "
                                                f"which is on {self._new_topic} now: remap it, it gets nothing here")
                return

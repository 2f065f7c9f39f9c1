"""Fills a buffer from /tf and /tf_static."""

from __future__ import annotations

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage
from tf2_ros.buffer import Buffer


class TransformListener:
    """Subscribes to the two topics and inserts every transform into the buffer."""

    def __init__(self, buffer: Buffer, node: Node, *, spin_thread: bool = False, qos: QoSProfile | int | None = None,
                 static_qos: QoSProfile | int | None = None) -> None:
        """Subscribe; the executor of the node runs the callbacks (`spin_thread` is not supported)."""
        if spin_thread:
            raise NotImplementedError("spin_thread: not supported, the executor of the node has to spin")
        self.buffer = buffer
        self.node = node
        group = ReentrantCallbackGroup()
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.tf_sub = node.create_subscription(TFMessage, "/tf", self.callback, QoSProfile(depth=100) if qos is None
                                               else qos, callback_group=group)
        self.tf_static_sub = node.create_subscription(TFMessage, "/tf_static", self.static_callback, latched if
                                                      static_qos is None else static_qos, callback_group=group)

    def unregister(self) -> None:
        """Destroy the subscriptions."""
        self.node.destroy_subscription(self.tf_sub)
        self.node.destroy_subscription(self.tf_static_sub)

    def callback(self, data: TFMessage) -> None:
        """Insert dynamic transforms."""
        for transform in data.transforms:
            self.buffer.set_transform(transform, "default_authority")

    def static_callback(self, data: TFMessage) -> None:
        """Insert static transforms."""
        for transform in data.transforms:
            self.buffer.set_transform_static(transform, "default_authority")

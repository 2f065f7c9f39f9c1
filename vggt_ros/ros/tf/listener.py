"""A TF listener for a network on which anyone may send transforms."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from tf2_msgs.msg import TFMessage
from tf2_ros import Buffer, TransformListener

from vggt_ros.ros.common.log import LOG_PERIOD
from vggt_ros.ros.conversions.messages import is_valid_stamp, nanoseconds

MAX_FRAMES = 2000
"""Most frames that are kept: a buffer never forgets a name, and a robot has a hundred."""
_MAX_LENGTH = 1e9
"""Longest translation, meters."""
_MAX_NAME = 200


class BoundedTransformListener(TransformListener):
    """Inserts transforms into a buffer, except for those that no robot sends and that would be kept for good.

    Attributes:
        refused: number of transforms that were not inserted.

    """

    def __init__(self, buffer: Buffer, node: Node) -> None:
        """Subscribe to /tf and /tf_static."""
        self.refused = 0
        self._frames: set[str] = set()
        self._log = node.get_logger()
        super().__init__(buffer, node)

    def callback(self, data: TFMessage) -> None:
        """Insert dynamic transforms."""
        super().callback(self._accepted(data))

    def static_callback(self, data: TFMessage) -> None:
        """Insert static transforms."""
        super().static_callback(self._accepted(data))

    def _accepted(self, data: TFMessage) -> TFMessage:
        """Return the message without the transforms that are refused."""
        accepted = [transform for transform in data.transforms if self._is_acceptable(transform)]
        if len(accepted) == len(data.transforms):
            return data
        self.refused += len(data.transforms) - len(accepted)
        self._log.warning(f"/tf: {self.refused} transforms were refused so far: not finite, with an invalid stamp or "
                          f"name, or of more than {MAX_FRAMES} frames", throttle_duration_sec=LOG_PERIOD)
        return TFMessage(transforms=accepted)

    def _is_acceptable(self, transform: TransformStamped) -> bool:
        child, parent = transform.child_frame_id, transform.header.frame_id
        known = child in self._frames
        if not known and (len(self._frames) >= MAX_FRAMES or max(len(child), len(parent)) > _MAX_NAME):
            return False
        p, q = transform.transform.translation, transform.transform.rotation
        values = np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])
        if not (np.abs(values) < _MAX_LENGTH).all() or not is_valid_stamp(nanoseconds(transform.header.stamp)):
            return False
        self._frames.add(child)
        return True

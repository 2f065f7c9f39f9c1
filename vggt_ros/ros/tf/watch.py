"""Finds what other nodes send to TF that contradicts this node: our own links sent by others, and second parents.

TF keeps only the newest parent of a frame, so two senders make a robot jump between two places. Handling every
transform of a robot in Python is expensive; therefore the topics are listened to for a few seconds at a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from vggt_ros.config import TfConfig
from vggt_ros.ros.common.silence import node_name
from vggt_ros.ros.conversions.messages import nanoseconds
from vggt_ros.ros.tf.listener import MAX_FRAMES
from vggt_ros.ros.tf.mounting import Mounting

_MAX_PARENTS, _MAX_NAMES = 5, 200
"""Most parents of a frame that are kept, and longest names of the two together."""
_LISTEN, _PERIOD = 3.0, 30.0
"""Seconds of listening, and from one beginning to the next."""


class TfWatch:
    """Listens to /tf and /tf_static from time to time, and keeps what it found the last time.

    Attributes:
        problems: what contradicts this node, each in one line with the cure.

    """

    def __init__(self, node: Node, config: TfConfig, mounting: Mounting) -> None:
        """Prepare; `poll` listens."""
        self._node, self._config, self._mounting = node, config, mounting
        self._names = config.odom_frame, config.base_frame
        self._sent: deque[tuple[str, int]] = deque(maxlen=1000)
        self._subscriptions: list[Any] = []
        self._began = -_PERIOD
        self._parents: dict[str, dict[str, bool]] = {}
        self.problems: list[str] = []

    def note_sent(self, child: str, stamp: int) -> None:
        """Note a transform before this node sends it, to tell it from those of others; from any thread."""
        self._sent.append((child, stamp))

    def poll(self) -> None:
        """Begin or end to listen; called periodically."""
        now = time.monotonic()
        if self._subscriptions and now - self._began > _LISTEN:
            self._end()
        elif not self._subscriptions and now - self._began > _PERIOD and self._mounting.camera_frame:
            self._began, self._parents = now, {}
            static = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self._subscriptions = [
                self._node.create_subscription(TFMessage, "/tf", self._take(False), QoSProfile(depth=100)),
                self._node.create_subscription(TFMessage, "/tf_static", self._take(True), static)]

    def close(self) -> None:
        """End to listen."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _take(self, is_static: bool) -> Callable[[TFMessage], None]:
        def take(message: TFMessage) -> None:
            for link in message.transforms:
                child, parent = link.child_frame_id.lstrip("/"), link.header.frame_id.lstrip("/")
                if (child not in self._parents and len(self._parents) >= MAX_FRAMES) \
                        or len(self._parents.get(child, ())) >= _MAX_PARENTS or len(child) + len(parent) > _MAX_NAMES:
                    continue
                is_ours = not is_static and child in self._names \
                    and (child, nanoseconds(link.header.stamp)) in self._sent
                parents = self._parents.setdefault(child, {})
                parents[parent] = parents.get(parent, True) and is_ours
        return take

    def _end(self) -> None:
        self.close()
        self.problems = self._find()

    def _find(self) -> list[str]:
        """Return the contradictions among the transforms that were received."""
        names, camera, found = self._config, self._mounting.camera_frame, []
        ours = {"map_odom_base": {names.odom_frame: names.map_frame, names.base_frame: names.odom_frame},
                "map_to_odom": {names.odom_frame: names.map_frame},
                "map_to_base": {names.base_frame: names.map_frame}}.get(names.mode, {})
        others = ", ".join(sorted({node_name(info) for topic in ("/tf", "/tf_static")
                                   for info in self._node.get_publishers_info_by_topic(
                                       self._node.resolve_topic_name(topic))}
                                  - {self._node.get_fully_qualified_name()}))
        for child, our_parent in ours.items():
            foreign = [parent for parent, is_ours in self._parents.get(child, {}).items() if not is_ours]
            for parent in foreign:
                if parent == our_parent:
                    what, cure = f"{parent} -> {child} is also sent by another node", self._cure(child)
                else:
                    what, cure = f"{child} has two parents in TF, {our_parent} by this node and {parent}", \
                        self._cure(child, parent)
                found.append(f"{what} (one of: {others}): {cure}")
        parents = self._parents.get(camera, {})
        if camera not in ours and len(parents) > 1:
            found.append(f"{camera}, the frame of the images, has the parents {' and '.join(sorted(parents))} in TF "
                         f"(sent by: {others}): only one node may place the camera")
        return found

    def _cure(self, child: str, parent: str = "") -> str:
        names = self._config
        if child == names.base_frame and parent and parent not in (names.map_frame, names.odom_frame):
            root, seen = parent, {child, names.odom_frame, names.map_frame}  # others may send a cycle
            while above := [p for p in self._parents.get(root, {}) if p not in seen | {root}]:
                seen.add(root)
                root = above[0]
            return f"set tf.base_frame to {root}, the root of the robot"
        if child == names.base_frame and names.mode == "map_odom_base" and parent != names.map_frame:
            return "if that is the odometry of the robot, set tf.mode to map_to_odom"
        return "end the other localization, leave it out of the bag (`bag_player --topics`), or set tf.mode to none"

"""Subscriptions with the QoS that the publishers of their topic offer.

A best-effort reader loses most large messages where the shared-memory segment of DDS is small, which is so by default;
a reliable reader receives nothing from a best-effort writer. So the reader is reliable where all writers are, and best
effort otherwise. Likewise it is transient local only where all writers are: then a message that was published once,
before the node started, is received.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vggt_ros.ros.common.silence import explain_silence

_OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)


class AdaptiveSubscription:
    """A subscription that is created anew when the QoS offered by the publishers changes.

    Policies that the user sets by parameters `qos_overrides.<topic>.subscription.*` are never changed.

    Attributes:
        name, topic: name of the topic before and after remapping.
        type_name: type of the messages, such as `sensor_msgs/msg/Image`.

    """

    def __init__(self, node: Node, kind: Any, topic: str, callback: Callable[..., None], depth: int,
                 latched: bool = False) -> None:
        """Subscribe.

        Args:
            node: the node.
            kind: class of the messages.
            topic: name of the topic, before remapping.
            callback: called with each message.
            depth: length of the queue.
            latched: whether to be transient local where all publishers are.

        """
        self._node, self._kind, self._callback, self._depth, self._latched = node, kind, callback, depth, latched
        self.name = topic
        self.topic = node.resolve_topic_name(topic)
        package, _, name = kind.__module__.partition(".msg.")
        self.type_name = f"{package}/msg/{kind.__name__}" if name else kind.__name__
        self._subscription = self._create(*self._offered())
        self._publishers_changed = False

    @property
    def qos(self) -> QoSProfile:
        """The QoS of the subscription."""
        profile: QoSProfile = self._subscription.qos_profile
        return profile

    @property
    def publishers(self) -> list[TopicEndpointInfo]:
        """The publishers of the topic, of any type."""
        found: list[TopicEndpointInfo] = self._node.get_publishers_info_by_topic(self.topic)
        return found

    def explain_silence(self) -> str:
        """Return why nothing is received, with the cure."""
        return explain_silence(self.topic, self.type_name, self.qos, self.publishers, self.name)

    def adapt(self, periodic: bool = True) -> bool:
        """Subscribe anew if other publishers than before ask for another QoS; return whether it was done.

        Without `periodic` the publishers are only looked at if one has come or gone since the last call.
        """
        if not periodic and not self._publishers_changed:
            return False
        self._publishers_changed = False
        offered = self._offered()
        if offered == self._wanted:
            return False
        old, self._subscription = self._subscription, self._create(*offered)
        self._node.destroy_subscription(old)
        self._node.get_logger().info(f"{self.topic}: subscribed anew, {self.qos.reliability.name.lower()} and "
                                     f"{self.qos.durability.name.lower()}, as its publishers offer")
        return True

    def close(self) -> None:
        """Destroy the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _offered(self) -> tuple[ReliabilityPolicy, DurabilityPolicy]:
        """Return reliability and durability that all publishers of the right type offer."""
        profiles = [info.qos_profile for info in self.publishers if info.topic_type == self.type_name]
        return (ReliabilityPolicy.RELIABLE if _all_have(profiles, "reliability", ReliabilityPolicy.RELIABLE)
                else ReliabilityPolicy.BEST_EFFORT,
                DurabilityPolicy.TRANSIENT_LOCAL if self._latched and _all_have(
                    profiles, "durability", DurabilityPolicy.TRANSIENT_LOCAL) else DurabilityPolicy.VOLATILE)

    def _create(self, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> Any:
        self._wanted = reliability, durability
        given = getattr(self._node, "_parameter_overrides", {})  # rclpy has no public access to them
        kinds = [kind for kind in _OVERRIDABLE
                 if f"qos_overrides.{self.topic}.subscription.{kind.name.lower()}" in given]
        return self._node.create_subscription(
            self._kind, self.name, self._callback,
            QoSProfile(depth=self._depth, reliability=reliability, durability=durability),
            qos_overriding_options=QoSOverridingOptions(kinds),
            event_callbacks=SubscriptionEventCallbacks(matched=self._note_change))

    def _note_change(self, _: Any) -> None:
        """Note that a publisher has come or gone; a subscription is not destroyed within its own event."""
        self._publishers_changed = True


def _all_have(profiles: Sequence[QoSProfile], policy: str, value: object) -> bool:
    return bool(profiles) and all(getattr(profile, policy) == value for profile in profiles)

"""Diagnosis of a subscription without messages, from the publishers in the ROS graph, in one line with the cure."""

from __future__ import annotations

from collections.abc import Sequence

from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo

CURES = {"sensor_msgs/msg/CompressedImage": "set camera.transport to compressed, with `image` as the base of the topic",
        "sensor_msgs/msg/Image": "set camera.transport to raw"}
"""Cures by the type of the publisher, if it differs from that of the subscription."""

LATCHED = "reliable", "transient_local"
"""Policies of a publisher whose last message late subscriptions receive: those of best effort get none again."""


def explain_silence(topic: str, kind: str, qos: QoSProfile, publishers: Sequence[TopicEndpointInfo],
                    name: str = "image") -> str:
    """Return why a subscription receives nothing, and the cure.

    Args:
        topic: its topic.
        kind: type of its messages.
        qos: its QoS.
        publishers: all publishers of the topic, of any type.
        name: name of the topic before remapping.

    """
    if not publishers:
        return f"no publisher of {topic}: start it, or remap `{name}` (`ros2 topic list -t` lists all topics)"
    fitting = [publisher for publisher in publishers if publisher.topic_type == kind]
    if not fitting:
        other = publishers[0].topic_type
        return (f"{node_name(publishers[0])} publishes {topic} as {other}, not {kind}: "
                + (CURES[other] if name.startswith("image") and other in CURES else f"remap `{name}`"))
    reasons = [_mismatch(publisher.qos_profile, qos) for publisher in fitting]
    if all(reasons):
        return (f"QoS mismatch: {node_name(fitting[0])} {reasons[0]}; set the parameters "
                f"qos_overrides.{topic}.subscription.* to the offered policies")
    sender = fitting[reasons.index("")]
    silent = f"{node_name(sender)} publishes {topic}, but nothing arrives: "
    if name == "camera_info":
        offered = sender.qos_profile.reliability.name.lower(), sender.qos_profile.durability.name.lower()
        return silent + ("is it paused?" if offered == LATCHED else
                         f"it offers {' and '.join(offered)}. What is published once, before this node starts, arrives "
                         f"only if it is latched, which takes {' and '.join(LATCHED)}: let the publisher offer both, "
                         "or publish with each image")
    return silent + "is it paused, or are its messages too large for the shared memory of DDS (config/fastdds.xml)?"


def describe_publishers(publishers: Sequence[TopicEndpointInfo]) -> str:
    """Return the publishers of a topic with type and QoS, as text."""
    found = [f"{node_name(info)} ({info.topic_type}, {info.qos_profile.reliability.name.lower()}, "
             f"{info.qos_profile.durability.name.lower()})" for info in publishers]
    return ", ".join(found) or "no publisher"


def node_name(info: TopicEndpointInfo) -> str:
    """Return the fully qualified name of the node of an endpoint."""
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _mismatch(offered: QoSProfile, requested: QoSProfile) -> str:
    """Return the incompatible QoS policy; empty if the profiles are compatible."""
    compatible, reason = qos_check_compatible(offered, requested)
    if compatible != QoSCompatibility.ERROR:
        return ""
    for policy in ("reliability", "durability"):
        have, want = getattr(offered, policy).name.lower(), getattr(requested, policy).name.lower()
        if (have, want) in (("best_effort", "reliable"), ("volatile", "transient_local")):
            return f"offers {have}, this node requests {want}"
    return f"does not offer what this node requests ({reason.strip()})"

"""Why no image comes: what the graph knows of the publishers, in one line with the cure."""

from __future__ import annotations

from collections.abc import Sequence

from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo

CUES = {"sensor_msgs/msg/CompressedImage": "set camera.transport to compressed, with `image` as the base of the topic",
        "sensor_msgs/msg/Image": "set camera.transport to raw"}
"""What to do when the publisher's type is another one than that of the subscription."""


def why_silent(topic: str, kind: str, qos: QoSProfile, publishers: Sequence[TopicEndpointInfo]) -> str:
    """Return why a subscription to `topic`, of the type `kind` and with `qos`, receives nothing, and the cure."""
    if not publishers:
        return f"nobody publishes {topic}: start the camera, or remap `image` (`ros2 topic list -t` lists all)"
    fitting = [publisher for publisher in publishers if publisher.topic_type == kind]
    if not fitting:
        other = publishers[0].topic_type
        return f"{named(publishers[0])} publishes {topic} as {other}, not {kind}: " + CUES.get(other, "remap `image`")
    reasons = [_mismatch(publisher.qos_profile, qos) for publisher in fitting]
    if all(reasons):
        return (f"QoS mismatch: {named(fitting[0])} {reasons[0]}; set the parameters "
                f"qos_overrides.{topic}.subscription.* to what it offers")
    return (f"{named(fitting[reasons.index('')])} publishes {topic} and nothing arrives: is it paused, or are its "
            "images larger than DDS takes (config/fastdds.xml)?")


def described(publishers: Sequence[TopicEndpointInfo]) -> str:
    """Return who publishes a topic, with type and QoS, in words."""
    found = [f"{named(info)} ({info.topic_type}, {info.qos_profile.reliability.name.lower()}, "
             f"{info.qos_profile.durability.name.lower()})" for info in publishers]
    return ", ".join(found) or "nobody publishes it"


def named(info: TopicEndpointInfo) -> str:
    """Return the full name of the node of an endpoint."""
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _mismatch(offered: QoSProfile, asked: QoSProfile) -> str:
    """Return in which policy the offer falls short; empty if it does not."""
    compatible, reason = qos_check_compatible(offered, asked)
    if compatible != QoSCompatibility.ERROR:
        return ""
    for policy in ("reliability", "durability"):
        have, want = getattr(offered, policy).name.lower(), getattr(asked, policy).name.lower()
        if (have, want) in (("best_effort", "reliable"), ("volatile", "transient_local")):
            return f"offers {have}, this node asks for {want}"
    return f"does not offer what this node asks for ({reason.strip()})"

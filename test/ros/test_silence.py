"""Why the node sees nothing: each cause in one line, with the cure."""

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vggt_ros.ros.silence import why_silent

RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def publisher(qos=RELIABLE, kind=IMAGE, name="camera"):
    return TopicEndpointInfo(node_name=name, node_namespace="/front", topic_type=kind, qos_profile=qos)


@pytest.mark.parametrize(("asked", "publishers", "words"), [
    (BEST_EFFORT, [], ["nobody publishes /image", "remap"]),
    (BEST_EFFORT, [publisher(kind=COMPRESSED)], ["/front/camera", "CompressedImage", "camera.transport to compressed"]),
    (RELIABLE, [publisher(BEST_EFFORT)], ["QoS mismatch: /front/camera offers best_effort", "asks for reliable",
                                          "qos_overrides./image.subscription"]),
    (LATCHED, [publisher()], ["offers volatile", "asks for transient_local"]),
    (BEST_EFFORT, [publisher()], ["/front/camera publishes /image and nothing arrives"]),
    (RELIABLE, [publisher(BEST_EFFORT), publisher(name="other")], ["/front/other publishes"]),
])
def test_each_cause_has_its_line(asked, publishers, words):
    why = why_silent("/image", IMAGE, asked, publishers)
    assert all(word in why for word in words), why
    assert "\n" not in why

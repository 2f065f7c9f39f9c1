"""Why no images arrive: each cause is explained in one line, with the cure."""

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vggt_ros.ros.common.silence import explain_silence

RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)
IMAGE, COMPRESSED, INFO = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo"))


def publisher(qos=RELIABLE, kind=IMAGE, name="camera"):
    return TopicEndpointInfo(node_name=name, node_namespace="/front", topic_type=kind, qos_profile=qos)


@pytest.mark.parametrize(("requested", "publishers", "words"), [
    (BEST_EFFORT, [], ["no publisher of /image", "remap"]),
    (BEST_EFFORT, [publisher(kind=COMPRESSED)], ["/front/camera", "CompressedImage", "camera.transport to compressed"]),
    (RELIABLE, [publisher(BEST_EFFORT)], ["QoS mismatch: /front/camera offers best_effort", "requests reliable",
                                          "qos_overrides./image.subscription"]),
    (LATCHED, [publisher()], ["offers volatile", "requests transient_local"]),
    (BEST_EFFORT, [publisher()], ["/front/camera publishes /image, but nothing arrives"]),
    (RELIABLE, [publisher(BEST_EFFORT), publisher(name="other")], ["/front/other publishes"]),
])
def test_each_cause_is_explained(requested, publishers, words):
    why = explain_silence("/image", IMAGE, requested, publishers)
    assert all(word in why for word in words), why
    assert "\n" not in why


def test_a_calibration_that_is_published_once_has_to_be_latched():
    """Best effort sends nothing again, whatever its durability; volatile neither."""
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)

    def explained(qos):
        return explain_silence("/camera_info", INFO, BEST_EFFORT, [publisher(qos, INFO)], "camera_info")

    assert "offers best_effort and transient_local" in explained(best_effort)
    assert "takes reliable and transient_local" in explained(best_effort)
    assert "offers reliable and volatile" in explained(RELIABLE)
    assert explained(LATCHED).endswith("is it paused?")


def test_the_name_to_remap_is_that_of_the_subscription():
    """A rule for `image` does not hold for `image/compressed`."""
    assert "remap `image/compressed`" in explain_silence("/image/compressed", COMPRESSED, BEST_EFFORT, [],
                                                         "image/compressed")
    assert "set camera.transport to raw" in explain_silence("/image/compressed", COMPRESSED, BEST_EFFORT,
                                                            [publisher()], "image/compressed")

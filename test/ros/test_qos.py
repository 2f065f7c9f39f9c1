"""The subscriptions of the node take the QoS that the publishers of their topics offer, on real DDS."""


import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from bench import Bench
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from scenes import lap
from sensor_msgs.msg import CameraInfo, Image

from vggt_ros.ros.conversions import messages

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
SMALL = {"windows__size": 5, "windows__overlap": 2, "tracking__features": 200}


@pytest.fixture
def make(capfd):
    benches = []

    def make_bench(images=RELIABLE, **parameters):
        """Return a node on topics whose publishers are those of the test alone: images with this reliability."""
        bench = Bench(lap().oracle(), ["status"], **{**SMALL, **parameters})
        bench.read_log = lambda: capfd.readouterr().err
        benches.append(bench)
        for publisher in (bench.images, bench.infos):
            bench.peer.destroy_publisher(publisher)
        if images is not None:
            bench.images = publish_images(bench, images)
        return bench

    yield make_bench
    for bench in benches:
        bench.close()


def publish_images(bench, reliability):
    return bench.peer.create_publisher(Image, "image", QoSProfile(depth=5, reliability=reliability))


def activate(bench):
    assert bench.node.trigger_configure().name == "SUCCESS"
    assert bench.spin(lambda: bench.node.reconstructor.state == "READY")
    assert bench.node.trigger_activate().name == "SUCCESS"


def subscribed(bench, reliability, topic="/image"):
    """Return whether the node's only subscription to a topic gets this reliability within a few seconds."""
    return bench.spin(lambda: [info.qos_profile.reliability for info in
                               bench.peer.get_subscriptions_info_by_topic(topic)] == [reliability])


@pytest.mark.parametrize("reliability", [RELIABLE, BEST_EFFORT])
def test_images_are_taken_as_their_publisher_offers_them(make, reliability):
    bench = make(reliability)
    activate(bench)
    assert subscribed(bench, reliability)


def test_publishers_that_come_and_go_are_followed(make):
    bench = make(images=None)
    activate(bench)
    assert subscribed(bench, BEST_EFFORT)  # accepts every publisher that may come
    publish_images(bench, RELIABLE)
    assert subscribed(bench, RELIABLE)
    assert bench.logged("/image", "subscribed anew, reliable")
    other = publish_images(bench, BEST_EFFORT)
    assert subscribed(bench, BEST_EFFORT)
    bench.peer.destroy_publisher(other)
    assert subscribed(bench, RELIABLE)


def test_a_publisher_of_another_type_is_not_followed(make):
    bench = make(BEST_EFFORT)
    bench.peer.create_publisher(CameraInfo, "depth", 5)
    activate(bench)
    assert subscribed(bench, BEST_EFFORT)


@pytest.mark.parametrize("begins", ["before", "after"])
def test_a_calibration_that_was_published_once_before_is_received(make, begins):
    """Latched CameraInfo, published once before the node subscribes; or by a publisher that comes later."""
    bench = make()
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    frame = lap().frames[0]
    info = messages.camera_info(frame.intrinsics, frame.image.shape[1::-1], messages.header(frame.stamp, "camera"))
    if begins == "after":
        activate(bench)
        bench.spin(seconds=0.3)
    bench.peer.create_publisher(CameraInfo, "camera_info", latched).publish(info)
    if begins == "before":
        bench.spin(seconds=0.3)
        activate(bench)
    assert subscribed(bench, RELIABLE, "/camera_info")
    assert bench.spin(lambda: bench.node.source._intake._info is not None)
    assert bench.spin(bench.images.get_subscription_count)
    bench.spin(seconds=0.2)
    bench.image(frame)
    assert bench.node.slam.counts.frames == 1
    assert bench.node.source.calibration == "from /camera_info"


def test_a_calibration_that_is_latched_by_best_effort_is_explained(make):
    """DDS sends nothing again by best effort: the field of view is assumed, and the log says what to set."""
    bench = make(camera__info_timeout=0.2)
    latched = QoSProfile(depth=1, reliability=BEST_EFFORT, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    frame = lap().frames[0]
    bench.peer.create_publisher(CameraInfo, "camera_info", latched).publish(
        messages.camera_info(frame.intrinsics, frame.image.shape[1::-1], messages.header(frame.stamp, "camera")))
    bench.spin(seconds=0.3)
    activate(bench)
    assert subscribed(bench, BEST_EFFORT, "/camera_info")
    assert bench.spin(bench.images.get_subscription_count)
    bench.image(frame)
    bench.spin(seconds=0.3)
    bench.image(lap().frames[1])
    assert bench.node.source.calibration.startswith("assumed")
    assert bench.logged("best_effort and transient_local", "takes reliable and transient_local")


def test_policies_that_the_user_sets_are_kept(make):
    bench = make(RELIABLE, **{"qos_overrides./image.subscription.reliability": "best_effort",
                              "qos_overrides./camera_info.subscription.depth": 1})
    bench.peer.create_publisher(CameraInfo, "camera_info", 5)
    activate(bench)
    bench.spin(seconds=1.0)
    assert subscribed(bench, BEST_EFFORT)
    assert subscribed(bench, RELIABLE, "/camera_info")
    assert bench.node.source._subscriptions[0].qos.depth == 1


def test_sources_of_scale_are_taken_as_offered(make):
    bench = make(scale__depth=True, scale__imu=True)
    bench.peer.create_publisher(Image, "depth", QoSProfile(depth=5, reliability=RELIABLE))
    activate(bench)
    assert subscribed(bench, RELIABLE, "/depth") and subscribed(bench, BEST_EFFORT, "/imu")

"""Metric scale from topics and TF over real DDS: the map is in meters, and invalid messages are ignored."""

import array
from functools import cache

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from bench import CAMERA, LATCHED, Bench, matrix
from nav_msgs.msg import OccupancyGrid, Odometry
from scenes import SIZE, lap, trajectory_error
from sensor_msgs.msg import Image, Imu, PointCloud2
from tf2_ros import StaticTransformBroadcaster, TransformBroadcaster

from vggt_ros.config import Config
from vggt_ros.geometry.poses import inverse, pose, rotation_angle, so3_exp
from vggt_ros.ros.conversions import messages
from vggt_ros.ros.tf.transforms import BODY_OPTICAL
from vggt_ros.sequences.encodings import ImageError, decode_depth
from vggt_ros.settings import ConfigError
from vggt_ros.synthetic import OracleNoise, SceneReconstructor, room

SETTINGS = {"windows__size": 5, "windows__overlap": 2, "tracking__features": 200, "scale__max_sigma": 0.04}
COUNT = 80
BASE_CAMERA = pose(so3_exp(np.array([0.0, 0.2, 0.0])), np.array([0.3, 0.0, 0.4])) @ BODY_OPTICAL
"""A camera in front of the base and above it, pitched down, so that its trajectory differs from that of the base."""


@cache
def oracle():
    sequence = lap()
    return SceneReconstructor(room(), [f.stamp for f in sequence.frames], sequence.world_camera, OracleNoise(scale=0.3))


@pytest.fixture
def make(capfd):
    benches = []

    def make_bench(**settings):
        benches.append(Bench(oracle(), {"status": None, "odom": None, "pose": None}.keys(), **SETTINGS, **settings))
        benches[-1].read_log = lambda: capfd.readouterr().err
        return benches[-1].start()

    yield make_bench
    for bench in benches:
        bench.close()


def publish_mounting(bench):
    """Publish the pose of the camera on the base to TF."""
    caster = StaticTransformBroadcaster(bench.peer)
    caster.sendTransform(messages.transform(BASE_CAMERA, 0, "base_link", CAMERA))
    bench.spin(seconds=0.3)
    return caster


def odom_base(index):
    return pose(so3_exp(np.array([0, 0, 0.7])), np.array([5.0, -3.0, 0.0])) @ lap().world_camera[index] \
        @ inverse(BASE_CAMERA)


def play(bench, before_image, count=COUNT):
    bench.info(lap().frames[0])
    for index, frame in enumerate(lap().frames[:count]):
        assert bench.spin(lambda: bench.node.worker.idle)
        before_image(index, frame)
        bench.image(frame)
    bench.settle()


def check_metric(bench, source):
    status = bench.status()
    assert status["scale"] == "OBSERVED" and status["scale by"] == source
    assert float(status["scale sigma"]) < 0.04
    solution = bench.node.slam.solution
    assert trajectory_error(solution.stamps, solution.map_camera, lap())[1].scale == pytest.approx(1.0, abs=0.02)


def test_an_odometry_topic_of_the_base_makes_the_map_metric(make):
    """The base rotates about a point away from the camera; invalid poses are published in between."""
    bench = make(scale__odometry="topic", scale__require=True)
    bench.record("/vggt_slam/cloud_map", PointCloud2, LATCHED)
    bench.record("/vggt_slam/map", OccupancyGrid, LATCHED)
    caster = publish_mounting(bench)
    publisher = bench.peer.create_publisher(Odometry, "odometry", 50)
    assert bench.spin(publisher.get_subscription_count)

    def publish(index, frame):
        for pose_in_odom, child in ((odom_base(index), "base_link"), (np.full((4, 4), np.nan), "base_link"),
                              (np.eye(4), "elsewhere")):
            message = Odometry(header=messages.header(frame.stamp, "odom"), child_frame_id=child)
            if np.isfinite(pose_in_odom).all():
                message.pose.pose = messages.pose_message(pose_in_odom)
            else:
                message.pose.pose.position.x = float("nan")
            publisher.publish(message)
        if bench.node.slam.solution.metric.state != "OBSERVED":
            withheld.append(len(bench.node.slam.solution))
            assert not bench.got["cloud_map"] and not bench.got["map"] and not bench.transforms("map", "odom")[0]

    withheld = []
    play(bench, publish)
    check_metric(bench, "odometry")
    assert withheld[-1] > 0, "a map that is not metric was withheld"
    bench.settle(3.0)
    assert bench.got["cloud_map"] and bench.got["map"] and bench.transforms("map", "odom")[0]
    assert int(bench.status_now()["odometry refused"]) > COUNT
    assert bench.logged("odometry", "elsewhere")
    assert caster is not None


@pytest.mark.parametrize(("encoding", "unit"), [("32FC1", 1.0), ("16UC1", 1000.0)])
def test_a_depth_topic_makes_the_map_metric(make, encoding, unit):
    bench = make(scale__depth=True, tf__base_timeout=0.0, tf__assume_level=True)
    publisher = bench.peer.create_publisher(Image, "depth", 5)
    assert bench.spin(publisher.get_subscription_count)

    def publish(index, frame):
        depth = unit * room_depth(index)
        pixels = np.nan_to_num(depth).astype("<f4" if encoding == "32FC1" else "<u2")
        message = Image(header=messages.header(frame.stamp + 5_000_000, CAMERA), height=SIZE[1], width=SIZE[0],
                        encoding=encoding, step=SIZE[0] * pixels.itemsize, data=array.array("B", pixels.tobytes()))
        publisher.publish(message)
        if index == 10:
            publisher.publish(Image(header=message.header, height=10, width=10, encoding="rgb8", step=30))

    play(bench, publish)
    check_metric(bench, "depth")


def test_a_silent_source_and_what_is_withheld_are_named(make):
    bench = make(scale__depth=True, scale__imu=True, scale__require=True)
    bench.record("/vggt_slam/cloud_map", PointCloud2, LATCHED)
    caster, publisher = publish_mounting(bench), bench.peer.create_publisher(Imu, "imu", 200)
    play(bench, lambda index, frame: publisher.publish(Imu(header=messages.header(frame.stamp, CAMERA))), 25)
    assert len(bench.node.slam.solution) > 0 and caster is not None
    assert not bench.got["cloud_map"] and not bench.transforms("map", "odom")[0]
    assert bench.transforms("odom", "base_link")[0]
    bench.node.metric.health.arrivals["depth"] -= 6.0
    assert bench.spin(lambda: "depth, a source of scale, is silent" in bench.got["status"][-1].message)
    message = bench.got["status"][-1].message
    assert "no publisher of /depth: start it, or remap `depth`" in message and "imu, a source" not in message
    assert "map -> odom, grid and map are withheld (scale.require): the scale is UNKNOWN" in message


def test_sources_that_arrive_but_cannot_be_used_are_named(make):
    """Known fault: the scale stayed unknown, and the status said that all is well."""
    bench = make(scale__depth=True, scale__odometry="topic", scale__imu=True)
    caster, health = publish_mounting(bench), bench.node.metric.health
    wheels, imu = bench.peer.create_publisher(Odometry, "odometry", 50), bench.peer.create_publisher(Imu, "imu", 200)
    depth = bench.peer.create_publisher(Image, "depth", 10)

    def publish(index, frame):
        head = messages.header(frame.stamp, "odom")
        frozen = Odometry(header=head, child_frame_id="base_link")
        frozen.pose.pose.orientation.w = 1.0
        wheels.publish(frozen)
        imu.publish(Imu(header=messages.header(frame.stamp, "nowhere")))
        depth.publish(messages.depth_image(room_depth(index), messages.header(frame.stamp - 10**12, CAMERA)))

    play(bench, publish, 60)
    assert caster is not None and len(bench.node.slam.solution) >= 20
    assert "depth, a source of scale, has stamps 1000 s behind those of the images" in "".join(problems(bench))
    assert "odometry, a source of scale, arrives, but measures nothing: do its poses move" in "".join(problems(bench))
    since, why = health._refused["imu"]
    health._refused["imu"] = since - 6.0, why
    assert "imu, a source of scale, is refused: its frame nowhere has no fixed pose" in "".join(problems(bench))
    in_g = Imu(header=messages.header(lap().frames[60].stamp, "base_link"))
    in_g.linear_acceleration.z = 1.0
    for _ in range(200):
        bench.node.metric.on_imu(in_g)
    assert "gravity makes 9.81 m/s^2: are they in g, or without gravity?" in health._refused["imu"][1]


def problems(bench):
    return bench.node.monitor.problems()


@cache
def room_depth(index):
    return oracle().scene.depth(lap().world_camera[index], lap().frames[0].intrinsics, SIZE)


def test_odometry_of_the_robot_in_tf_gives_scale_and_map_odom(make):
    """With tf.mode map_to_odom, TF is read at the images' stamps, and map -> odom is correct in meters."""
    bench = make(tf__mode="map_to_odom")
    caster, moving = publish_mounting(bench), TransformBroadcaster(bench.peer)
    play(bench, lambda index, frame: moving.sendTransform(
        messages.transform(odom_base(index), frame.stamp, "odom", "base_link")))
    check_metric(bench, "odometry")
    _, found = bench.transforms("map", "odom")
    map_base = found[-1] @ odom_base(COUNT - 1)
    true = BASE_CAMERA @ inverse(lap().world_camera[0]) @ lap().world_camera[COUNT - 1] @ inverse(BASE_CAMERA)
    assert np.linalg.norm(map_base[:3, 3] - true[:3, 3]) < 0.15
    odom = [m for m in bench.got["odom"] if m.pose.covariance[0] < 1e5]
    assert {m.header.frame_id for m in odom} == {"odom_visual"}
    assert np.isfinite(matrix(odom[-1].pose.pose)).all()
    assert caster is not None


def test_gravity_levels_the_map_of_a_robot_that_stands_on_a_slope(make):
    """The base is rolled by 10 degrees, the IMU is mounted rotated: the base starts rolled in a level map."""
    bench = make(scale__imu=True)
    caster = publish_mounting(bench)
    base_imu, roll = pose(so3_exp(np.array([0.4, -0.8, 1.5])), np.array([0.1, 0.0, 0.2])), np.radians(10.0)
    caster.sendTransform(messages.transform(base_imu, 0, "base_link", "imu_link"))
    publisher = bench.peer.create_publisher(Imu, "imu", 200)
    assert bench.spin(publisher.get_subscription_count)
    gravity = base_imu[:3, :3].T @ so3_exp(np.array([-roll, 0, 0])) @ np.array([0, 0, 9.81])
    rng = np.random.default_rng(0)

    def publish(index, frame):
        if index == 1:
            for k in range(-140, 10):
                message = Imu(header=messages.header(lap().frames[0].stamp + k * 5_000_000, "imu_link"))
                acceleration = message.linear_acceleration
                acceleration.x, acceleration.y, acceleration.z = (gravity + 0.05 * rng.standard_normal(3)).tolist()
                publisher.publish(message)
                bench.spin(seconds=0.002)

    bench.info(lap().frames[0])
    for index, frame in enumerate(lap().frames[:25]):
        assert bench.spin(lambda: bench.node.worker.idle)
        publish(index, frame)
        bench.image(frame)
    bench.settle()
    assert len(bench.node.slam.solution) > 0
    map_base = bench.node.transforms.base_in_map(np.eye(4), BASE_CAMERA)
    np.testing.assert_allclose(map_base[:3, 3], 0, atol=1e-9)
    assert np.degrees(rotation_angle(map_base[:3, :3].T @ so3_exp(np.array([roll, 0, 0])))) < 1.0
    assert bench.logged("leveled by gravity")
    bench.spin(seconds=0.3)
    chain = bench.transforms("map", "odom")[1][-1] @ bench.transforms("odom", "base_link")[1][-1]
    np.testing.assert_allclose(chain, matrix(bench.got["pose"][-1].pose.pose), atol=1e-9)


def test_our_own_odometry_is_rejected_as_a_scale_source():
    with pytest.raises(ConfigError, match="the odometry in TF is our own"):
        Config().replace({"scale.odometry": "tf"})
    assert Config().replace({"tf.mode": "map_to_odom"}).odometry_source == "tf"
    assert Config().odometry_source == "none"


def test_depth_images_are_decoded_with_step_and_byte_order():
    values = np.array([[0.5, 0.0, 2.0], [np.inf, -1.0, 3.0]], ">f4")
    padded = np.zeros((2, 20), np.uint8)
    padded[:, :12] = values.view(np.uint8)
    found = decode_depth("32FC1", 2, 3, 20, True, padded.tobytes())
    np.testing.assert_array_equal(found, np.array([[0.5, np.nan, 2.0], [np.nan, np.nan, 3.0]], np.float32))
    millimeters = decode_depth("16UC1", 1, 2, 4, False, np.array([0, 1500], "<u2").tobytes())
    np.testing.assert_array_equal(millimeters, np.array([[np.nan, 1.5]], np.float32))
    for encoding, height, data in (("rgb8", 1, b"123"), ("32FC1", 0, b""), ("16UC1", 5, b"123")):
        with pytest.raises(ImageError):
            decode_depth(encoding, height, 1, 4, False, data)

"""The behavior of tf2_ros and sensor_msgs_py that vggt_ros relies on.

Runs with whichever packages are installed: the real ones on a ROS machine, `dev/stand_ins` elsewhere, so that the
stand-ins behave like the real ones.
"""

import subprocess
import sys
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")

import tf2_ros
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.time import Time
from sensor_msgs.msg import PointField
from sensor_msgs_py import point_cloud2
from std_msgs.msg import Header

SECOND = 1_000_000_000


def transform(parent, child, stamp=0, translation=(0.0, 0.0, 0.0), yaw=0.0):
    """Return a TransformStamped parent <- child, rotated by `yaw` about z."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = Time(nanoseconds=stamp).to_msg()
    p, q = message.transform.translation, message.transform.rotation
    p.x, p.y, p.z = translation
    q.z, q.w = float(np.sin(yaw / 2)), float(np.cos(yaw / 2))
    return message


def position(message):
    p = message.transform.translation
    return np.array([p.x, p.y, p.z])


def yaw(message):
    q = message.transform.rotation
    return 2 * np.arctan2(q.z, q.w)


@pytest.fixture
def buffer():
    """A buffer with odom -> base moving from t = 100 s to 102 s, base -> camera static."""
    buffer = tf2_ros.Buffer(cache_time=Duration(seconds=30))
    buffer.set_transform(transform("odom", "base", 100 * SECOND, (0.0, 0.0, 0.0), 0.0), "test")
    buffer.set_transform(transform("odom", "base", 102 * SECOND, (2.0, 0.0, 0.0), np.pi / 2), "test")
    buffer.set_transform_static(transform("base", "camera", 0, (0.1, 0.0, 0.3)), "test")
    return buffer


def test_interpolates_position_and_rotation(buffer):
    """Between two stamps, translation is interpolated linearly and rotation by slerp."""
    found = buffer.lookup_transform("odom", "base", Time(nanoseconds=100 * SECOND + SECOND // 2))
    assert position(found) == pytest.approx([0.5, 0, 0])
    assert yaw(found) == pytest.approx(np.pi / 8)
    assert (found.header.frame_id, found.child_frame_id) == ("odom", "base")
    assert Time.from_msg(found.header.stamp).nanoseconds == 100 * SECOND + SECOND // 2


def test_chain_and_its_inverse(buffer):
    """A chain through a static link, and its inverse in the other direction."""
    stamp = Time(nanoseconds=102 * SECOND)
    there, back = buffer.lookup_transform("odom", "camera", stamp), buffer.lookup_transform("camera", "odom", stamp)
    assert position(there) == pytest.approx([2.0, 0.1, 0.3])
    assert yaw(there) == pytest.approx(np.pi / 2) and yaw(back) == pytest.approx(-np.pi / 2)
    assert position(back) == pytest.approx([-0.1, 2.0, -0.3])


def test_time_zero_is_the_newest_common_time(buffer):
    """Time 0 means the newest common time; a chain of only static links has stamp 0."""
    newest = buffer.lookup_transform("odom", "camera", Time())
    assert Time.from_msg(newest.header.stamp).nanoseconds == 102 * SECOND
    assert position(buffer.lookup_transform("base", "camera", Time())) == pytest.approx([0.1, 0, 0.3])
    assert position(buffer.lookup_transform("base", "camera", Time(nanoseconds=7))) == pytest.approx([0.1, 0, 0.3])


def test_types_of_errors(buffer):
    """Unknown frames, unconnected trees and times outside the known interval have their own exceptions."""
    buffer.set_transform_static(transform("other", "island"), "test")
    with pytest.raises(tf2_ros.LookupException, match="nowhere"):
        buffer.lookup_transform("odom", "nowhere", Time())
    with pytest.raises(tf2_ros.ConnectivityException):
        buffer.lookup_transform("odom", "island", Time())
    for seconds in (99, 103):
        with pytest.raises(tf2_ros.ExtrapolationException):
            buffer.lookup_transform("odom", "base", Time(nanoseconds=seconds * SECOND))
    with pytest.raises(tf2_ros.InvalidArgumentException):
        buffer.lookup_transform("/odom", "base", Time())
    for error in ("LookupException", "ConnectivityException", "ExtrapolationException", "InvalidArgumentException"):
        assert issubclass(getattr(tf2_ros, error), tf2_ros.TransformException)


def test_can_transform_waits_for_the_timeout(buffer):
    """With a timeout it waits in wall time and then returns False; without one it returns immediately."""
    late = Time(nanoseconds=103 * SECOND)
    start = time.monotonic()
    assert buffer.can_transform("odom", "base", late) is False
    assert time.monotonic() - start < 1.0
    assert buffer.can_transform("odom", "base", late, Duration(seconds=1.0)) is False
    assert 1.0 <= time.monotonic() - start < 10.0
    assert buffer.can_transform("odom", "base", Time(nanoseconds=101 * SECOND)) is True


def test_old_data_is_removed_and_invalid_data_is_ignored(buffer):
    """The cache has the configured length; NaN, self transforms and zero quaternions are ignored."""
    buffer.set_transform(transform("odom", "base", 131 * SECOND, (9.0, 0.0, 0.0)), "test")
    with pytest.raises(tf2_ros.ExtrapolationException):
        buffer.lookup_transform("odom", "base", Time(nanoseconds=100 * SECOND))
    buffer.set_transform(transform("odom", "base", 132 * SECOND, (float("nan"), 0.0, 0.0)), "test")
    buffer.set_transform(transform("base", "base", 132 * SECOND), "test")
    broken = transform("odom", "base", 133 * SECOND)
    broken.transform.rotation.w = 0.0
    buffer.set_transform(broken, "test")
    newest = buffer.lookup_transform("odom", "base", Time())
    assert Time.from_msg(newest.header.stamp).nanoseconds == 131 * SECOND


def test_clear_keeps_static_transforms(buffer):
    """After a time jump the dynamic transforms are cleared, the static ones are kept."""
    buffer.clear()
    assert not buffer.can_transform("odom", "base", Time())
    assert buffer.can_transform("base", "camera", Time())


def test_over_the_wire():
    """Transforms sent by the broadcasters reach the buffer of a listener; static ones also if it starts later."""
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    sender = rclpy.create_node("tf_sender", context=context)
    tf2_ros.StaticTransformBroadcaster(sender).sendTransform(transform("base", "camera", 0, (0.1, 0.0, 0.3)))
    broadcaster = tf2_ros.TransformBroadcaster(sender)
    receiver = rclpy.create_node("tf_receiver", context=context)
    buffer = tf2_ros.Buffer(cache_time=Duration(seconds=30), node=receiver)
    listener = tf2_ros.TransformListener(buffer, receiver)
    try:
        for node in (sender, receiver):
            executor.add_node(node)
        deadline = time.monotonic() + 10
        while not buffer.can_transform("odom", "camera", Time()) and time.monotonic() < deadline:
            broadcaster.sendTransform([transform("odom", "base", 5 * SECOND, (1.0, 0.0, 0.0))])
            executor.spin_once(timeout_sec=0.05)
        found = buffer.lookup_transform("odom", "camera", Time(nanoseconds=5 * SECOND))
        assert position(found) == pytest.approx([1.1, 0, 0.3])
    finally:
        listener.unregister()
        executor.shutdown()
        rclpy.shutdown(context=context)


def test_clouds_keep_their_bytes():
    """A structured array is unchanged after conversion to PointCloud2 and back; NaN points can be skipped."""
    dtype = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f4"), ("confidence", "<f4")])
    fields = [PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
              for i, name in enumerate(dtype.names)]
    points = np.zeros(1000, dtype)
    random = np.random.default_rng(0)
    for name in dtype.names:
        points[name] = random.normal(size=1000)
    points["x"][::10] = np.nan
    cloud = point_cloud2.create_cloud(Header(frame_id="map"), fields, points)
    assert (cloud.width, cloud.height, cloud.point_step, cloud.row_step) == (1000, 1, 20, 20000)
    assert bytes(cloud.data) == points.tobytes()
    assert point_cloud2.read_points(cloud).tobytes() == points.tobytes()
    kept = point_cloud2.read_points(cloud, field_names=["x", "confidence"], skip_nans=True)
    assert kept.dtype.names == ("x", "confidence") and len(kept) == 900
    np.testing.assert_array_equal(kept["confidence"], points["confidence"][np.isfinite(points["x"])])


def test_tf_message_is_the_real_type():
    """If tf2_msgs was built locally, its type hash equals that of ROS machines."""
    code = ("import rclpy, time; rclpy.init(); n = rclpy.create_node('hash');"
            "from tf2_msgs.msg import TFMessage; p = n.create_publisher(TFMessage, '/tf', 1); time.sleep(0.5);"
            "i = n.get_publishers_info_by_topic('/tf')[0]; print(getattr(i, 'topic_type_hash', 'none'))")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30).stdout.strip()
    if answer == "none":
        pytest.skip("this ROS distribution announces no type hashes")
    assert answer == "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"

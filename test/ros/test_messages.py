"""Messages: stamps, covariances and twists compared with second implementations, clouds read by sensor_msgs_py."""

import array
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sensor_msgs.msg", reason="needs the ROS message packages")
point_cloud2 = pytest.importorskip("sensor_msgs_py.point_cloud2", reason="needs sensor_msgs_py or its stand-in")
from visualization_msgs.msg import Marker

from vggt_ros.geometry.poses import Sim3, adjoint, inverse, matrix_from_quaternion, pose, so3_exp, so3_log
from vggt_ros.ros.conversions import messages
from vggt_ros.windows.point_cloud import PointCloud
from vggt_ros.windows.solution import Edge, Solution

HEAD = messages.header(1_700_000_000_123_456_789, "map")
POSE = pose(so3_exp(np.array([0.4, -0.7, 1.1])), np.array([1.0, -2.0, 0.5]))


def random_covariance(seed):
    root = np.random.default_rng(seed).normal(size=(6, 6)) * 1e-3
    return root @ root.T


@given(st.integers(0, 2**31 - 1), st.integers(0, 999_999_999))
def test_stamps_are_exact_to_the_nanosecond(seconds, fraction):
    stamp = seconds * 10**9 + fraction
    message = messages.time_message(stamp)
    assert (message.sec, message.nanosec) == (seconds, fraction)
    assert messages.nanoseconds(message) == stamp


def test_a_pose_is_unchanged_in_a_message():
    message = messages.pose_message(POSE)
    q, p = message.orientation, message.position
    np.testing.assert_allclose(matrix_from_quaternion(np.array([q.x, q.y, q.z, q.w])), POSE[:3, :3], atol=1e-12)
    np.testing.assert_allclose((p.x, p.y, p.z), POSE[:3, 3])
    sent = messages.transform(POSE, 5, "map", "base_link")
    assert (sent.header.frame_id, sent.child_frame_id, sent.header.stamp.nanosec) == ("map", "base_link", 5)
    assert sent.transform.rotation == q


def test_covariance_is_of_position_and_rotation_about_fixed_axes():
    """Perturb the pose on the right by samples of the covariance, and compute their covariance in the fixed frame."""
    covariance = random_covariance(0)
    samples = np.random.default_rng(1).multivariate_normal(np.zeros(6), covariance, 20000)
    deviations = []
    for sample in samples:
        moved = POSE @ pose(so3_exp(sample[:3]), sample[3:])
        deviations.append([*(moved[:3, 3] - POSE[:3, 3]), *so3_log(moved[:3, :3] @ POSE[:3, :3].T)])
    expected = np.cov(np.array(deviations).T)
    computed = messages.ros_covariance(covariance, POSE[:3, :3])
    np.testing.assert_allclose(computed, expected, atol=0.04 * np.abs(expected).max())
    np.testing.assert_allclose(computed, computed.T)


def test_the_adjoint_maps_a_perturbation_of_the_camera_to_the_base():
    base_camera = pose(so3_exp(np.array([-1.2, 1.2, -1.2])), np.array([0.3, 0.1, 0.8]))
    tangent = np.array([0.01, -0.02, 0.03, 0.05, -0.04, 0.02]) * 1e-4
    of_camera = POSE @ pose(so3_exp(tangent[:3]), tangent[3:]) @ inverse(base_camera)
    moved = adjoint(base_camera) @ tangent
    of_base = POSE @ inverse(base_camera) @ pose(so3_exp(moved[:3]), moved[3:])
    np.testing.assert_allclose(of_base, of_camera, atol=1e-10)


def test_the_twist_is_in_the_child_frame():
    """A robot that drives forward at 0.5 m/s and turns left at 0.2 rad/s, with an arbitrary heading."""
    heading = pose(so3_exp(np.array([0.0, 0.0, 2.0])), np.array([3.0, 1.0, 0.0]))
    step = pose(so3_exp(np.array([0.0, 0.0, 0.02])), np.array([0.05, 0.0, 0.0]))
    motion = np.diag([1e-6, 2e-6, 3e-6, 4e-6, 5e-6, 6e-6])  # rotation, then translation
    message = messages.odometry(heading @ step, np.eye(6) * 1e-4, HEAD, "base_link", (10**9, heading), 10**9 + 10**8,
                                motion, 0.1)
    twist = message.twist.twist
    np.testing.assert_allclose((twist.linear.x, twist.linear.y, twist.linear.z), (0.5, 0, 0), atol=1e-9)
    np.testing.assert_allclose((twist.angular.x, twist.angular.y, twist.angular.z), (0, 0, 0.2), atol=1e-9)
    assert (message.header.frame_id, message.child_frame_id) == ("map", "base_link")
    expected = 100 * np.diag([4e-6, 5e-6, 6e-6, 1e-6, 2e-6, 3e-6]) + np.diag([0.05**2, 0, 0, 0, 0, 0])  # of 0.1 s
    np.testing.assert_allclose(np.array(message.twist.covariance).reshape(6, 6), expected, atol=5e-6)


def test_the_twist_of_the_first_image_is_marked_unknown():
    message = messages.odometry(POSE, np.eye(6), HEAD, "base_link")
    assert min(np.diag(np.array(message.twist.covariance).reshape(6, 6))) == messages.UNKNOWN_VARIANCE


def random_cloud(count):
    rng = np.random.default_rng(2)
    return PointCloud(rng.normal(size=(count, 3)).astype(np.float32), rng.integers(0, 256, (count, 3), np.uint8),
                      rng.random(count, np.float32), rng.normal(size=(count, 3)).astype(np.float32))


def test_a_cloud_is_read_unchanged_by_sensor_msgs_py():
    cloud = random_cloud(1000)
    message = messages.point_cloud(cloud, HEAD)
    assert [field.name for field in message.fields] == ["x", "y", "z", "rgb", "normal_x", "normal_y", "normal_z",
                                                       "confidence"]
    assert message.point_step * message.width == message.row_step == len(message.data)
    read = point_cloud2.read_points(message)
    np.testing.assert_array_equal(np.stack([read["x"], read["y"], read["z"]], 1), cloud.points)
    np.testing.assert_array_equal(np.stack([read["normal_x"], read["normal_y"], read["normal_z"]], 1), cloud.normals)
    np.testing.assert_array_equal(read["confidence"], cloud.confidence)
    packed = np.ascontiguousarray(read["rgb"]).view(np.uint32)
    np.testing.assert_array_equal(np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], 1), cloud.colors)


def test_an_empty_cloud_is_a_valid_message():
    assert messages.point_cloud(PointCloud.empty(), HEAD).width == 0


def test_a_cloud_is_packed_without_a_look_at_every_byte():
    """Assigned from a list or an ndarray, the data of 200k points takes 90 to 300 ms; filled in place, 2 to 5 ms."""
    cloud, seconds = random_cloud(200_000), []
    for _ in range(5):
        began = time.thread_time()
        message = messages.point_cloud(cloud, HEAD)
        seconds.append(time.thread_time() - began)
    assert isinstance(message.data, array.array)
    assert min(seconds) < 0.05


def test_depth_is_32fc1_with_nan_and_its_own_calibration():
    depth = np.array([[1.5, np.nan, 2.0], [0.25, 3.0, np.nan]], np.float16)
    image = messages.depth_image(depth.astype(np.float32), HEAD)
    assert (image.encoding, image.height, image.width, image.step) == ("32FC1", 2, 3, 12)
    np.testing.assert_array_equal(np.frombuffer(image.data, np.float32).reshape(2, 3), depth.astype(np.float32))
    intrinsics = np.array([[2.0, 0, 1.0], [0, 2.1, 0.5], [0, 0, 1]])
    info = messages.camera_info(intrinsics, (3, 2), HEAD)
    assert (info.width, info.height, info.header) == (3, 2, image.header)
    np.testing.assert_array_equal(np.array(info.k).reshape(3, 3), intrinsics)
    np.testing.assert_array_equal(np.array(info.p).reshape(3, 4)[:, :3], intrinsics)
    assert not any(info.d)


def test_a_path_has_the_stamps_of_its_poses():
    stamps = np.array([1_700_000_000_000_000_001, 1_700_000_000_999_999_999])
    message = messages.path(stamps, np.array([np.eye(4), POSE]), "map")
    assert [messages.nanoseconds(item.header.stamp) for item in message.poses] == stamps.tolist()
    assert {item.header.frame_id for item in message.poses} == {message.header.frame_id} == {"map"}


def test_the_pose_graph_is_drawn_in_the_map_frame():
    world_camera = np.array([pose(np.eye(3), np.array([float(i), 0, 0])) for i in range(3)])
    edges = tuple(Edge(0, second, kind, Sim3.identity(), np.eye(7)) for second, kind in ((1, "overlap"), (2, "loop"),
                                                                                         (1, "refused")))
    solution = Solution(version=1, ids=np.arange(3), stamps=np.arange(3), submaps=np.array([0, 0, 1]),
                        windows=np.arange(3), map_camera=world_camera, scale=np.ones(3), window_ids=np.arange(3),
                        window_origin=world_camera[:, :3, 3], edges=edges,
                        refused_loops=((1, 2), (0, 99)))  # window 99 does not exist
    map_world = pose(so3_exp(np.array([0, 0, np.pi / 2])), np.array([0.0, 0, 1]))
    markers = {marker.ns: marker for marker in messages.pose_graph(solution, map_world, HEAD).markers
               if marker.action == Marker.ADD}
    assert {name: len(marker.points) for name, marker in markers.items()} == \
        {"keyframes": 3, "windows": 3, "overlap": 2, "loop": 2, "refused": 4}
    end = markers["loop"].points[1]
    np.testing.assert_allclose((end.x, end.y, end.z), (0, 2, 1), atol=1e-12)
    assert markers["keyframes"].colors[0] == markers["keyframes"].colors[1] != markers["keyframes"].colors[2]

"""The lifecycle node on real DDS, with a reconstructor that returns ground truth with noise (oracle)."""

import array
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from bench import CAMERA, OUTPUTS, Bench, GatedReconstructor, matrix, stamp
from diagnostic_msgs.msg import DiagnosticStatus
from peer import Peer
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from scenes import SIZE, lap, trajectory_error
from sensor_msgs.msg import Image, PointCloud2
from sensor_msgs_py import point_cloud2
from tf2_ros import StaticTransformBroadcaster, TransformBroadcaster

from vggt_ros.config import Config, TfConfig
from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import inverse, pose, rotation_angle, so3_exp
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.replay.run import run
from vggt_ros.ros.conversions import messages
from vggt_ros.ros.inputs.image_source import is_rectified_topic
from vggt_ros.ros.tf.transforms import BODY_OPTICAL
from vggt_ros.settings import ConfigError
from vggt_ros.synthetic import OracleNoise, SceneReconstructor, room
from vggt_ros.windows.frame import Frame

QUICK = {"tf__base_timeout": 0.0, "tf__assume_level": True}
SMALL = {**QUICK, "windows__size": 5, "windows__overlap": 2, "tracking__features": 200, "map__period": 0.0}
LONG, SHORT = 70, 25
"""Number of images of a whole run, and of a short one in which the first of the small windows are solved."""


@cache
def oracle():
    """A reconstructor that returns ground truth with noise; cached, since building its room takes a while."""
    sequence = lap()
    return SceneReconstructor(room(), [f.stamp for f in sequence.frames], sequence.world_camera, OracleNoise(scale=0.3))


@pytest.fixture
def make(capfd):
    benches = []

    def make_bench(reconstructor=None, outputs=OUTPUTS, **parameters):
        benches.append(Bench(reconstructor or oracle(), outputs, **{**SMALL, **parameters}))
        benches[-1].read_log = lambda: capfd.readouterr().err
        return benches[-1]

    yield make_bench
    for bench in benches:
        bench.close()


@pytest.fixture(scope="module")
def lapped():
    """The node after a whole lap around the room."""
    bench = Bench(oracle(), **QUICK).start()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:LONG])
    bench.settle(4.0)  # the last, partial window is solved after `windows.flush_after`
    bench.close()  # two nodes of one name in a process share their log
    return bench


def tracked(bench):
    return [message for message in bench.got["odom"] if message.pose.covariance[0] < 1e5]


def test_every_image_has_an_odometry_with_its_stamp(lapped):
    assert [stamp(message) for message in lapped.got["odom"]] == [frame.stamp for frame in lap().frames[:LONG]]
    assert len(tracked(lapped)) > 0.5 * LONG
    assert {(m.header.frame_id, m.child_frame_id) for m in lapped.got["odom"]} == {("odom", "base_link")}


def test_odometry_follows_the_truth_in_body_axes(lapped):
    """Positions up to one similarity; rotations are those of the base, which starts at the identity."""
    found = tracked(lapped)
    stamps = np.array([stamp(message) for message in found])
    poses = np.array([matrix(message.pose.pose) for message in found])
    error, _ = trajectory_error(stamps, poses, lap())
    assert error < 0.05
    first = lap().world_camera[0]
    for when, base in zip(stamps, poses, strict=True):
        true = BODY_OPTICAL @ inverse(first) @ lap().truth([when])[0] @ inverse(BODY_OPTICAL)
        assert np.degrees(rotation_angle(true[:3, :3].T @ base[:3, :3])) < 1.0


def test_twist_is_the_motion_in_the_base_frame(lapped):
    found = [message for message in tracked(lapped) if message.twist.covariance[0] < 1e5]
    assert len(found) > 0.9 * len(tracked(lapped)) - 2
    poses = {stamp(message): matrix(message.pose.pose) for message in tracked(lapped)}
    stamps = sorted(poses)
    for message in found:
        before = stamps[stamps.index(stamp(message)) - 1]
        step = inverse(poses[before]) @ poses[stamp(message)]
        linear = message.twist.twist.linear
        np.testing.assert_allclose((linear.x, linear.y, linear.z), step[:3, 3] / ((stamp(message) - before) * 1e-9),
                                   atol=1e-6)


def test_the_path_has_every_keyframe_at_its_own_stamp(lapped):
    path = lapped.got["path"][-1]
    solution = lapped.node.slam.solution
    assert [stamp(item) for item in path.poses] == solution.stamps.tolist()
    assert set(solution.stamps.tolist()) <= {frame.stamp for frame in lap().frames}
    assert path.header.frame_id == "map"
    error, _ = trajectory_error(solution.stamps, np.array([matrix(item.pose) for item in path.poses]), lap())
    assert error < 0.01
    np.testing.assert_allclose(matrix(path.poses[0].pose), np.eye(4), atol=1e-9)


def test_the_last_partial_window_is_solved_after_a_pause(lapped):
    assert lapped.node.slam.counts.keyframes == len(lapped.node.slam.solution)


class Lapped:
    """The images of the fixture `lapped` as a sequence."""

    name, rectified, assumptions, truth = "lap", False, (), None

    def __init__(self):
        first = lap().frames[0]
        self.camera = Camera(*first.image.shape[1::-1], first.intrinsics)

    def __len__(self):
        return LONG

    def __iter__(self):
        return ((frame.stamp, frame.image) for frame in lap().frames[:LONG])


def test_the_node_maps_what_replay_maps(lapped):
    """Offline evaluation is representative of the node: the same images give the same map."""
    offline, online = run(Lapped(), Config(), oracle()).slam.solution, lapped.node.slam.solution
    np.testing.assert_array_equal(online.ids, offline.ids)
    np.testing.assert_array_equal(online.stamps, offline.stamps)
    np.testing.assert_allclose(online.map_camera, offline.map_camera, atol=1e-6)


def test_transforms_make_one_tree_at_the_images_stamps(lapped):
    stamps, odom_base = lapped.transforms("odom", "base_link")
    assert stamps == [stamp(message) for message in tracked(lapped)]
    np.testing.assert_allclose(odom_base[-1], matrix(tracked(lapped)[-1].pose.pose), atol=1e-12)
    ahead, map_odom = lapped.transforms("map", "odom")
    assert min(ahead) >= stamps[0] + round(TfConfig().transform_tolerance * 1e9)
    np.testing.assert_allclose(map_odom[-1] @ odom_base[-1], matrix(lapped.got["pose"][-1].pose.pose), atol=1e-9)
    assert not lapped.transforms("map", CAMERA)[0]  # would be a second parent of a camera that the URDF has


def test_odometry_is_continuous_and_map_odom_takes_the_corrections(lapped):
    poses = np.array([matrix(message.pose.pose)[:3, 3] for message in tracked(lapped)])
    steps = np.linalg.norm(np.diff(poses, axis=0), axis=1)
    assert steps.max() < 4 * np.median(steps)


def test_the_map_is_upright_and_in_the_room(lapped):
    """Transformed to the room by the similarity of the trajectory, the points are inside; z is up."""
    cloud = lapped.got["cloud_map"][-1]
    assert (cloud.header.frame_id, cloud.is_dense) == ("map", True)
    points = point_cloud2.read_points_numpy(cloud, field_names=["x", "y", "z"]) if hasattr(
        point_cloud2, "read_points_numpy") else structured(cloud)
    path = lapped.got["path"][-1]
    poses = np.array([matrix(item.pose) for item in path.poses])
    _, room_map = trajectory_error(np.array([stamp(item) for item in path.poses]), poses, lap())
    inside = room_map.apply(points.astype(np.float64))
    assert (inside > np.array([0.0, 0.0, 0.0]) - 0.05).all() or (np.abs(inside) < 6).all()
    up = room_map.rotation.T @ up_of_the_room()
    first_up = BODY_OPTICAL[:3, :3] @ lap().world_camera[0][:3, :3].T @ up_of_the_room()
    np.testing.assert_allclose(up, first_up, atol=0.02)


def structured(cloud):
    read = point_cloud2.read_points(cloud)
    return np.stack([read["x"], read["y"], read["z"]], 1)


def up_of_the_room():
    return np.array([0.0, 0.0, 1.0])


def test_depth_comes_in_the_cameras_frame_with_its_calibration_and_the_maps_unit(lapped):
    images, infos = lapped.got["depth/image"], lapped.got["depth/camera_info"]
    assert [image.header for image in images] == [info.header for info in infos]
    assert [stamp(image) for image in images] == lapped.node.slam.solution.stamps.tolist()
    stamps, poses = lapped.node.slam.solution.trajectory(0)
    _, room_map = trajectory_error(stamps, poses, lap())
    for image, info in list(zip(images, infos, strict=True))[::5]:
        assert (image.encoding, image.header.frame_id) == ("32FC1", CAMERA)
        assert (info.width, info.height) == (image.width, image.height)
        depth = np.frombuffer(image.data, np.float32).reshape(image.height, image.width)
        intrinsics = np.array(info.k).reshape(3, 3)
        true = oracle().scene.depth(lap().truth([stamp(image)])[0], intrinsics, (image.width, image.height))
        assert np.nanmedian(np.abs(room_map.scale * depth / true - 1)) < 0.02


def test_the_cloud_is_the_newest_keyframes_in_the_cameras_frame(lapped):
    cloud, image = lapped.got["cloud"][-1], lapped.got["depth/image"][-1]
    assert cloud.header == image.header
    depth = np.frombuffer(image.data, np.float32)
    points = structured(cloud)
    assert points[:, 2].min() >= np.nanmin(depth) * 0.999 and points[:, 2].max() <= np.nanmax(depth) * 1.001


def test_status_counts_every_image(lapped):
    status = lapped.status()
    assert status["state"] == "TRACKING" and status["scale"] == "UNKNOWN"
    assert int(status["images received"]) == int(status["frames"]) == LONG
    assert all(int(status[f"images {name}"]) == 0 for name in ("waiting", "refused", "late", "missed"))
    assert "oracle" in status["reconstructor"]
    assert any(lapped.got["/diagnostics"])


def test_a_degraded_pose_has_a_reason(make):
    """The lens is covered gradually from one side."""

    class RefusingCovered(SceneReconstructor):
        def reconstruct(self, window):
            if any(keyframe.stamp not in self._poses for keyframe in window.keyframes):
                raise ReconstructionRefused("covered")
            return super().reconstruct(window)

    bench = make(lap().oracle(RefusingCovered), outputs=["odom"]).start()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:2 * SHORT])
    for step, width in enumerate(range(SIZE[0], 40, -8)):
        image = lap().frames[2 * SHORT].image.copy()
        image[:, width:] = 0
        bench.image(replace(lap().frames[2 * SHORT], image=image, stamp=lap().frames[2 * SHORT].stamp + step))
        if bench.node.monitor.tracked.state == "DEGRADED":
            break
    status = bench.node.monitor.status("vggt_slam", True)
    assert status.level == DiagnosticStatus.WARN and status.message.startswith("degraded: only")
    assert {item.key: item.value for item in status.values}["degraded by"] in status.message


def test_a_late_subscriber_has_the_map_without_images(make):
    bench = make(outputs=["odom", "path"]).start()
    made = []
    original = bench.node.slam.map_cloud
    bench.node.slam.map_cloud = lambda: made.append(1) or original()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:SHORT])
    assert len(bench.node.slam.solution) > 0 and not made  # expensive, and without a subscriber
    bench.record("/vggt_slam/cloud_map", PointCloud2, OUTPUTS["cloud_map"][1])
    assert bench.spin(lambda: bench.got["cloud_map"])
    assert bench.got["cloud_map"][-1].width > 1000


def test_reset_and_save_map(make, tmp_path):
    bench = make(map__folder=str(tmp_path / "maps")).start()
    assert not bench.call("save_map").success  # the map is empty
    bench.info(lap().frames[0])
    bench.play(lap().frames[:SHORT])
    answer = bench.call("save_map")
    assert answer.success, answer.message
    saved = tmp_path / "maps" / "map"
    assert saved.joinpath("map.ply").stat().st_size > 10_000
    lines = [line for line in saved.joinpath("trajectory.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(bench.node.slam.solution)
    assert bench.call("reset").success
    assert len(bench.node.slam.solution) == 0
    assert bench.spin(lambda: not bench.got["path"][-1].poses and bench.got["cloud_map"][-1].width == 0)
    bench.play(lap().frames[SHORT:60])
    assert min(stamp(item) for item in bench.got["path"][-1].poses) >= lap().frames[SHORT].stamp


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "", ".", "a/../../outside"])
def test_a_map_is_not_saved_outside_its_folder(make, tmp_path, name):
    """It is refused before anything is mapped."""
    with pytest.raises(ConfigError, match=r"map\.name: "):
        make(map__folder=str(tmp_path / "maps"), map__name=name)
    assert not list(tmp_path.iterdir())


def in_flight(make):
    """Return a bench whose node is solving a window, the gate that blocks it, and the frames that follow."""
    gate = GatedReconstructor(oracle())
    bench = make(gate).start()
    bench.info(lap().frames[0])
    gate.open.clear()
    frames = iter(lap().frames)
    while not gate.inside.is_set():
        bench.image(next(frames))
    return bench, gate, frames


def test_a_reset_during_a_reconstruction_keeps_the_old_window_out(make):
    bench, gate, frames = in_flight(make)
    bench.node.reset("for a test")
    later = list(frames)[:40]
    for frame in later[:5]:
        bench.image(frame)
    gate.open.set()
    bench.play(later[5:])
    assert bench.node.slam.solution.stamps.min() >= later[0].stamp
    assert all(stamp(item) >= later[0].stamp for path in bench.got["path"] for item in path.poses)


def test_deactivate_with_a_window_in_flight_and_activate_again(make):
    bench, gate, frames = in_flight(make)
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    gate.open.set()
    assert bench.node.trigger_activate().name == "SUCCESS"
    assert bench.spin(lambda: bench.images.get_subscription_count())
    bench.spin(seconds=0.3)
    bench.info(lap().frames[0])
    bench.play(list(frames)[:40])
    solved = bench.node.slam.solution
    assert solved.submaps.max() == 0 and solved.stamps[-1] > lap().frames[40].stamp
    assert trajectory_error(*bench.node.slam.solution.trajectory(0), lap())[0] < 0.02


def test_cleanup_and_configure_again(make):
    bench = make().start()
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        assert getattr(bench.node, f"trigger_{transition}")().name == "SUCCESS"
    assert bench.spin(lambda: bench.images.get_subscription_count() == 1)
    bench.spin(seconds=0.3)
    bench.info(lap().frames[0])
    bench.play(lap().frames[:SHORT])
    assert len(bench.node.slam.solution) >= 5


def test_bad_images_are_refused_with_the_topic_and_the_node_continues(make):
    bench = make().start()
    first, *rest = lap().frames
    bench.info(first)
    bad = [{"encoding": "rgb9"}, {"step": 10}, {"data": array.array("B", bytes(100))}, {"data": array.array("B")},
           {"width": 0, "height": 0}, {"height": 10}]
    for changes in bad:
        bench.image(first, **changes)
    assert bench.counts["refused"] == len(bad)
    assert bench.spin(lambda: bench.logged("/image", "rgb9"))
    bench.image(Frame(first.stamp, np.zeros_like(first.image), first.intrinsics))
    assert bench.spin(lambda: bench.logged("/image", "black"))
    bench.play(rest[:SHORT])
    assert bench.counts["received"] == len(bad) + 1 + SHORT == bench.counts["refused"] + bench.node.slam.counts.frames
    assert len(bench.node.slam.solution) >= 5


def test_a_changed_image_size_is_refused_until_the_calibration_matches(make):
    bench = make().start()
    first = lap().frames[0]
    bench.info(first)
    bench.image(first)
    bench.image(Frame(first.stamp + 1, first.image[::2, ::2].copy(), first.intrinsics))
    assert bench.counts["refused"] == 1
    assert bench.spin(lambda: bench.logged("160x120", "/camera_info"))
    for number in range(2, 22):  # known fault: /diagnostics went on saying that all is well
        bench.image(Frame(first.stamp + number, first.image[::2, ::2].copy(), first.intrinsics))
    assert bench.spin(lambda: "21 images in a row are refused, the last one: /image: the image has 160x120 pixels"
                      in bench.status_message())
    assert bench.got["status"][-1].level == DiagnosticStatus.WARN
    bench.image(Frame(first.stamp + 30, first.image, first.intrinsics))
    assert not bench.node.source.unused


def test_without_camera_info_a_field_of_view_is_assumed_with_a_warning(make):
    bench = make(camera__info_timeout=0.5).start()
    bench.image(lap().frames[0])
    assert bench.counts["waiting"] == 1
    bench.spin(seconds=0.6)
    bench.image(lap().frames[1])
    assert bench.node.slam.counts.frames == 1
    assert bench.spin(lambda: bench.logged("/camera_info", "/peer", "field of view", "assumed"))


def test_the_calibration_may_come_after_the_first_image(make):
    """The timeout starts at the first image, however long the node has waited: its calibration is not assumed."""
    bench = make(camera__info_timeout=0.5).start()
    bench.spin(seconds=0.6)
    bench.image(lap().frames[0])
    bench.info(lap().frames[0])
    bench.image(lap().frames[1])
    assert (bench.counts["waiting"], bench.node.slam.counts.frames, bench.node.monitor.resets) == (1, 1, 0)
    assert not bench.logged("is assumed (camera.fov)")


@pytest.mark.parametrize(("given", "expected", "warned"), [("", "base_link_camera", True),
                                                            ("/camera", "camera", False)])
def test_an_invalid_frame_id_is_replaced(make, given, expected, warned):
    bench = make().start()
    bench.info(lap().frames[0])
    bench.image(lap().frames[0], header=messages.header(lap().frames[0].stamp, given))
    assert bench.spin(lambda: ("base_link", expected) in {
        (t.header.frame_id, t.child_frame_id) for message in bench.got["/tf_static"] for t in message.transforms})
    assert bench.logged("header.frame_id is empty") is warned


def test_a_failure_to_build_the_map_message_does_not_end_the_node(make):
    bench = make().start()
    bench.info(lap().frames[0])
    good, bench.node.slam.map_cloud = bench.node.slam.map_cloud, None
    bench.play(lap().frames[:SHORT])
    assert bench.logged("/vggt_slam/cloud_map", "cannot be published")
    bench.node.slam.map_cloud = good
    bench.play(lap().frames[SHORT:2 * SHORT])
    assert bench.got["cloud_map"][-1].width > 1000


@pytest.mark.parametrize(("changes", "words"), [
    ({"k": np.full(9, np.nan)}, "NaN"), ({"k": lap().frames[0].intrinsics.T.ravel()}, "transposed"),
    ({"distortion_model": "equidistant", "d": [0.1, 0.2, 0.3, 0.4, 0.5]}, "5 coefficients"),
    ({"d": [-8.0, 4.0, 0.0, 0.0, 0.0]}, "folds inside the image")])
def test_images_of_a_wrong_calibration_are_refused_until_a_right_one_comes(make, changes, words):
    """Not tracked as those of a pinhole with an assumed field of view: the map would be wrong without a word."""
    bench = make(camera__info_timeout=0.0).start()
    frame = lap().frames[0]
    bench.info(frame, **changes)
    bench.image(frame)
    assert bench.spin(lambda: bench.logged("/camera_info", words))
    assert (bench.counts["refused"], bench.node.slam.counts.frames) == (1, 0)
    bench.status_now()
    assert words in bench.got["status"][-1].message
    bench.info(frame)
    bench.image(lap().frames[1])
    assert (bench.counts["refused"], bench.node.slam.counts.frames) == (1, 1)
    assert bench.status_now()["calibration"] == "from /camera_info"


def test_a_camera_that_is_not_calibrated_is_assumed_after_a_while(make):
    bench = make(camera__info_timeout=0.5).start()
    frames = lap().frames
    bench.info(frames[0], k=np.zeros(9))
    bench.image(frames[0])
    assert bench.counts["waiting"] == 1
    bench.spin(seconds=0.6)
    bench.image(frames[1])
    assert bench.spin(lambda: bench.logged("/camera_info", "not calibrated", "field of view", "assumed"))
    assert bench.node.slam.counts.frames == 1


def test_the_first_calibration_may_be_empty(make):
    """Drivers publish it before they have loaded theirs."""
    bench = make().start()
    frames = lap().frames
    bench.info(frames[0], k=np.zeros(9))
    bench.image(frames[0])
    bench.info(frames[0])
    bench.image(frames[1])
    assert (bench.counts["waiting"], bench.node.slam.counts.frames, bench.node.monitor.resets) == (1, 1, 0)
    assert bench.status_now()["calibration"] == "from /camera_info"


def test_a_calibration_without_a_size_is_for_the_images(make):
    bench = make().start()
    bench.info(lap().frames[0], width=0, height=0)
    bench.image(lap().frames[0])
    assert (bench.counts["refused"], bench.node.slam.counts.frames) == (0, 1)
    assert bench.node.source.rectifier.camera.calibrated


def test_a_camera_on_a_robot(make):
    """The camera is tilted and off-center: base_link starts at the origin of a map that is level with the base."""
    base_camera = pose(BODY_OPTICAL[:3, :3] @ so3_exp(np.array([-0.3, 0.1, 0.0])), np.array([0.2, -0.1, 0.5]))
    bench = make(tf__base_timeout=5.0)
    StaticTransformBroadcaster(bench.peer).sendTransform(messages.transform(base_camera, 0, "base_link", CAMERA))
    bench.start()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:SHORT])
    assert not bench.logged("assumed to be level")
    parents = {(t.child_frame_id, t.header.frame_id) for topic in ("/tf", "/tf_static") for message in bench.got[topic]
               for t in message.transforms}
    assert sorted(parents) == [("base_link", "odom"), (CAMERA, "base_link"), ("odom", "map")]  # one parent each
    stamps, world_camera = bench.node.slam.solution.trajectory(0)
    path = bench.got["path"][-1]
    assert [stamp(item) for item in path.poses] == stamps.tolist()
    for item, camera in zip(path.poses, world_camera, strict=True):
        np.testing.assert_allclose(matrix(item.pose), base_camera @ camera @ inverse(base_camera), atol=1e-9)


def test_a_robot_with_odometry_of_its_own_gets_map_odom_only(make):
    bench = make(tf__mode="map_to_odom")
    robot = TransformBroadcaster(bench.peer)
    bench.start()
    bench.info(lap().frames[0])
    drift = pose(so3_exp(np.array([0.0, 0.0, 0.4])), np.array([1.0, 2.0, 0.0]))
    for index, frame in enumerate(lap().frames[:SHORT]):
        bench.spin(lambda: bench.node.worker.idle)
        moved = pose(np.eye(3), np.array([0.01 * index, 0.0, 0.0]))
        robot.sendTransform(messages.transform(drift @ moved, frame.stamp, "odom", "base_link"))
        bench.spin(seconds=0.02)
        bench.image(frame)
    bench.settle()
    stamps, map_odom = bench.transforms("map", "odom")
    assert stamps and len(bench.transforms("odom", "base_link")[0]) == SHORT  # those of the robot only
    last = matrix(bench.got["pose"][-1].pose.pose)
    assert stamp(bench.got["pose"][-1]) == lap().frames[SHORT - 1].stamp
    np.testing.assert_allclose(map_odom[-1] @ drift @ moved, last, atol=1e-6)
    assert bench.got["odom"][-1].header.frame_id != "odom"


def test_a_bag_with_its_clock_keeps_transforms_on_the_bags_time(make):
    """The stamps are years old: without use_sim_time the node warns, with it map -> odom has the time of /clock."""
    bench = make(use_sim_time=True)
    clock = bench.peer.create_publisher(Clock, "/clock", 10)
    bench.start()
    bench.info(lap().frames[0])
    later = 30_000_000
    for frame in lap().frames[:SHORT]:
        assert bench.spin(lambda: bench.node.worker.idle)
        clock.publish(Clock(clock=messages.time_message(frame.stamp + later)))
        bench.spin(lambda now=frame.stamp + later: bench.node.get_clock().now().nanoseconds == now)
        bench.image(frame)
        bench.spin(seconds=0.06)
    stamps, _ = bench.transforms("map", "odom")
    ahead = later + round(TfConfig().transform_tolerance * 1e9)
    assert stamps and set(stamps) <= {frame.stamp + ahead for frame in lap().frames[:SHORT]}
    assert not bench.logged("away from this node's clock")


@pytest.mark.parametrize(("mode", "expected"), [("map_to_base", {("map", "base_link")}), ("none", set())])
def test_other_modes_of_tf(make, mode, expected):
    bench = make(tf__mode=mode).start()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:SHORT])
    assert {(t.header.frame_id, t.child_frame_id) for m in bench.got["/tf"] for t in m.transforms} == expected
    assert tracked(bench)


@pytest.mark.parametrize(("topic", "rectified"), [
    ("/camera/image_rect", True), ("/stereo/left/image_rect_color", True), ("/rect/image/compressed", True),
    ("/camera/image_rectified", True), ("/camera/image_raw", False), ("/direct/image", False),
    ("/rectory/image", False)])
def test_a_rectified_topic_is_detected_by_its_name(topic, rectified):
    assert is_rectified_topic(topic) is rectified


def test_a_live_setting_thins_the_map(make):
    bench = make().start()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:SHORT])
    before = bench.got["cloud_map"][-1].width
    assert bench.node.set_parameters([Parameter("map.max_depth", value=1.0)])[0].successful
    assert bench.spin(lambda: bench.got["cloud_map"][-1].width < 0.8 * before)


def test_a_failure_of_the_tracker_is_counted_and_the_node_continues(make):
    bench = make().start()
    bench.info(lap().frames[0])
    good, bench.node.slam.locate = bench.node.slam.locate, None
    bench.image(lap().frames[0])
    assert bench.node.monitor.failed_images == 1 and bench.logged("/image", "tracking failed")
    bench.node.slam.locate = good
    bench.image(lap().frames[1])
    assert bench.node.slam.counts.frames == 1


def test_a_misspelled_parameter_is_reported(make):
    bench = make(windows__sise=9)
    assert bench.logged("windows.sise")


def test_a_whole_number_is_taken_for_a_real_one(make):
    """As YAML writes `camera.fov: 80`; rclpy refuses it."""
    assert make(camera__fov=80).node.get_parameter("camera.fov").value == 80.0


def test_missing_images_are_explained_with_qos(make):
    bench = make()
    bench.peer.create_publisher(Image, "image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    bench.start()
    bench.node.source.last_arrival -= 6.0
    assert bench.spin(lambda: bench.logged("no image", "/image", "/peer", "best_effort", "/camera_info"))


def test_the_state_says_that_images_are_silent(make):
    """Known fault: TRACKING for as long as nothing came."""
    bench = make().start()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:SHORT])
    assert bench.status_now()["state"] in ("TRACKING", "DEGRADED")
    bench.node.source.last_arrival -= 6.0
    assert bench.status_now()["state"] == "NO_IMAGE"
    bench.image(lap().frames[SHORT])
    assert bench.spin(lambda: bench.status_now()["state"] in ("TRACKING", "DEGRADED"))


def status_contains(bench, text):
    """Return whether the message of ~/status contains a text within a few seconds."""
    return bench.spin(lambda: bool(bench.got["status"]) and text in bench.got["status"][-1].message)


def test_a_qos_mismatch_is_reported_with_its_cure(make):
    bench = make(**{"qos_overrides./image.subscription.reliability": "reliable"})
    bench.peer.destroy_publisher(bench.images)
    bench.peer.create_publisher(Image, "image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    assert bench.node.trigger_configure().name == "SUCCESS"
    assert bench.spin(lambda: bench.node.reconstructor.state == "READY")
    assert bench.node.trigger_activate().name == "SUCCESS"
    bench.spin(seconds=0.5)
    bench.node.source.last_arrival -= 6.0
    assert status_contains(bench, "QoS mismatch: /peer offers best_effort")
    assert bench.logged("QoS mismatch", "qos_overrides./image.subscription")


def test_a_stationary_camera_during_initialization_is_reported(make):
    bench = make().start()
    bench.info(lap().frames[0])
    still = lap().frames[0]
    for index in range(3):
        bench.image(Frame(still.stamp + index * 50_000_000, still.image, still.intrinsics))
    bench.node.monitor._last_keyframe -= 11.0
    bench.image(Frame(still.stamp + 200_000_000, still.image, still.intrinsics))
    assert status_contains(bench, "move the camera sideways")
    assert bench.logged("no keyframe for", "lack parallax")


def test_assumptions_on_frames_and_clocks_are_in_the_status(make):
    bench = make().start()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:SHORT])
    assert "static_transform_publisher" in bench.node.transforms.mounting.problem
    assert status_contains(bench, "assumed to be level")
    assert "use_sim_time" in bench.node.transforms.clock_mismatch  # the room's stamps are years old
    assert status_contains(bench, "use_sim_time")


def test_the_log_says_when_the_camera_is_found_and_lost(make):
    bench = make().start()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:SHORT])
    assert bench.spin(lambda: bench.logged("INFO", "tracking: the camera is found in the map"))
    bench.node.monitor._last_change -= 10.0
    bench.image(replace(lap().frames[SHORT], image=np.zeros_like(lap().frames[0].image)))
    assert bench.spin(lambda: bench.logged("WARN", "lost: too few features in the image"))


def test_images_that_the_queue_dropped_are_counted(make):
    bench = make().start()
    bench.info(lap().frames[0])
    bench.image(lap().frames[0])
    for frame in lap().frames[1:31]:
        bench.image(frame, wait=False)
        time.sleep(0.002)
    bench.settle(0.5)
    bench.image(lap().frames[31])
    counts = bench.counts
    assert bench.spin(lambda: counts["received"] + counts["missed"] == 32), counts
    assert counts["missed"] > 0


def test_latency_is_measured_from_the_arrival_and_not_from_the_callback(make):
    """The time that an image waits in the queue is included."""
    bench = make().start()
    bench.info(lap().frames[0])
    for frame in lap().frames[:5]:
        bench.image(frame)
    prompt = bench.status_now()
    assert 0 < float(prompt["latency idle median ms"]) <= float(prompt["latency idle p99 ms"]) < 1500
    bench.image(lap().frames[5], wait=False)
    time.sleep(1.5)
    bench.settle()
    assert 1500 < float(bench.status_now()["latency idle p99 ms"]) < 15_000


def test_a_pose_is_published_before_keyframe_selection(make):
    bench = make().start()
    bench.info(lap().frames[0])
    select = bench.node.slam.select_keyframe
    bench.node.slam.select_keyframe = lambda load: time.sleep(2.0) or select(load)
    bench.image(lap().frames[0])
    bench.settle()
    assert float(bench.status_now()["latency idle p99 ms"]) < 2000
    assert bench.node.slam.counts.keyframes == 1


def test_relocalization_is_skipped_for_delayed_images_but_every_sixth(make):
    """On a machine where every image is delayed, a lost camera must still be relocalized."""
    node = make().start().node
    node.source.received_at = time.time_ns() - 10**9
    assert [node.tracking._allow_search() for _ in range(12)] == ([False] * 5 + [True]) * 2
    node.tracking._allow_search()
    node.source.received_at = time.time_ns()
    assert node.tracking._allow_search() and node.tracking._skipped_searches == 0
    node.source.received_at = 0  # a middleware that does not provide it
    assert node.tracking._allow_search()


def test_the_executable_ends_cleanly_and_reports_a_wrong_parameter():
    command = [sys.executable, "-m", "vggt_ros.ros.node.slam_node", "--ros-args"]
    node = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    observer = Peer()
    assert observer.state("/vggt_slam") == "unconfigured"
    observer.close()
    assert node.poll() is None
    while node.poll() is None:  # those of terminal and launch may arrive at any point of the cleanup
        node.send_signal(signal.SIGINT)
        time.sleep(0.005)
    _, errors = node.communicate(timeout=20)
    assert node.returncode == 0 and "Traceback" not in errors
    wrong = subprocess.run([*command, "-p", "windows.size:=1000"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2 and "windows.size" in wrong.stderr and "Traceback" not in wrong.stderr

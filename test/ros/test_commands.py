"""Services with names, the typed status, names of topics, and the picture of the corners, on real DDS."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from bench import CAMERA, LATCHED, Bench, matrix, stamp
from nav_msgs.msg import OccupancyGrid
from nav_msgs.srv import GetMap
from peer import Peer
from scenes import lap
from sensor_msgs.msg import Image, PointCloud2

from vggt_ros.geometry.poses import inverse
from vggt_ros.ros.conversions import messages
from vggt_ros.ros.conversions.interfaces import MISSING, TYPED_SERVICES
from vggt_ros.view.tracked_corners import FROM_DEPTH, TRIANGULATED, UNKNOWN, draw_corners

SETTINGS = {"tf__base_timeout": 0.0, "tf__assume_level": True, "windows__size": 5, "windows__overlap": 2}
typed = pytest.mark.skipif(bool(MISSING), reason=f"vggt_ros_msgs is not built ({MISSING})")


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """The node with the map of a part of the room, and the images that come next."""
    bench = Bench(lap().oracle(), ["odom", "pose", "path", "status"],
                  map__folder=str(tmp_path_factory.mktemp("maps")), **SETTINGS)
    try:
        bench.start()
        bench.info(lap().frames[0])
        bench.play(lap().frames[:40])
        frames = lap().frames  # the camera goes back, through what it has mapped
        bench.next = (replace(frames[39 - step], stamp=frames[40 + step].stamp) for step in range(39))
        yield bench
    finally:
        bench.close()


@pytest.fixture
def bench(mapped, capfd):
    mapped.log, mapped.read_log = "", lambda: capfd.readouterr().err
    return mapped


def call_typed(bench, service, **fields):
    kind = TYPED_SERVICES[service]
    return bench.request(kind, f"/vggt_slam/{service}", kind.Request(**fields))


def test_a_paused_node_takes_no_images_and_stays_active(bench):
    """The images after it are located in the same map."""
    assert bench.call("pause").success
    assert "already" in bench.call("pause").message
    received, resets = bench.counts["received"], bench.node.monitor.resets
    assert bench.spin(lambda: bench.images.get_subscription_count() == 0)
    bench.image(next(bench.next), wait=False)
    bench.spin(seconds=0.5)
    assert bench.counts["received"] == received and bench.state() == "active"
    assert bench.node.has_map  # map -> odom is sent while this is so
    assert bench.status_now()["paused"] == "yes" and bench.status_message().startswith("paused")
    assert bench.call("resume").success and "not paused" in bench.call("resume").message
    assert bench.spin(lambda: bench.images.get_subscription_count() and bench.infos.get_subscription_count())
    bench.play([next(bench.next)])
    assert bench.counts["received"] == received + 1 and bench.node.monitor.tracked.map_camera is not None
    assert bench.node.monitor.resets == resets and bench.status_now()["paused"] == "no"


def test_the_odometry_begins_anew_where_the_base_is_and_map_stays(bench):
    """At the position and heading of the base, z up; the pose in the map does not jump, nor does a twist come of it."""
    bench.play([next(bench.next)])
    before, map_before = matrix(bench.got["odom"][-1].pose.pose), matrix(bench.got["pose"][-1].pose.pose)
    assert np.linalg.norm(before[:3, 3]) > 0.1
    assert bench.call("reset_odometry").success
    bench.play([next(bench.next)])
    odom, map_base = matrix(bench.got["odom"][-1].pose.pose), matrix(bench.got["pose"][-1].pose.pose)
    moved = np.linalg.norm(map_base[:3, 3] - map_before[:3, 3])
    assert np.linalg.norm(odom[:3, 3]) == pytest.approx(moved, abs=1e-6) and moved < 0.3
    old_step, new_step = inverse(map_before) @ map_base, odom
    heading = np.arctan2(before[1, 0], before[0, 0])
    turned = np.array([[np.cos(heading), -np.sin(heading), 0], [np.sin(heading), np.cos(heading), 0], [0, 0, 1.0]])
    np.testing.assert_allclose(new_step[:3, :3], turned.T @ before[:3, :3] @ old_step[:3, :3], atol=1e-6)
    assert bench.got["odom"][-1].twist.covariance[0] >= 1e6
    bench.spin(seconds=0.1)
    _, map_odom = bench.transforms("map", "odom")
    np.testing.assert_allclose(map_odom[-1] @ odom, map_base, atol=1e-6)


@typed
def test_a_map_is_saved_and_loaded_by_name(bench):
    solved = len(bench.node.slam.solution)
    answer = call_typed(bench, "save_named_map", name="cellar")
    assert answer.success and answer.message.endswith("/cellar") and answer.keyframes == solved
    answer = call_typed(bench, "load_named_map", name="cellar")
    assert answer.success and answer.keyframes == solved == len(bench.node.slam.solution)
    answer = call_typed(bench, "load_named_map", name="attic")
    assert not answer.success and "attic: no map is saved there" in answer.message
    assert "the maps beside it are cellar" in answer.message
    answer = call_typed(bench, "save_named_map", name="../outside")
    assert not answer.success and "does not name a folder inside" in answer.message
    assert bench.parameters("map.name") == ["map"]


@typed
def test_the_mode_is_set_and_is_the_parameter(bench):
    for mode in ("localization", "mapping"):
        assert call_typed(bench, "set_mode", mode=mode).success
        assert bench.parameters("mode") == [mode]
        assert bench.spin(lambda mode=mode: bench.node.slam.config.mode == mode)
    answer = call_typed(bench, "set_mode", mode="flying")
    assert not answer.success and "flying" in answer.message and "localization" in answer.message
    assert bench.parameters("mode") == ["mapping"]


@typed
def test_localize_says_whether_the_camera_can_be_searched_for(bench):
    bench.play([next(bench.next)])
    there = matrix(bench.got["pose"][-1].pose.pose)
    answer = call_typed(bench, "localize", pose=messages.pose_with_covariance(there, 0.01 * np.eye(6),
                                                                             messages.header(0, "map")))
    assert answer.success and answer.message.startswith("searching for the camera within")
    bench.play([next(bench.next) for _ in range(5)])  # images have to agree on it
    assert np.linalg.norm(matrix(bench.got["pose"][-1].pose.pose)[:3, 3] - there[:3, 3]) < 0.5
    assert bench.node.monitor.tracked.map_camera is not None
    far = there.copy()
    far[0, 3] += 100.0
    for pose, frame, variance, why in ((far, "map", 0.01, "no keyframe looks there"),
                                       (there, "odom", 0.01, "it must be in 'map'"),
                                       (there * np.nan, "map", 0.01, "not finite"), (there, "map", -0.01, "negative")):
        answer = call_typed(bench, "localize", pose=messages.pose_with_covariance(pose, variance * np.eye(6),
                                                                                 messages.header(0, frame)))
        assert not answer.success and why in answer.message


@typed
def test_the_typed_status_is_the_status(bench):
    from vggt_ros_msgs.msg import SlamStatus

    bench.record("/vggt_slam/slam_status", SlamStatus, LATCHED)
    bench.play([next(bench.next)])
    assert bench.spin(lambda: len(bench.got["slam_status"]) > 2)
    status, text = bench.got["slam_status"][-1], bench.status()
    assert status.state == getattr(SlamStatus, text["state"]) in (SlamStatus.TRACKING, SlamStatus.DEGRADED)
    assert status.active and not status.paused and status.mode == "mapping" and status.header.frame_id == "map"
    assert (status.scale_state, status.scale_source) == (SlamStatus.SCALE_UNKNOWN, text["scale by"])
    assert status.images_received == bench.counts["received"] > status.images_tracked == int(text["tracked"]) > 0
    assert status.keyframes == len(bench.node.slam.solution) == int(text["keyframes placed"])
    assert status.windows == int(text["windows"])
    assert status.last_window_seconds > 0 or (np.isnan(status.last_window_seconds) and "last window" not in text)
    assert status.message == bench.status_message() and status.latency_milliseconds > 0


def test_get_map_returns_the_grid_without_a_subscriber(bench):
    """All keyframes at once; the topic then has the same cells."""
    bench.settle(4.0)  # the last, partial window is solved after `windows.flush_after`
    grid = bench.request(GetMap, "/vggt_slam/get_map", GetMap.Request()).map
    assert grid.header.frame_id == "map" and stamp(grid) == bench.node.slam.solution.stamps[-1]
    cells = np.array(grid.data, np.int8)
    assert len(cells) == grid.info.width * grid.info.height and {-1, 0, 100} <= set(np.unique(cells))
    bench.record("/vggt_slam/map", OccupancyGrid, LATCHED)
    assert bench.spin(lambda: bench.got["map"])
    assert bench.got["map"][-1].data == grid.data


def test_old_names_stay_and_are_mentioned_once(bench):
    bench.record("/vggt_slam/grid", OccupancyGrid, LATCHED)
    bench.record("/vggt_slam/map_updates", PointCloud2, 10)
    assert bench.spin(lambda: bench.got["grid"] and bench.got["map_updates"])
    bench.spin(seconds=1.0)
    assert bench.logged("/vggt_slam/grid is now /vggt_slam/map;")
    assert bench.logged("/vggt_slam/map_updates is now /vggt_slam/cloud_map_updates;")
    assert bench.log.count("the old name goes") == 2


def test_a_subscriber_that_expects_a_cloud_on_map_is_named(bench):
    """It gets nothing, and ROS does not tell it."""
    other = Peer()  # a participant of DDS has one type for a topic
    other.peer.create_subscription(PointCloud2, "/vggt_slam/map", other.got["wrong"].append, LATCHED)
    assert bench.spin(lambda: bench.logged("subscribes to /vggt_slam/map as sensor_msgs/msg/PointCloud2",
                                           "/vggt_slam/cloud_map now"), seconds=20)
    bench.spin(seconds=1.2)
    assert bench.log.count("subscribes to") == 1 and not other.got["wrong"]
    other.close()


def test_features_are_drawn_while_somebody_subscribes(bench):
    """The picture differs from its image at the corners only, and without a subscriber there is none."""
    output = bench.node.outputs.features
    bench.play([next(bench.next)])
    assert output.drawn == 0
    listener = bench.record("/vggt_slam/features", Image, 10)
    assert bench.spin(lambda: output._publisher.get_subscription_count())
    frame = next(bench.next)
    bench.image(frame)
    assert bench.spin(lambda: bench.got["features"])
    message = bench.got["features"][-1]
    assert (stamp(message), message.header.frame_id, message.encoding) == (frame.stamp, CAMERA, "rgb8")
    drawn = np.array(message.data, np.uint8).reshape(message.height, message.width, 3)
    tracks, landmark, from_depth = bench.node.slam.tracked_corners()
    assert landmark.sum() > 30 and from_depth.sum() > 20 and not (from_depth & ~landmark).any()
    changed = (drawn != frame.image).any(-1)
    assert 0.001 < changed.mean() < 0.3
    rows, columns = np.nonzero(changed)
    ends = np.concatenate([tracks.pixels, tracks.pixels - np.nan_to_num(tracks.motions[:, 0])])
    distance = np.array([np.abs(ends - (x, y)).max(-1).min() for x, y in zip(columns, rows, strict=True)])
    assert np.quantile(distance, 0.95) < 6
    bench.peer.destroy_subscription(listener)
    assert bench.spin(lambda: not output._publisher.get_subscription_count())
    count = output.drawn
    bench.play([next(bench.next)])
    assert output.drawn == count


def test_corners_have_the_color_of_their_landmark():
    image = np.full((100, 200, 3), 50, np.uint8)
    pixels = np.array([[40, 50], [100, 50], [160, 50]], np.float32)
    motion = np.array([[np.nan, np.nan], [0, 0], [12, 0]], np.float32)
    drawn = draw_corners(image, pixels, motion, np.array([True, True, False]), np.array([True, False, False]))
    assert (image == 50).all()
    for (x, y), color in zip(pixels.astype(int).tolist(), (FROM_DEPTH, TRIANGULATED, UNKNOWN), strict=True):
        near = drawn[y - 4:y + 5, x - 4:x + 5].reshape(-1, 3)
        assert (np.abs(near.astype(int) - color).sum(-1) < 60).any()
    assert (drawn[50, 150] != 50).any() and (drawn[50, 175] == 50).all()


def test_commands_need_an_active_node(bench):
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    for name in ("pause", "resume", "reset_odometry"):
        answer = bench.call(name)
        assert not answer.success and "the node is not active" in answer.message
    assert bench.node.trigger_activate().name == "SUCCESS"


WITHOUT = """
import sys
for name in ("vggt_ros_msgs", "bond"):
    sys.modules[name] = None  # as where it is not built: the import fails
from vggt_ros.ros.node.slam_node import main
sys.exit(main())
"""


def test_the_node_runs_where_the_messages_are_not_built(tmp_path, other_domain):
    """With the services of std_srvs, and a line that says what is missing."""
    peer, log = Peer(other_domain), tmp_path / "log"
    with log.open("w") as out:
        node = subprocess.Popen([sys.executable, "-c", WITHOUT, "--ros-args", "-p", "reconstructor:=multiview"],
                                stdout=out, stderr=out, env={**os.environ, "ROS_DOMAIN_ID": str(other_domain)})
    try:
        try:
            peer.change("configure", "activate")
        except AssertionError as error:
            raise AssertionError(log.read_text()) from error
        assert peer.call("pause").success and peer.call("resume").success
        names = {name for name, _ in peer.peer.get_topic_names_and_types()}
        assert "/vggt_slam/status" in names and "/vggt_slam/slam_status" not in names
        services = {name for name, _ in peer.peer.get_service_names_and_types()}
        assert "/vggt_slam/save_map" in services and "/vggt_slam/set_mode" not in services
        assert "vggt_ros_msgs is not built beside vggt_ros" in log.read_text()
    finally:
        node.terminate()
        assert node.wait(20) is not None
        peer.close()

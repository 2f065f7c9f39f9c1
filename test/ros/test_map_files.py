"""Save, load and localize through the node's services, on real DDS."""

import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from bench import LATCHED, Bench, matrix, stamp
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid
from saved_maps import mapped, record
from scenes import lap

from vggt_ros.config import Config
from vggt_ros.mapping.files.restored_map import restore
from vggt_ros.ros.conversions import messages
from vggt_ros.ros.node import map_files
from vggt_ros.storage.combined_record import combine
from vggt_ros.storage.map_folder import StorageError, load_map, save_map
from vggt_ros.windows.point_cloud import PointCloud

QUICK = {"tf__base_timeout": 0.0, "tf__assume_level": True, "windows__size": 5, "windows__overlap": 2}
SHORT = 40


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a map of a part of the room, and the poses of the base in this map by stamp."""
    folder = tmp_path_factory.mktemp("maps")
    bench = Bench(lap().oracle(), map__folder=str(folder), **QUICK).start()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:SHORT])
    answer = bench.call("save_map")
    assert answer.success, answer.message
    poses = {stamp(item): matrix(item.pose) for item in bench.got["path"][-1].poses}
    bench.close()
    return folder, poses


@pytest.fixture(autouse=True)
def _log(capfd):
    started.read_log = lambda: capfd.readouterr().err


def started(saved, **parameters):
    bench = Bench(lap().oracle(), map__folder=str(saved[0]), **{**QUICK, **parameters})
    bench.read_log = started.read_log
    bench.start()
    bench.info(lap().frames[0])
    return bench


def position_errors(bench, poses):
    """Return the distance of each pose of the base in `map` from the saved one of the same image, meters."""
    found = {stamp(message): matrix(message.pose.pose) for message in bench.got["pose"]}
    return [float(np.linalg.norm(found[when][:3, 3] - pose[:3, 3])) for when, pose in poses.items() if when in found]


def test_a_restarted_node_localizes_in_the_saved_map(saved):
    """Mode localization loads the map at the start; images get the same poses as before, and the map does not grow."""
    bench = started(saved, mode="localization")
    try:
        assert bench.spin(lambda: len(bench.node.slam.solution) > 0)
        before = len(bench.node.slam.solution)
        bench.play(lap().frames[10:SHORT])
        errors = position_errors(bench, {when: pose for when, pose in saved[1].items()
                                         if when >= lap().frames[12].stamp})
        assert len(errors) > 5
        assert np.median(errors) < 0.03
        assert len(bench.node.slam.solution) == before
        assert bench.status_now()["mode"] == "localization"
        assert bench.got["cloud_map"][-1].width > 1000, "the loaded map is published"
    finally:
        bench.close()


def test_localization_keeps_its_map_when_a_bag_loops_and_after_a_reset(saved):
    bench = started(saved, mode="localization", use_sim_time=True)

    def loaded(resets):
        return bench.node.monitor.resets == resets and len(bench.node.slam.solution) == len(saved[1])

    try:
        assert bench.spin(lambda: loaded(1))
        bench.play(lap().frames[10:22])
        bench.image(lap().frames[10])
        assert bench.spin(lambda: loaded(3))
        bench.play(lap().frames[11:20])
        assert bench.node.monitor.tracked.state == "TRACKING"
        assert bench.call("reset").success
        assert bench.spin(lambda: loaded(5))
        bench.play(lap().frames[20:30])
        assert bench.node.monitor.tracked.state == "TRACKING"
    finally:
        bench.close()


def grid_in(saved, name, whole, count):
    """Return the grid of a map in mode localization, in which `count` keyframes are."""
    save_map(saved[0] / name, whole, PointCloud.empty(), np.tile(np.eye(4), (len(whole), 1, 1)), Config())
    bench = started(saved, mode="localization", map__name=name)
    output = bench.node.outputs.grid
    try:
        bench.record("/vggt_slam/map", OccupancyGrid, LATCHED)
        assert bench.spin(lambda: len(bench.node.slam.solution) > 0)
        bench.play(lap().frames[:SHORT])
        assert bench.got["pose"]
        assert bench.spin(lambda: bench.got["map"] and len(output._occupancy._votes) == count)
        bench.got["map"].clear()
        output.republish()
        assert bench.spin(lambda: bench.got["map"])
        return bench.got["map"][-1]
    finally:
        bench.close()


def test_the_grid_is_of_the_submap_in_which_the_camera_is(saved):
    """Submaps of a merged map that nothing joins lie somewhere: their walls would be in the way."""
    alone = load_map(saved[0] / "map")
    larger = replace(record(), map_world=alone.map_world, feature=record().feature[:0],
                     feature_pixel=record().feature_pixel[:0], keyframe_features=0 * record().keyframe_features)
    expected = grid_in(saved, "alone", alone, len(alone))
    grid = grid_in(saved, "merged", combine([larger, alone]), len(alone))
    assert len(grid.data) > 1000 and (grid.info.width, grid.info.height) == (expected.info.width, expected.info.height)
    assert grid.data == expected.data


def test_load_map_replaces_the_map_and_mapping_continues(saved):
    bench = started(saved)
    try:
        bench.play(lap().frames[60:70])
        answer = bench.call("load_map")
        assert answer.success, answer.message
        assert "keyframes" in answer.message
        before = len(bench.node.slam.solution)
        assert before == len(saved[1])
        bench.play(lap().frames[20:60])
        assert len(bench.node.slam.solution) > before
        assert len(np.unique(bench.node.slam.solution.submaps)) == 1
    finally:
        bench.close()


def test_the_current_map_is_kept_if_the_saved_one_is_missing(saved):
    bench = started(saved, map__name="nowhere")
    try:
        bench.play(lap().frames[:30])
        before = bench.node.slam.solution
        answer = bench.call("load_map")
        assert not answer.success
        assert "no map is saved there" in answer.message
        assert len(bench.node.slam.solution) == len(before) > 0
    finally:
        bench.close()


def test_a_damaged_map_does_not_cost_the_present_one(saved, tmp_path):
    """It is checked and restored beside the present one: the service names the file, and mapping goes on."""
    shutil.copytree(saved[0] / "map", tmp_path / "map")
    path = tmp_path / "map" / "edge_covariance.npy"
    np.save(path, np.load(path) * np.nan)
    bench = started((tmp_path, saved[1]))
    try:
        bench.play(lap().frames[:25])
        before = len(bench.node.slam.solution)
        answer = bench.call("load_map")
        assert not answer.success
        assert "edge_covariance.npy" in answer.message
        bench.play(lap().frames[25:SHORT])
        assert len(bench.node.slam.solution) > before > 0
        assert len(np.unique(bench.node.slam.solution.submaps)) == 1
        assert bench.node.monitor.resets == 0
    finally:
        bench.close()


def test_a_map_that_cannot_be_restored_does_not_cost_the_present_one():
    """What the checks let pass, such as a graph without its anchors, is found before anything is given up."""
    slam = mapped()
    before = slam.solution
    broken = replace(record(), anchor=record().anchor[:0])
    with pytest.raises(StorageError, match="cannot be restored"):
        restore(broken, slam.config)
    assert slam.solution is before


def test_initialpose_limits_the_search_for_the_camera(saved):
    """An initial pose far away is refused, and the camera stays tracked; with a right one it is found at once."""
    bench = started(saved, mode="localization")
    try:
        assert bench.spin(lambda: len(bench.node.slam.solution) > 0)
        publisher = bench.peer.create_publisher(PoseWithCovarianceStamped, "initialpose", 1)
        assert bench.spin(lambda: publisher.get_subscription_count())
        when, pose = list(saved[1].items())[8]
        row = next(i for i, frame in enumerate(lap().frames) if frame.stamp == when)
        bench.image(lap().frames[row - 3])  # the node looks up the pose of the camera on the base
        for shift in (30.0, 0.2):
            there = pose.copy()
            there[:3, 3] += shift
            publisher.publish(messages.pose_with_covariance(there, 0.01 * np.eye(6), messages.header(when, "map")))
            bench.spin(seconds=0.3)
            for frame in lap().frames[row - 2:row] if shift > 1 else lap().frames[row:row + 3]:
                bench.image(frame)
            assert bench.node.monitor.tracked.state == "TRACKING"
            assert bench.logged("/initialpose", "refused; no keyframe looks there" if shift > 1 else "searching")
    finally:
        bench.close()


def test_initialpose_before_the_first_image_is_kept(saved):
    """RViz is faster than the camera: the pose is used when the map is loaded and an image tells the camera's frame."""
    bench = started(saved, mode="localization")
    try:
        publisher = bench.peer.create_publisher(PoseWithCovarianceStamped, "initialpose", 1)
        assert bench.spin(lambda: publisher.get_subscription_count())
        when, pose = list(saved[1].items())[8]
        row = next(i for i, frame in enumerate(lap().frames) if frame.stamp == when)
        publisher.publish(messages.pose_with_covariance(pose, 0.01 * np.eye(6), messages.header(when, "map")))
        assert bench.spin(lambda: bench.logged("/initialpose: kept until"))
        bench.image(lap().frames[row])
        assert bench.spin(lambda: bench.logged("/initialpose: searching for the camera within"))
        for frame in lap().frames[row + 1:row + 4]:
            bench.image(frame)
        assert bench.node.monitor.tracked.state == "TRACKING"
    finally:
        bench.close()


def test_localization_without_a_saved_map_is_an_error(saved):
    bench = started(saved, mode="localization", map__name="nowhere")
    try:
        assert bench.spin(lambda: bench.got["status"] and "no map is saved there" in bench.got["status"][-1].message)
    finally:
        bench.close()


def test_a_folder_that_cannot_be_written_is_named_before_a_map_is_made(tmp_path, capfd):
    """It is known once the node is configured, and nothing is created to find it out."""
    (tmp_path / "disk").write_text("not mounted")
    bench = Bench(lap().oracle(), map__folder=str(tmp_path / "disk" / "maps"), **QUICK)
    bench.read_log = lambda: capfd.readouterr().err
    try:
        assert bench.node.trigger_configure().name == "SUCCESS"
        assert bench.spin(lambda: bench.logged("map.folder", "disk is a file, not a folder", "set map.folder to"))
        assert bench.spin(lambda: bench.node.reconstructor.was_ready)
        level, text = bench.node.monitor.level_and_message(active=False)
        assert level == DiagnosticStatus.WARN and "inactive; map.folder" in text
        assert [path.name for path in tmp_path.iterdir()] == ["disk"]
    finally:
        bench.close()


def test_a_folder_of_the_kernel_is_none_for_maps(capfd):
    """Known fault: root may do everything in /proc, says the kernel, but nothing can be made there."""
    bench = Bench(lap().oracle(), map__folder="/proc/maps", **QUICK)
    bench.read_log = lambda: capfd.readouterr().err
    try:
        assert bench.node.trigger_configure().name == "SUCCESS"
        assert bench.spin(lambda: bench.logged("map.folder", "/proc", "set map.folder to"))
    finally:
        bench.close()


def test_a_drive_that_hangs_blocks_neither_the_node_nor_its_end(monkeypatch):
    """As a network drive without its server does: the call that looks at the folder does not return."""
    hangs, server_is_back = threading.Event(), threading.Event()

    def wait_for_server(folder):
        hangs.set()
        server_is_back.wait()

    monkeypatch.setattr(map_files, "check_replaceable", wait_for_server)
    bench = Bench(lap().oracle(), **QUICK).start()
    try:
        assert hangs.wait(5.0)
        bench.info(lap().frames[0])
        bench.play(lap().frames[:5])
        assert bench.spin(lambda: bench.node.monitor.tracked is not None and bench.got["status"])
        before = time.monotonic()
        bench.close()
        assert time.monotonic() - before < 5.0
    finally:
        server_is_back.set()

"""The view of a running node: what its topics say, over real DDS, is in the file."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
pytest.importorskip("rerun", reason="needs rerun-sdk")
from bench import Bench, matrix, stamp
from rrd import read
from scenes import lap

from vggt_ros.cli.main import executable
from vggt_ros.ros.tf.transforms import BODY_OPTICAL
from vggt_ros.ros.tools import view_node
from vggt_ros.ros.tools.view_node import ViewNode, main
from vggt_ros.view.opening import open_view

IMAGES = 40
SETTINGS = {"tf__base_timeout": 0.0, "tf__assume_level": True, "windows__size": 5, "windows__overlap": 2,
            "tracking__features": 200}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The node after some windows, and what a view of it has written."""
    folder = tmp_path_factory.mktemp("view")
    bench = Bench(lap().oracle(), ["odom", "pose", "path", "status"], **SETTINGS)
    view = ViewNode(open_view(file=folder / "node.rrd"), context=bench.context)
    bench.executor.add_node(view)
    bench.start()
    assert bench.spin(lambda: view._image_topic)
    bench.spin(seconds=0.5)  # until the view has found the camera
    bench.info(lap().frames[0])
    bench.play(lap().frames[:IMAGES])
    bench.spin(lambda: len(view._map) == len(bench.node.slam.surface))
    bench.settle(3.0)  # the grid and the last updates
    bench.executor.remove_node(view)
    view.close()
    view.destroy_node()
    yield bench, read(folder / "node.rrd")
    bench.close()


def test_a_node_that_is_not_there_is_named_with_those_that_are(shown, capfd, monkeypatch):
    bench, _ = shown
    monkeypatch.setattr(view_node, "_SILENCE", 0.1)
    view = ViewNode(open_view(file=Path(os.devnull)), node="/vgt_slam", context=bench.context)
    bench.executor.add_node(view)
    said = []
    assert bench.spin(lambda: said.append(capfd.readouterr().err) or "--node shows /vggt_slam" in "".join(said))
    assert "no node publishes /vgt_slam/status" in "".join(said)
    bench.executor.remove_node(view)
    view.destroy_node()


def test_the_camera_is_where_the_node_says(shown):
    bench, rows = shown
    poses = {stamp(message): matrix(message.pose.pose) @ BODY_OPTICAL for message in bench.got["pose"]}
    cameras = [row for row in rows["/map/camera"] if not row.cleared]
    assert len(cameras) > 0.5 * len(poses)
    found = np.array([row.array("Transform3D:translation")[0] for row in cameras])
    there = np.array([pose[:3, 3] for pose in poses.values()])
    assert np.linalg.norm(found[:, None] - there[None], axis=2).min(1).max() < 1e-5
    assert any(row.cleared for row in rows["/map/camera"])  # before the first window


def test_the_images_of_the_nodes_topic_are_shown(shown):
    _, rows = shown
    times = [row.time for row in rows["/map/camera/image"]]
    assert 0.5 * IMAGES < len(times) <= IMAGES
    assert {time for time in times if time} <= {frame.stamp for frame in lap().frames}


def test_the_points_are_those_of_the_node(shown):
    bench, rows = shown
    slam, map_world = bench.node.slam, bench.node.transforms.map_world
    parts = {int(name.split("/")[-1]): found[-1] for name, found in rows.items() if name.startswith("/map/points/")}
    parts = {k: row.array("Points3D:positions") for k, row in parts.items() if not row.cleared}
    ours = {k: slam.surface.keyframe_cloud(k, slam.solution).transformed(map_world).points
            for k in slam.surface.keyframes}
    assert parts.keys() == {k for k, points in ours.items() if len(points)} and len(parts) > 5
    for keyframe, points in parts.items():
        assert np.linalg.norm(points - ours[keyframe], axis=1).max() < 0.04


def test_keyframes_graph_depth_and_grid_are_those_of_the_node(shown):
    bench, rows = shown
    solution, map_world = bench.node.slam.solution, bench.node.transforms.map_world
    strips = rows["/map/keyframes/0"][-1].array("LineStrips3D:strips")
    centers = (map_world @ solution.map_camera)[:, :3, 3]
    assert len(strips) == len(solution) > 5
    assert np.linalg.norm(strips[:, 5] - centers, axis=1).max() < 0.02
    assert len(rows["/map/windows"][-1].values["Points3D:positions"]) == len(solution.window_ids)
    overlaps = sum(edge.kind == "overlap" for edge in solution.edges)
    assert len(rows["/map/edges/overlap"][-1].values["LineStrips3D:strips"]) == overlaps
    assert len(rows["/depth"]) == len(solution)
    assert "Mesh3D:vertex_positions" in rows["/map/grid"][-1].values


def test_the_status_is_told_once(shown):
    _, rows = shown
    texts = [row.values["TextLog:text"][0] for row in rows["/status"]]
    assert texts[-1].startswith("TRACKING: tracking")
    assert all(first != second for first, second in pairwise(texts))
    assert rows["/numbers/keyframes"][-1].values["Scalars:scalars"][0] > 5


def test_without_a_screen_the_command_says_what_to_do(capsys, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert main([]) == 1
    assert "use --web or --rrd FILE" in capsys.readouterr().err


def test_ctrl_c_before_the_view_is_open_is_one_line(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(view_node, "open_view", interrupted)
    monkeypatch.setattr(sys, "argv", ["view"])
    assert executable() == 130
    assert capsys.readouterr().err == "view: interrupted\n"


def test_a_name_that_no_node_can_have_is_refused(tmp_path):
    done = subprocess.run([sys.executable, "-m", "vggt_ros.ros.tools.view_node", "--node", "a b", "--rrd",
                           str(tmp_path / "x.rrd")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "must not contain characters other than" in done.stderr and "'a b/status'" in done.stderr

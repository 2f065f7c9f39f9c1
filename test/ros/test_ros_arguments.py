"""What is wrong with arguments and parameter files of ROS is said in a line, without a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vggt_ros.ros.common.parameter_files import without_parameters


@pytest.mark.parametrize(("module", "arguments", "words"), [
    ("node.slam_node", ["--ros-args", "--params-file", "nowhere.yaml"], "nowhere.yaml"),
    ("node.slam_node", ["--ros-args", "-r", "image"], "remap rule"),
    ("node.slam_node", ["--params-file", "mine.yaml"], "--params-file mine.yaml: only arguments of ROS are taken"),
    ("tools.bag_player", ["bag", "--ros-args", "--log-level", "loud"], "loud"),
    ("remote.server", ["--ros-args", "--nonsense"], "--nonsense")])
def test_wrong_arguments_of_ros_are_named(module, arguments, words):
    done = subprocess.run([sys.executable, "-m", f"vggt_ros.ros.{module}", *arguments], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("key", "matches"), [
    ("/**", True), ("/**/vggt_slam", True), ('"**/vggt_slam"', True), ("/robot/vggt_slam", True),
    ("/*/vggt_slam", True), ("/robot/**", True),
    ("vggt_slam", False), ("/vggt_slam", False), ("slam", False), ("/*", False), ("/robot/vggt", False)])
def test_a_parameter_file_without_parameters_for_the_node_is_named(tmp_path, key, matches):
    path = tmp_path / "file.yaml"
    path.write_text(f"{key}:\n  ros__parameters:\n    seed: 3\n")
    lines = without_parameters(["slam_node", "--ros-args", "--params-file", str(path)], "/robot/vggt_slam")
    assert bool(lines) != matches
    assert all(str(path) in line and "/robot/vggt_slam" in line for line in lines)


def test_nodes_in_namespaces_of_a_parameter_file(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("robot:\n  vggt_slam:\n    ros__parameters:\n      seed: 3\nother:\n  ros__parameters: {}\n")
    arguments = ["--params-file", str(path)]
    assert not without_parameters(arguments, "/robot/vggt_slam")
    (line,) = without_parameters(arguments, "/vggt_slam")
    assert "only for /other, /robot/vggt_slam" in line


def test_a_file_without_any_parameters_is_named(tmp_path):
    for text in ("", "hello", "# vggt_slam:\n", "vggt_slam:\n"):
        (tmp_path / "file.yaml").write_text(text)
        (line,) = without_parameters(["--params-file", str(tmp_path / "file.yaml")], "/vggt_slam")
        assert "file.yaml has no parameters: they belong below `/**:` and `  ros__parameters:`" in line
    assert not without_parameters(["--params-file", str(tmp_path / "none.yaml")], "/vggt_slam")

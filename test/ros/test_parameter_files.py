"""The parameter files for specific hardware: the node accepts each file, and all of its names are settings."""

import re

import pytest
import yaml
from paths import ROOT

rclpy = pytest.importorskip("rclpy", reason="needs rclpy")
from rclpy.node import Node

from vggt_ros.config import Config
from vggt_ros.ros.common import parameters

FOLDER = ROOT / "config"
FILES = ("realsense_d435i", "oak_d", "usb_camera", "orin", "desktop_gpu")


def flat(values, prefix=""):
    """Yield dotted names and values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@pytest.mark.parametrize("name", FILES)
def test_the_node_accepts_every_value(name):
    path = FOLDER / f"{name}.yaml"
    written = dict(flat(yaml.safe_load(path.read_text())["/**"]["ros__parameters"]))
    known = {setting.name for setting, _ in Config()}
    assert written.keys() <= known, "unknown names, for which the node would only log a warning"
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node("vggt_slam", context=context, cli_args=["--ros-args", "--params-file", str(path)])
    try:
        taken = {setting.name: value for setting, value in parameters.declare(node)}
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert {key: taken[key] for key in written} == written


@pytest.mark.parametrize("name", FILES)
def test_a_camera_is_not_taken_for_the_robot(name):
    """Known fault: with the camera's frame as the base, Nav2 would get no transform of the robot."""
    written = dict(flat(yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["/**"]["ros__parameters"]))
    assert "tf.base_frame" not in written


def test_the_file_for_nav2_fits_to_nav2_and_to_the_node():
    """The keys are those that StaticLayer of Nav2 declares; the topic is one of ours; Nav2 waits for metric scale."""
    content = yaml.safe_load((FOLDER / "nav2.yaml").read_text())
    costmap = content["global_costmap"]["global_costmap"]["ros__parameters"]
    declared = {"plugin", "enabled", "subscribe_to_updates", "footprint_clearing_enabled", "restore_cleared_footprint",
                "map_topic", "map_subscribe_transient_local"}
    assert costmap["static_layer"].keys() <= declared and costmap["static_layer"]["map_subscribe_transient_local"]
    assert set(costmap["plugins"]) <= costmap.keys()
    topics = (FOLDER.parent / "docs" / "reference" / "topics.md").read_text()
    topic = costmap["static_layer"]["map_topic"].replace("/vggt_slam", "~")
    assert re.search(rf"^\| `{topic}` \| `nav_msgs/OccupancyGrid` \|", topics, re.MULTILINE)
    settings = content["**/vggt_slam"]["ros__parameters"]
    config = Config().replace(settings)
    assert config.scale.require
    assert (config.tf.map_frame, config.tf.base_frame) == (costmap["global_frame"], costmap["robot_base_frame"])


def test_the_launch_arguments_in_their_comments_exist():
    launch = (ROOT / "launch" / "slam.launch.py").read_text()
    known = set(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', launch))
    for name in FILES:
        command = (FOLDER / f"{name}.yaml").read_text().partition("vggt_ros slam.launch.py")[2].partition(".yaml")[0]
        assert set(re.findall(r"(\w+):=", command)) <= known
    for name in ("realsense_d435i", "oak_d"):
        command = (FOLDER / f"{name}.yaml").read_text().partition("vggt_ros slam.launch.py")[2]
        assert "depth:=/" in command and "imu:=/" in command


def test_the_tutorial_lists_them():
    text = (FOLDER.parent / "docs" / "tutorials" / "on-a-robot.md").read_text()
    assert not [name for name in FILES if f"`config/{name}.yaml`" not in text]

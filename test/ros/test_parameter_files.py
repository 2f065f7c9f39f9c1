"""The parameter files for specific hardware: the node accepts each file, and all of its names are settings."""

import os

import pytest
import yaml
from paths import ROOT

rclpy = pytest.importorskip("rclpy", reason="needs rclpy")
from rclpy.node import Node

from vggt_ros.config import Config
from vggt_ros.ros import parameters

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
def test_the_node_accepts_every_value(name, tmp_path):
    os.environ |= {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_LOG_DIR": str(tmp_path)}
    path = FOLDER / f"{name}.yaml"
    written = dict(flat(yaml.safe_load(path.read_text())["/**"]["ros__parameters"]))
    known = {setting.name for setting, _ in Config()}
    assert written.keys() <= known, "unknown names, for which the node would only log a warning"
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=95)
    node = Node("vggt_slam", context=context, cli_args=["--ros-args", "--params-file", str(path)])
    try:
        taken = {setting.name: value for setting, value in parameters.declare(node)}
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert {key: taken[key] for key in written} == written


def test_the_tutorial_lists_them():
    text = (FOLDER.parent / "docs" / "tutorials" / "on-a-robot.md").read_text()
    assert not [name for name in FILES if f"`config/{name}.yaml`" not in text]

"""The scenarios against the node as a process of its own; launch/test_slam_launch.py has them under launch_testing."""

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from scenarios import SCENARIOS, play
from stage import Processes

DOMAIN = 76


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name, tmp_path, monkeypatch):
    for variable in ("ROS_DOMAIN_ID", "ROS_LOG_DIR", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        monkeypatch.setenv(variable, "0")  # given back afterwards
    play(name, Processes, DOMAIN, tmp_path)

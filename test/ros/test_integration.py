"""The scenarios with the node as a separate process; launch/test_slam_launch.py runs them under launch_testing."""

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from scenarios import SCENARIOS, run_scenario
from stage import ProcessLauncher

DOMAIN = 76


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name, tmp_path, monkeypatch):
    for variable in ("ROS_DOMAIN_ID", "ROS_LOG_DIR", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        monkeypatch.setenv(variable, "0")  # restored afterwards
    run_scenario(name, ProcessLauncher, DOMAIN, tmp_path)

"""The scenarios with the node as a separate process; launch/test_slam_launch.py runs them under launch_testing."""

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from scenarios import SCENARIOS, run_scenario
from stage import ProcessLauncher


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name, tmp_path):
    run_scenario(name, ProcessLauncher, tmp_path)

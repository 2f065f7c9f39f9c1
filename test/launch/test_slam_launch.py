"""The scenarios under launch_testing, by launch/slam.launch.py: `launch_test test/launch/test_slam_launch.py`."""

import sys
import tempfile
import unittest
from pathlib import Path

import pytest

pytest.importorskip("launch_testing", reason="launch_testing is not installed")
import launch_testing
import launch_testing.actions
import launch_testing.markers
from ament_index_python import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessIO, OnProcessStart
from launch_ros.actions import Node

sys.path.append(str(Path(__file__).parents[1] / "support"))
from scenarios import SCENARIOS, run_scenario
from stage import Launcher


@pytest.mark.launch_test  # without it, `pytest` and `colcon test` take the scenarios for plain tests, which fail
@launch_testing.parametrize("name", list(SCENARIOS))
@launch_testing.markers.keep_alive
def generate_test_description(name):
    """Return an empty description: each scenario includes the launch file, with its arguments, while launch runs."""
    return LaunchDescription([launch_testing.actions.ReadyToTest()])


class Process:
    """A process of launch and its log so far."""

    def __init__(self, pid):
        self.pid, self.code, self.log = pid, None, ""


class LaunchFileLauncher(Launcher):
    """Includes the launch file into the running launch."""

    def __init__(self, service, peer, folder):
        super().__init__(peer, folder)
        self._service = service
        self._by_pid = {}
        self._include(RegisterEventHandler(OnProcessStart(on_start=self._begin)),
                      RegisterEventHandler(OnProcessExit(on_exit=self._end)),
                      RegisterEventHandler(OnProcessIO(on_stdout=self._say, on_stderr=self._say)))

    def start(self, **arguments):
        """Start the node with arguments of the launch file; return its process."""
        if arguments.get("rviz") == "true":
            installed("rviz2")
        file = Path(get_package_share_directory("vggt_ros"), "launch", "slam.launch.py")
        return self._first(GroupAction([IncludeLaunchDescription(str(file), launch_arguments=arguments.items())]))

    def run(self, executable, *arguments):
        """Start an executable of the package."""
        return self._first(Node(package="vggt_ros", executable=executable, arguments=[str(a) for a in arguments],
                                output="screen"))

    def _first(self, action):
        """Include an action and return the first process that it starts."""
        before = len(self.started)
        self._include(action)
        assert self.peer.spin(lambda: len(self.started) > before, 10.0), "launch has started no process"
        return self.started[before]

    def _include(self, *actions):
        self._service.include_launch_description(LaunchDescription(actions))

    def _begin(self, event, context):
        self._by_pid[event.pid] = Process(event.pid)
        self.started.append(self._by_pid[event.pid])

    def _end(self, event, context):
        if event.pid in self._by_pid:
            self._by_pid[event.pid].code = event.returncode

    def _say(self, event):
        if event.pid in self._by_pid:
            self._by_pid[event.pid].log += event.text.decode(errors="replace")


def installed(package):
    """Skip where a ROS package is not installed."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        raise unittest.SkipTest(f"{package} is not installed") from None


class TestSlam(unittest.TestCase):
    """Runs one scenario."""

    def test_scenario(self, name, launch_service):
        installed("vggt_ros")
        with tempfile.TemporaryDirectory() as folder:
            run_scenario(name, lambda *given: LaunchFileLauncher(launch_service, *given), Path(folder))

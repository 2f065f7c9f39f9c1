"""The processes that launch/slam.launch.py would start, without starting them; covers RViz and bags without ROS."""

from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="launch_ros is not installed")
from ament_index_python import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument
from launch.launch_description_sources import get_launch_description_from_python_launch_file
from launch.substitutions import LocalSubstitution
from launch.utilities import perform_substitutions
from launch_ros.actions import Node

FILE = Path(__file__).parents[2] / "launch" / "slam.launch.py"


def commands(**arguments):
    """Return the command lines of the nodes that the launch file starts with these arguments, by executable."""
    try:
        get_package_share_directory("vggt_ros")
    except PackageNotFoundError:
        pytest.skip("vggt_ros is not installed")
    context = LaunchContext()
    context.launch_configurations.update(arguments)
    entities = get_launch_description_from_python_launch_file(str(FILE)).entities
    for entity in entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
    return {entity.node_executable: [perform_substitutions(context, word) for word in entity.cmd[1:]
                                     if not any(isinstance(part, LocalSubstitution) for part in word)]
            for entity in entities if isinstance(entity, Node)
            and (entity.condition is None or entity.condition.evaluate(context))}


def test_only_the_node_by_default():
    assert set(commands()) == {"slam_node"}


def test_rviz_shows_our_configuration():
    option, file, *_ = commands(rviz="true")["rviz2"]
    assert option == "-d" and Path(file).name == "slam.rviz" and Path(file).is_file()


@pytest.mark.parametrize(("transport", "waited_for"), [("raw", "/front/image"),
                                                       ("compressed", "/front/image/compressed")])
def test_the_bag_player_waits_for_the_node_and_publishes_the_clock(transport, waited_for):
    command = commands(bag="/somewhere/bag", image="/front/image", transport=transport)["bag_player"]
    assert command[:4] == ["/somewhere/bag", "--clock", "--wait-for", waited_for]
    assert command[4:6] == ["--wait-ready", "vggt_slam/status"]

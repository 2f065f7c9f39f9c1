"""The processes that launch/slam.launch.py would start, without starting them; covers RViz and bags without ROS."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

pytest.importorskip("launch_ros", reason="launch_ros is not installed")
from ament_index_python import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchService
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnShutdown
from launch.launch_description_sources import get_launch_description_from_python_launch_file
from launch.substitutions import LocalSubstitution
from launch.utilities import perform_substitutions
from launch_ros.actions import Node

from vggt_ros.config import Config

FILE = Path(__file__).parents[2] / "launch" / "slam.launch.py"
BAG = str(Path(__file__).parent)
"""A path that exists."""


@pytest.fixture
def rviz2(tmp_path, monkeypatch):
    """The package rviz2 in the ament index, as where it is installed."""
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "rviz2").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path), prepend=os.pathsep)


def nodes(**arguments):
    """Return the nodes that the launch file starts with these arguments, and the context."""
    try:
        get_package_share_directory("vggt_ros")
    except PackageNotFoundError:
        pytest.skip("vggt_ros is not installed")
    context = LaunchContext()
    context.launch_configurations.update(arguments)
    entities = get_launch_description_from_python_launch_file(str(FILE)).entities
    found = []
    for entity in entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
        elif isinstance(entity, OpaqueFunction):
            found += [node for node in entity.execute(context) if isinstance(node, Node)]
    for node in found:
        node._perform_substitutions(context)  # remappings and parameters have no public access
    return found, context


def commands(**arguments):
    """Return the command lines of the nodes that the launch file starts with these arguments, by executable."""
    found, context = nodes(**arguments)
    return {node.node_executable: [text for word in node.cmd[1:] if (text := words(context, word))] for node in found}


def words(context, word):
    """Return a word of a command line, without those that are filled in later."""
    return "" if any(isinstance(part, LocalSubstitution) for part in word) else perform_substitutions(context, word)


def parameters(**arguments):
    """Return the parameters that the node gets besides those of the parameter file."""
    found, command = {}, commands(**arguments)["slam_node"]
    for flag, value in pairwise(command):
        if flag == "--params-file" and Path(value).name != "slam.yaml":
            for section in yaml.safe_load(Path(value).read_text()).values():
                found |= section["ros__parameters"]
    return found


def test_only_the_node_by_default():
    assert set(commands()) == {"slam_node"}


@pytest.mark.usefixtures("rviz2")
def test_rviz_shows_our_configuration():
    option, file, *_ = commands(rviz="true")["rviz2"]
    assert option == "-d" and Path(file).name == "slam.rviz" and Path(file).is_file()


@pytest.mark.parametrize(("transport", "waited_for"), [("raw", "/front/image"),
                                                       ("compressed", "/front/image/compressed")])
def test_the_bag_player_waits_for_the_node_and_publishes_the_clock(transport, waited_for):
    command = commands(bag=BAG, image="/front/image", transport=transport)["bag_player"]
    assert command[:4] == [BAG, "--clock", "--rate", "1.0"]
    assert command[4:8] == ["--wait-for", waited_for, "--wait-ready", "vggt_slam/status"]


@pytest.mark.parametrize(("arguments", "changed"), [
    ({}, {}),
    ({"bag": BAG}, {"use_sim_time": True}),
    ({"bag": BAG, "use_sim_time": "false"}, {"use_sim_time": False}),
    ({"transport": "compressed"}, {"camera.transport": "compressed"}),
    ({"transport": "raw"}, {"camera.transport": "raw"}),
    ({"image": "/camera/image_raw/compressed"}, {"camera.transport": "compressed"}),
    ({"image": "/camera/image_raw/compressed", "transport": "raw"}, {"camera.transport": "raw"}),
    ({"depth": "/d/image", "imu": "/imu"}, {"scale.depth": True, "scale.imu": True}),
    ({"odometry": "/wheels"}, {"scale.odometry": "topic"}),
    ({"odometry": "tf"}, {"scale.odometry": "tf", "tf.mode": "map_to_odom"}),
    ({"mode": "localization", "slam_map": "yard"}, {"mode": "localization", "map.name": "yard", "map.load": True}),
    ({"base_frame": "base_footprint"}, {"tf.base_frame": "base_footprint"}),
])
def test_arguments_change_their_settings_and_no_other(arguments, changed):
    """Without an argument the parameter file decides, also on use_sim_time, which a parent may have set for all."""
    assert parameters(**arguments) == changed
    Config().replace({name: value for name, value in changed.items() if name != "use_sim_time"})


@pytest.mark.parametrize(("arguments", "words"), [
    ({"slam_autostart": "yes"}, "slam_autostart:=yes: it is true or false"),
    ({"use_sim_time": "maybe"}, "use_sim_time:=maybe: it is true or false"),
    ({"log_level": "verbose"}, "log_level:=verbose: it is debug, info, warn, error or fatal"),
    ({"bag": "/nowhere"}, "bag:=/nowhere: there is no such file or folder"),
    ({"slam_params_file": "/nowhere.yaml"}, "slam_params_file:=/nowhere.yaml: there is no such file")])
def test_wrong_values_are_named(arguments, words):
    with pytest.raises(RuntimeError, match=words):
        commands(**arguments)


def test_a_missing_rviz_is_named_before_the_node_is_started(monkeypatch):
    """Known fault: launch ended by the error, and left the node running; the next one got no request of its launch."""
    prefix = get_package_prefix("vggt_ros")
    monkeypatch.setenv("AMENT_PREFIX_PATH", prefix)
    if Path(prefix, "share", "rviz2").exists():
        pytest.skip("rviz2 is installed in the same folder")
    with pytest.raises(RuntimeError, match="rviz:=true: rviz2 is not installed"):
        commands(rviz="true")


@pytest.mark.parametrize(("namespace", "full"), [("robot1", "/robot1"), ("", "/robot1"), ("/robot2", "/robot2"),
                                                 ("arm", "/robot1/arm")])
def test_the_namespace_of_a_file_that_includes_this_one_is_not_taken_twice(namespace, full):
    """Known fault: nav2_bringup pushes its namespace and passes it down; the node was in /robot1/robot1."""
    given = {"namespace": namespace, "ros_namespace": "/robot1"}
    (node,), _ = nodes(**given)
    assert node.node_name == f"{full}/vggt_slam"
    assert f"{full[1:].replace('/', '.')}.vggt_slam:=info" in commands(**given)["slam_node"]


def test_misspelled_arguments_are_named_and_those_of_parents_are_not():
    context = LaunchContext()
    context.launch_configurations.update({"imag": "/a", "namspace": "b", "params_file": "c", "autostart": "true"})
    function, *_ = (entity for entity in get_launch_description_from_python_launch_file(str(FILE)).entities
                    if isinstance(entity, OpaqueFunction))
    said = [perform_substitutions(context, action.msg) for action in function.execute(context)]
    assert len(said) == 2 and "no argument imag: is image meant" in said[0] and "namespace meant" in said[1]


def test_a_compressed_topic_may_be_named_in_full():
    command = " ".join(commands(image="/cam/image_raw/compressed")["slam_node"])
    assert "image/compressed:=/cam/image_raw/compressed" in command and "camera_info:=/cam/camera_info" in command


def test_a_parameter_file_in_the_home_folder(tmp_path, monkeypatch):
    """No shell replaces the ~ in slam_params_file:=~/slam.yaml."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "slam.yaml").write_text("/**: {ros__parameters: {seed: 3}}")
    assert str(tmp_path / "slam.yaml") in commands(slam_params_file="~/slam.yaml")["slam_node"]


def test_topics_are_remapped_if_given():
    given = {"image": "/front/image", "depth": "/d/image", "imu": "/i", "odometry": "/wheels"}
    command = " ".join(commands(**given)["slam_node"])
    for remap in ("image:=/front/image", "camera_info:=/front/camera_info", "depth:=/d/image", "imu:=/i",
                  "odometry:=/wheels"):
        assert f"-r {remap}" in command
    command = " ".join(commands(odometry="tf", log_level="debug")["slam_node"])
    assert "odometry:=" not in command and "--log-level vggt_slam:=debug" in command


@pytest.mark.usefixtures("rviz2")
def test_tf_is_remapped_into_the_namespace():
    for executable in ("slam_node", "bag_player", "rviz2"):
        command = " ".join(commands(namespace="robot1", bag=BAG, rviz="true")[executable])
        assert "-r /tf:=tf" in command and "-r /tf_static:=tf_static" in command


def test_the_example_of_two_robots_starts_a_node_in_each_namespace():
    groups = get_launch_description_from_python_launch_file(str(FILE.with_name("two_robots.launch.py"))).entities
    includes = [action for group in groups for action in group.get_sub_entities()
                if isinstance(action, IncludeLaunchDescription)]
    assert len(includes) == 2
    for robot, include in zip(("robot1", "robot2"), includes, strict=True):
        command = " ".join(commands(**dict(include.launch_arguments))["slam_node"])
        assert f"{robot}.vggt_slam:=info" in command and f"image:=/{robot}/camera/image_raw" in command


@pytest.mark.parametrize(("transport", "plugins"), [
    ("raw", ["image_proc::ResizeNode"]),
    ("compressed", ["image_transport::Republisher", "image_proc::ResizeNode"])])
def test_the_example_of_a_large_camera_reduces_its_images_before_the_node(transport, plugins):
    context, file = LaunchContext(), str(FILE.with_name("resized_camera.launch.py"))
    context.launch_configurations["transport"] = transport
    for entity in get_launch_description_from_python_launch_file(file).entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
        elif isinstance(entity, OpaqueFunction):
            container, slam = entity.execute(context)
    found = container._ComposableNodeContainer__composable_node_descriptions
    assert [perform_substitutions(context, node.node_plugin) for node in found] == plugins
    remaps = {perform_substitutions(context, list(one)): perform_substitutions(context, list(other))
              for node in found for one, other in node.remappings}
    assert remaps["image/image_raw"] == remaps.get("out", "/camera/image_raw")
    assert dict(slam.launch_arguments)["image"] == remaps["resize/image_raw"] == "/camera/resize/image_raw"
    command = " ".join(commands(**dict(slam.launch_arguments))["slam_node"])
    assert "camera_info:=/camera/resize/camera_info" in command


def test_arguments_of_nav2_that_include_this_file_change_nothing():
    """Nav2's launch files pass these down; ours have other names."""
    assert parameters(params_file="/nav2.yaml", autostart="false", map="/nav2_map.yaml") == parameters()
    assert "/nav2.yaml" not in " ".join(commands(params_file="/nav2.yaml")["slam_node"])


def test_the_launch_ends_if_the_node_cannot_be_started(tmp_path):
    """launch would wait for ever for the service that configures it, below the line that says what is wrong."""
    try:
        get_package_share_directory("vggt_ros")
    except PackageNotFoundError:
        pytest.skip("vggt_ros is not installed")
    parameters = tmp_path / "slam.yaml"
    parameters.write_text("/**: {ros__parameters: {windows: {size: eight}}}")
    reasons = []
    service = LaunchService(argv=[])
    service.include_launch_description(LaunchDescription([
        RegisterEventHandler(OnShutdown(on_shutdown=lambda event, context: reasons.append(event.reason))),
        TimerAction(period=60.0, actions=[Shutdown(reason="it did not end")]),
        IncludeLaunchDescription(str(FILE), launch_arguments=[("slam_params_file", str(parameters))])]))
    service.run()
    assert reasons == ["vggt_slam could not be started"]

"""Starts vggt_slam for the topics of a camera or for a bag; `ros2 launch vggt_ros slam.launch.py --show-args`.

The launch file configures and activates the lifecycle node, so that no lifecycle manager is needed. The names of its
arguments differ from those of Nav2's launch files, which pass their own down to what they include.
"""

import difflib
import os
import posixpath
from pathlib import Path

from ament_index_python import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import matches_action
from launch.events.process import ProcessExited
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

NODE = "vggt_slam"
SHOWN = ("cloud", "cloud_map", "path", "odom", "pose", "markers", "depth/image", "map", "features")
"""Topics of the node that config/slam.rviz shows."""
SHARE = FindPackageShare("vggt_ros")
RESPAWN_DELAY = 25.0
"""Seconds: DDS lists a node that crashed for 20 s, and the request to configure would go to that one."""
LEVELS = "debug, info, warn, error or fatal"
_CLOSE = 0.82
"""Similarity from which a name is taken for a misspelled one: Nav2's `params_file` and `autostart` are not."""
TF = [("/tf", "tf"), ("/tf_static", "tf_static")]
"""TF in the namespace, as Nav2's launch files remap it: robots have the same frames, each in a tree of its own."""


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, and the nodes that they ask for."""
    arguments = declared()
    return LaunchDescription([*arguments, OpaqueFunction(function=misspelled, args=[[one.name for one in arguments]]),
                              OpaqueFunction(function=start)])


def declared() -> list[DeclareLaunchArgument]:
    """Return the arguments."""
    return [
        DeclareLaunchArgument("image", default_value="/camera/image_raw",
                              description="Image topic; a compressed one with or without /compressed at its end."),
        DeclareLaunchArgument("camera_info", default_value="",
                              description="CameraInfo topic; by default camera_info next to the image."),
        DeclareLaunchArgument("transport", default_value="", choices=["", "raw", "compressed"],
                              description="compressed subscribes to <image>/compressed; by default as the topic "
                                          "ends, else as in the parameter file."),
        DeclareLaunchArgument("depth", default_value="",
                              description="Topic of depth registered to the images; a source of metric scale."),
        DeclareLaunchArgument("imu", default_value="", description="Topic of an IMU; a source of metric scale."),
        DeclareLaunchArgument("odometry", default_value="",
                              description="Topic of another odometry; or `tf`: it sends odom -> base, we map -> odom. "
                                          "A source of metric scale."),
        DeclareLaunchArgument("mode", default_value="", choices=["", "mapping", "localization"],
                              description="By default as in the parameter file."),
        DeclareLaunchArgument("slam_map", default_value="",
                              description="Name of the saved map to continue, or to localize in; see map.folder."),
        DeclareLaunchArgument("base_frame", default_value="", description="TF frame of the robot's base."),
        DeclareLaunchArgument("slam_params_file", default_value=PathJoinSubstitution([SHARE, "config", "slam.yaml"]),
                              description="Parameter file of the node."),
        DeclareLaunchArgument("bag", default_value="", description="A rosbag2 to play, with /clock."),
        DeclareLaunchArgument("rate", default_value="1.0", description="Speed at which the bag is played."),
        DeclareLaunchArgument("rviz", default_value="false", description="Start RViz with config/slam.rviz."),
        DeclareLaunchArgument("use_sim_time", default_value="",
                              description="Use time from /clock; by default true with a bag, else not changed."),
        DeclareLaunchArgument("namespace", default_value="",
                              description="Namespace of the nodes, and of /tf and /tf_static."),
        DeclareLaunchArgument("slam_autostart", default_value="true",
                              description="Configure and activate the node automatically."),
        DeclareLaunchArgument("respawn", default_value="false",
                              description="Start the node again, after 25 s, if it ends; it loads slam_map if given."),
        DeclareLaunchArgument("log_level", default_value="info", description=f"Log level of the node: {LEVELS}."),
    ]


def misspelled(context: LaunchContext, names: list[str]) -> list[Action]:
    """Say which names given are no arguments, but close to one: launch takes any, since parents pass theirs down."""
    close = {name: difflib.get_close_matches(name, names, 1, _CLOSE) for name in context.launch_configurations
             if name not in names}
    return [LogInfo(msg=f"slam.launch.py has no argument {name}: is {meant[0]} meant? It stays as it is by default")
            for name, meant in close.items() if meant]


def start(context: LaunchContext) -> list[Action]:
    """Return the node, its transitions to active, and RViz and the bag player if the arguments ask for them."""
    given = context.launch_configurations
    compressed, namespace = is_compressed(given), given["namespace"]
    pushed = given.get("ros_namespace", "").strip("/")  # by PushROSNamespace of a file that includes this one
    if namespace.strip("/") == pushed:  # nav2_bringup also passes it down; the node would be in /robot1/robot1
        namespace = ""
    image = given["image"].removesuffix("/compressed") if compressed else given["image"]
    parameters = Path(os.path.expanduser(given["slam_params_file"]))  # shells leave ~ behind := as it is
    within = namespace if namespace.startswith("/") else f"{pushed}/{namespace}"
    logger = ".".join([*filter(None, within.split("/")), NODE])
    if not parameters.is_file():
        raise RuntimeError(f"slam_params_file:={given['slam_params_file']}: there is no such file")
    if given["log_level"].lower() not in LEVELS.replace(" or", ",").split(", "):
        raise RuntimeError(f"log_level:={given['log_level']}: it is {LEVELS}")
    if given["bag"] and not Path(os.path.expanduser(given["bag"])).exists():
        raise RuntimeError(f"bag:={given['bag']}: there is no such file or folder")
    if is_true(given, "rviz"):
        require_package("rviz2", "rviz:=true")
    sim_time = [{"use_sim_time": is_true(given, "use_sim_time")}] if given["use_sim_time"] else \
        [{"use_sim_time": True}] if given["bag"] else []
    node = LifecycleNode(
        package="vggt_ros", executable="slam_node", name=NODE, namespace=namespace, output="screen", emulate_tty=True,
        parameters=[str(parameters), settings(given), *sim_time],
        respawn=is_true(given, "respawn"), respawn_delay=RESPAWN_DELAY,
        arguments=["--ros-args", "--log-level", f"{logger}:={given['log_level']}"],
        remappings=[*TF, ("image", image), ("image/compressed", f"{image}/compressed"),
                    ("camera_info", given["camera_info"] or posixpath.join(posixpath.dirname(image), "camera_info")),
                    *((name, given[name]) for name in ("depth", "imu") if given[name]),
                    *([("odometry", given["odometry"])] if given["odometry"] not in ("", "tf") else [])])
    started: list[Action] = [node]
    if is_true(given, "slam_autostart"):
        # The handlers come before the node, to not miss its start. A node that is started again is configured again.
        started = [RegisterEventHandler(OnProcessStart(
            target_action=node, on_start=[change(node, Transition.TRANSITION_CONFIGURE)])),
            RegisterEventHandler(OnStateTransition(
                target_lifecycle_node=node, start_state="configuring", goal_state="inactive",
                entities=[change(node, Transition.TRANSITION_ACTIVATE)])), *end_of(node, given), node]
    if given["bag"]:
        player = Node(
            package="vggt_ros", executable="bag_player", namespace=namespace, output="screen", emulate_tty=True,
            remappings=TF,
            arguments=[os.path.expanduser(given["bag"]), "--clock", "--rate", given["rate"], "--wait-for",
                       f"{image}/compressed" if compressed else image, "--wait-ready", f"{NODE}/status"])
        started += [RegisterEventHandler(OnProcessExit(target_action=player, on_exit=end_if_failed)), player]
    if is_true(given, "rviz"):
        started.append(Node(
            package="rviz2", executable="rviz2", namespace=namespace, parameters=sim_time,
            arguments=["-d", PathJoinSubstitution([SHARE, "config", "slam.rviz"])],
            # The RViz file has absolute topics; the relative targets are in the namespace.
            remappings=[*TF, *((f"/{NODE}/{topic}", f"{NODE}/{topic}") for topic in SHOWN),
                        ("/initialpose", "initialpose")]))
    return started


def end_if_failed(event: ProcessExited, context: LaunchContext) -> list[Action]:
    """End the launch if the bag could not be played; the player has said why."""
    return [Shutdown(reason="the bag was not played")] if event.returncode else []


def end_of(node: LifecycleNode, given: dict[str, str]) -> list[Action]:
    """Return what is done when the node ends by itself: it is said, and if it never was active, the launch ends.

    launch would wait for ever for the service to configure it. A robot whose node crashes later keeps its other nodes.
    """
    active: list[bool] = []
    respawn = is_true(given, "respawn")

    def say(event: ProcessExited, context: LaunchContext) -> list[Action]:
        if respawn or context.is_shutdown:
            return []
        text = f"{NODE} has ended with {event.returncode}; the lines above say why"
        return [LogInfo(msg=f"{text}. With respawn:=true it is started again")] if active else \
            [LogInfo(msg=text), Shutdown(reason=f"{NODE} could not be started")]

    return [RegisterEventHandler(OnStateTransition(
        target_lifecycle_node=node, goal_state="active",
        entities=[OpaqueFunction(function=lambda context: active.append(True))])),
        RegisterEventHandler(OnProcessExit(target_action=node, on_exit=say))]


def settings(given: dict[str, str]) -> dict[str, bool | str]:
    """Return the settings that arguments change; all others are those of the parameter file."""
    changed: dict[str, bool | str] = {}
    if given["transport"] or is_compressed(given):
        changed["camera.transport"] = "compressed" if is_compressed(given) else "raw"
    if given["depth"]:
        changed["scale.depth"] = True
    if given["imu"]:
        changed["scale.imu"] = True
    if given["odometry"]:
        changed["scale.odometry"] = "tf" if given["odometry"] == "tf" else "topic"
    if given["odometry"] == "tf":
        changed["tf.mode"] = "map_to_odom"
    if given["mode"]:
        changed["mode"] = given["mode"]
    if given["slam_map"]:
        changed |= {"map.name": given["slam_map"], "map.load": True}
    if given["base_frame"]:
        changed["tf.base_frame"] = given["base_frame"]
    return changed


def is_compressed(given: dict[str, str]) -> bool:
    """Return whether an argument, or the ending of the topic, says that the images are compressed."""
    return given["transport"] == "compressed" or (not given["transport"] and given["image"].endswith("/compressed"))


def require_package(name: str, why: str) -> None:
    """Raise RuntimeError if a package is missing, before anything is started: launch would leave the node running."""
    try:
        get_package_prefix(name)
    except PackageNotFoundError:
        raise RuntimeError(f"{why}: {name} is not installed (sudo apt install "
                           f"ros-{os.environ.get('ROS_DISTRO', 'jazzy')}-{name.replace('_', '-')})") from None


def change(node: LifecycleNode, transition: int) -> Action:
    """Return the request of a transition of the node."""
    return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))


def is_true(given: dict[str, str], name: str) -> bool:
    """Return whether an argument is `true`; raises RuntimeError if it is neither that nor `false`."""
    if (text := given[name].lower()) not in ("true", "1", "false", "0"):
        raise RuntimeError(f"{name}:={given[name]}: it is true or false")
    return text in ("true", "1")

"""Starts vggt_slam for the topics of a camera or for a bag; `ros2 launch vggt_ros slam.launch.py --show-args`.

The launch file configures and activates the lifecycle node, so that no lifecycle manager is needed.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

NODE = "vggt_slam"
SHOWN = ("cloud", "map", "path", "odom", "pose", "markers", "depth/image", "grid")
"""Topics of the node that config/slam.rviz shows."""


def generate_launch_description() -> LaunchDescription:
    """Return the node, its transitions to active, and RViz and the bag player if enabled by the arguments."""
    share = FindPackageShare("vggt_ros")
    image, transport, bag = (LaunchConfiguration(name) for name in ("image", "transport", "bag"))
    namespace, autostart = LaunchConfiguration("namespace"), IfCondition(LaunchConfiguration("autostart"))
    sim_time = {"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}
    has_bag = PythonExpression(["'", bag, "' != ''"])

    arguments = [
        DeclareLaunchArgument("image", default_value="/camera/image_raw",
                              description="Image topic; with transport:=compressed its base, without /compressed."),
        DeclareLaunchArgument("camera_info", description="CameraInfo topic; by default camera_info next to the image.",
                              default_value=PythonExpression(["posixpath.join(posixpath.dirname('", image,
                                                              "'), 'camera_info')"], python_modules=["posixpath"])),
        DeclareLaunchArgument("transport", default_value="raw", choices=["raw", "compressed"],
                              description="compressed subscribes to <image>/compressed; overrides the params_file."),
        DeclareLaunchArgument("params_file", default_value=PathJoinSubstitution([share, "config", "slam.yaml"]),
                              description="Parameter file of the node."),
        DeclareLaunchArgument("bag", default_value="", description="A rosbag2 to play, with /clock."),
        DeclareLaunchArgument("rviz", default_value="false", description="Start RViz with config/slam.rviz."),
        DeclareLaunchArgument("use_sim_time", default_value=has_bag,
                              description="Use time from /clock; true by default if a bag is played."),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the nodes."),
        DeclareLaunchArgument("autostart", default_value="true",
                              description="Configure and activate the node automatically."),
    ]
    node = LifecycleNode(
        package="vggt_ros", executable="slam_node", name=NODE, namespace=namespace, output="screen", emulate_tty=True,
        parameters=[LaunchConfiguration("params_file"), {"camera.transport": transport}, sim_time],
        remappings=[("image", image), ("image/compressed", [image, "/compressed"]),
                    ("camera_info", LaunchConfiguration("camera_info"))])
    # Register the handler before the transition, to not miss it.
    activate = RegisterEventHandler(OnStateTransition(
        target_lifecycle_node=node, start_state="configuring", goal_state="inactive",
        entities=[_change(node, Transition.TRANSITION_ACTIVATE)]), condition=autostart)
    configure = _change(node, Transition.TRANSITION_CONFIGURE, condition=autostart)
    player = Node(
        package="vggt_ros", executable="bag_player", namespace=namespace, output="screen", emulate_tty=True,
        condition=IfCondition(has_bag),
        arguments=[bag, "--clock", "--wait-for",
                   PythonExpression(["'", image, "' + ('/compressed' if '", transport, "' == 'compressed' else '')"]),
                   "--wait-ready", f"{NODE}/status"])
    rviz = Node(
        package="rviz2", executable="rviz2", namespace=namespace, condition=IfCondition(LaunchConfiguration("rviz")),
        arguments=["-d", PathJoinSubstitution([share, "config", "slam.rviz"])], parameters=[sim_time],
        # The RViz file has topics /vggt_slam/...; the relative targets are in the namespace.
        remappings=[(f"/{NODE}/{topic}", f"{NODE}/{topic}") for topic in SHOWN])
    return LaunchDescription([*arguments, node, activate, configure, player, rviz])


def _change(node: LifecycleNode, transition: int, **kwargs: object) -> EmitEvent:
    return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition),
                     **kwargs)

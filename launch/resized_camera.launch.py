"""A large camera, as an example: components of ROS decode and reduce its images before vggt_slam takes them.

`ros2 launch vggt_ros resized_camera.launch.py camera:=/camera` takes /camera/image_raw and /camera/camera_info; with
`transport:=compressed` it decodes /camera/image_raw/compressed first. vggt_slam gets /camera/resize/image_raw with its
calibration. Load the driver of the camera into the same container, and images are passed without a copy. It needs the
packages image_proc, image_transport and compressed_image_transport.
"""

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import ComposableNodeContainer
from launch_ros.descriptions import ComposableNode
from launch_ros.substitutions import FindPackageShare

WITHIN_PROCESS = [{"use_intra_process_comms": True}]


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, and the components and the node that they ask for."""
    return LaunchDescription([
        DeclareLaunchArgument("camera", default_value="/camera", description="Namespace of the camera's topics."),
        DeclareLaunchArgument("transport", default_value="raw", choices=["raw", "compressed"],
                              description="How the camera sends its images."),
        DeclareLaunchArgument("width", default_value="640", description="Width to reduce the images to, pixels."),
        DeclareLaunchArgument("height", default_value="360", description="Height to reduce the images to, pixels."),
        OpaqueFunction(function=start),
    ])


def start(context: LaunchContext) -> list[Action]:
    """Return the container of the components, and slam.launch.py for the reduced images."""
    given = context.launch_configurations
    camera, compressed = given["camera"].rstrip("/"), given["transport"] == "compressed"
    source = f"{camera}/decoded/image_raw" if compressed else f"{camera}/image_raw"
    decode = ComposableNode(
        package="image_transport", plugin="image_transport::Republisher", name="decode",
        parameters=[{"in_transport": "compressed", "out_transport": "raw"}], extra_arguments=WITHIN_PROCESS,
        remappings=[("in/compressed", f"{camera}/image_raw/compressed"), ("out", source)])
    # image_proc takes the calibration from beside the image, and publishes it beside the reduced one.
    resize = ComposableNode(
        package="image_proc", plugin="image_proc::ResizeNode", name="resize", extra_arguments=WITHIN_PROCESS,
        parameters=[{"use_scale": False, "width": int(given["width"]), "height": int(given["height"])}],
        remappings=[("image/image_raw", source), (f"{camera}/decoded/camera_info", f"{camera}/camera_info"),
                    ("resize/image_raw", f"{camera}/resize/image_raw")])
    container = ComposableNodeContainer(
        name="camera_container", namespace="", package="rclcpp_components", executable="component_container",
        composable_node_descriptions=[*([decode] if compressed else []), resize], output="screen")
    slam = IncludeLaunchDescription(
        PathJoinSubstitution([FindPackageShare("vggt_ros"), "launch", "slam.launch.py"]),
        launch_arguments={"image": f"{camera}/resize/image_raw", "transport": "raw"}.items())
    return [container, slam]

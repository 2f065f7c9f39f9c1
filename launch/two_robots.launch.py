"""Two robots, each in a namespace of its own, as an example: `ros2 launch vggt_ros two_robots.launch.py`.

Topics, services and TF are those of slam.launch.py below /robot1 and /robot2: both robots have the frames map, odom and
base_link, and their cameras publish on /robot1/camera/image_raw and /robot2/camera/image_raw.
"""

from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

ROBOTS = ("robot1", "robot2")


def generate_launch_description() -> LaunchDescription:
    """Return one slam.launch.py for each robot, in a group of its own: arguments of one do not reach the other."""
    file = PathJoinSubstitution([FindPackageShare("vggt_ros"), "launch", "slam.launch.py"])
    return LaunchDescription([
        GroupAction([IncludeLaunchDescription(file, launch_arguments={
            "namespace": robot, "image": f"/{robot}/camera/image_raw"}.items())])
        for robot in ROBOTS])

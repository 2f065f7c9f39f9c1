"""Conversion of arrays to messages, as pure functions; frames and stamps are given by the caller.

Stamps are int nanoseconds, poses 4x4 `target_source`. The core has covariances as float64 (6, 6) of a perturbation on
the right, [rotation, translation] (as gtsam's Pose3). Messages have the convention of geometry_msgs: x, y, z and
rotations about the fixed axes of the frame of the pose.
"""

from __future__ import annotations

import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, PoseStamped, PoseWithCovarianceStamped, TransformStamped
from nav_msgs.msg import MapMetaData, OccupancyGrid, Odometry, Path
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from vggt_ros.geometry.poses import Array, inverse, matrix_from_quaternion, pose, quaternion_from_matrix, so3_log
from vggt_ros.mapping.grid.occupancy_grid import Grid
from vggt_ros.view.shapes import graph_lines, submap_color
from vggt_ros.windows.point_cloud import PointCloud
from vggt_ros.windows.solution import Solution

UNKNOWN_VARIANCE = 1e6
"""Variance of unknown quantities, square meters and square radians."""

_FIELDS = ("x", "y", "z", "rgb", "normal_x", "normal_y", "normal_z", "confidence")
"""Fields of clouds, each a float32; PCL and RViz know all but the last."""


MAX_STAMP = (2**31 - 86_400) * 1_000_000_000
"""Stamps are below it: a message has 31 bits for seconds, and a day is left for what is added to a stamp."""


def is_valid_stamp(stamp: int) -> bool:
    """Return True if a stamp in nanoseconds is not negative, and messages can hold it and what is added to it."""
    return 0 <= stamp < MAX_STAMP


def nanoseconds(stamp: Time) -> int:
    """Return the stamp of a message in nanoseconds, exactly."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def time_message(stamp: int) -> Time:
    """Return nanoseconds as the stamp of a message, exactly."""
    return Time(sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)


def header(stamp: int, frame: str) -> Header:
    """Return a header."""
    return Header(stamp=time_message(stamp), frame_id=frame)


def pose_message(target_source: Array) -> Pose:
    """Return a 4x4 pose as a message."""
    message = Pose()
    position, orientation = message.position, message.orientation
    position.x, position.y, position.z = target_source[:3, 3].tolist()
    orientation.x, orientation.y, orientation.z, orientation.w = quaternion_from_matrix(target_source[:3, :3]).tolist()
    return message


def pose_matrix(position: Any, orientation: Any) -> Array:
    """Return the 4x4 pose for position and orientation, or translation and rotation, of a message."""
    quaternion = np.array([orientation.x, orientation.y, orientation.z, orientation.w])
    return pose(matrix_from_quaternion(quaternion), np.array([position.x, position.y, position.z]))


def transform(target_source: Array, stamp: int, target: str, source: str) -> TransformStamped:
    """Return a 4x4 pose as the transform whose parent is `target` and whose child is `source`."""
    message = TransformStamped(header=header(stamp, target), child_frame_id=source)
    placed = pose_message(target_source)
    translation, position = message.transform.translation, placed.position
    translation.x, translation.y, translation.z = position.x, position.y, position.z
    message.transform.rotation = placed.orientation
    return message


def ros_covariance(covariance: Array, rotation: Array) -> Array:
    """Return the covariance (6, 6) in the order of geometry_msgs/PoseWithCovariance.

    Args:
        covariance: covariance of a perturbation on the right, [rotation, translation].
        rotation: rotation (3, 3) of the pose, which maps the perturbation to the fixed axes of the frame.

    """
    to_ros = np.zeros((6, 6))
    to_ros[:3, 3:] = to_ros[3:, :3] = rotation
    return to_ros @ covariance @ to_ros.T


def odometry(odom_base: Array, covariance: Array, head: Header, child: str, previous: tuple[int, Array] | None = None,
             stamp: int = 0, motion_covariance: Array | None = None, scale_sigma: float = 0.0) -> Odometry:
    """Return nav_msgs/Odometry: the pose in the header's frame, the twist in `child`.

    The covariance of the twist is that of the motion since the previous image; it does not depend on the pose.

    Args:
        odom_base: 4x4 pose of the base.
        covariance: covariance of `odom_base` in the order of ROS, see `ros_covariance`.
        head: stamp and frame of the pose.
        child: name of the base frame.
        previous: stamp and `odom_base` of the previous image, for the twist; without it the twist is marked unknown.
        stamp: stamp of this image, nanoseconds.
        motion_covariance: covariance (6, 6) of the motion of the base since the previous image, perturbed on the right,
            [rotation, translation]; without it the twist is marked unknown.
        scale_sigma: relative sigma of the unit of length.

    """
    message = Odometry(header=head, child_frame_id=child)
    message.pose.pose = pose_message(odom_base)
    message.pose.covariance = covariance.ravel()
    seconds = (stamp - previous[0]) * 1e-9 if previous is not None else 0.0
    if previous is None or seconds <= 0 or motion_covariance is None:
        message.twist.covariance = (UNKNOWN_VARIANCE * np.eye(6)).ravel()
        return message
    step = inverse(previous[1]) @ odom_base
    linear, angular = step[:3, 3] / seconds, so3_log(step[:3, :3]) / seconds
    twist = message.twist.twist
    twist.linear.x, twist.linear.y, twist.linear.z = linear.tolist()
    twist.angular.x, twist.angular.y, twist.angular.z = angular.tolist()
    twist_covariance = ros_covariance(motion_covariance, step[:3, :3]) / seconds**2
    twist_covariance[:3, :3] += scale_sigma**2 * np.outer(linear, linear)
    message.twist.covariance = twist_covariance.ravel()
    return message


def pose_with_covariance(map_base: Array, covariance: Array, head: Header) -> PoseWithCovarianceStamped:
    """Return geometry_msgs/PoseWithCovarianceStamped; `covariance` in the order of ROS."""
    message = PoseWithCovarianceStamped(header=head)
    message.pose.pose = pose_message(map_base)
    message.pose.covariance = covariance.ravel()
    return message


def path(stamps: NDArray[np.int64], poses: Array, frame: str) -> Path:
    """Return nav_msgs/Path of `poses` (n, 4, 4), each with its own stamp; the header has the last stamp."""
    message = Path(header=header(int(stamps[-1]) if len(stamps) else 0, frame))
    message.poses = [PoseStamped(header=header(int(stamp), frame), pose=pose_message(pose))
                     for stamp, pose in zip(stamps, poses, strict=True)]
    return message


def point_cloud(cloud: PointCloud, head: Header) -> PointCloud2:
    """Return sensor_msgs/PointCloud2 with the fields x y z rgb normal_x normal_y normal_z confidence, 32 bytes.

    The `data` of the message is filled in place: assignment from a list or an ndarray checks and copies every byte, and
    assignment from an array copies once more.
    """
    step = 4 * len(_FIELDS)
    # PCL and RViz interpret the bits of the float32 field `rgb` as a packed color.
    fields = [PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
              for index, name in enumerate(_FIELDS)]
    message = PointCloud2(header=head, height=1, width=len(cloud), fields=fields, is_bigendian=False, point_step=step,
                          row_step=step * len(cloud), is_dense=bool(np.isfinite(cloud.points).all()))
    data = message.data
    data.append(0)
    data *= step * len(cloud)
    raw = np.frombuffer(data, np.uint8).reshape(-1, step)
    values = raw.view("<f4")
    values[:, :3], values[:, 4:7], values[:, 7] = cloud.points, cloud.normals, cloud.confidence
    for channel in range(3):
        raw[:, 14 - channel] = cloud.colors[:, channel]  # 0x00RRGGBB, little-endian
    return message


def occupancy_grid(grid: Grid, head: Header) -> OccupancyGrid:
    """Return nav_msgs/OccupancyGrid in the frame of `head`: row-major, -1 unknown, 0 free, 100 occupied."""
    height, width = grid.cells.shape
    corner = pose(np.eye(3), np.array([*grid.origin, 0.0]))
    info = MapMetaData(map_load_time=head.stamp, resolution=grid.resolution, width=width,
                       height=height, origin=pose_message(corner))
    return OccupancyGrid(header=head, info=info, data=array.array("b", grid.cells.tobytes()))


def depth_image(depth: NDArray[np.floating], head: Header) -> Image:
    """Return `depth` (h, w), meters, NaN where invalid, as sensor_msgs/Image of encoding 32FC1 (REP-118)."""
    height, width = depth.shape
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(depth, "<f4").tobytes())
    return Image(header=head, height=height, width=width, encoding="32FC1", is_bigendian=0, step=4 * width, data=data)


def color_image(image: NDArray[np.uint8], head: Header) -> Image:
    """Return an RGB `image`, uint8 (h, w, 3), as sensor_msgs/Image of encoding rgb8."""
    height, width = image.shape[:2]
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image).tobytes())
    return Image(header=head, height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width, data=data)


def camera_info(intrinsics: Array, size: tuple[int, int], head: Header) -> CameraInfo:
    """Return sensor_msgs/CameraInfo of a rectified pinhole image of `size` (width, height)."""
    projection = np.zeros((3, 4))
    projection[:, :3] = intrinsics
    return CameraInfo(header=head, width=size[0], height=size[1], distortion_model="plumb_bob", d=[0.0] * 5,
                      k=intrinsics.ravel(), r=np.eye(3).ravel(), p=projection.ravel())


def pose_graph(solution: Solution, map_world: Array, head: Header) -> MarkerArray:
    """Return the pose graph as markers.

    Keyframes are spheres in a color per submap, windows are cubes. Overlap edges are gray, accepted loops green; loops
    rejected by verification or by the pose graph are red.

    Args:
        solution: the snapshot to draw.
        map_world: 4x4 pose of the world of the solution in the frame of the header.
        head: frame and stamp.

    """
    centers = solution.map_camera[:, :3, 3] @ map_world[:3, :3].T + map_world[:3, 3]
    origins, edges = graph_lines(solution, map_world)
    keyframes = _marker(head, "keyframes", Marker.SPHERE_LIST, 0.03)
    keyframes.points = [_point(center) for center in centers]
    keyframes.colors = [_submap_color(int(submap)) for submap in solution.submaps]
    windows = _marker(head, "windows", Marker.CUBE_LIST, 0.05)
    windows.points, windows.color = [_point(origin) for origin in origins], ColorRGBA(r=0.9, g=0.9, b=0.9, a=0.6)
    markers = [keyframes, windows]
    for kind, color in (("overlap", ColorRGBA(r=0.6, g=0.6, b=0.6, a=0.8)), ("loop", ColorRGBA(g=0.9, a=1.0)),
                        ("refused", ColorRGBA(r=1.0, a=0.5))):
        lines = _marker(head, kind, Marker.LINE_LIST, 0.01)
        lines.color = color
        lines.points = [_point(end) for end in edges[kind].reshape(-1, 3)]
        markers.append(lines)
    return MarkerArray(markers=[Marker(header=head, action=Marker.DELETEALL), *markers])


def diagnostic_status(name: str, level: bytes, message: str, values: Mapping[str, object],
                      hardware: str = "") -> DiagnosticStatus:
    """Return diagnostic_msgs/DiagnosticStatus; floats are written with four significant digits."""
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware, values=[
        KeyValue(key=key, value=f"{value:.4g}" if isinstance(value, float) else str(value))
        for key, value in values.items()])


def _marker(head: Header, namespace: str, kind: int, size: float) -> Marker:
    marker = Marker(header=head, ns=namespace, type=kind, action=Marker.ADD)
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = size
    marker.color.a = 1.0
    return marker


def _point(position: Array) -> Point:
    x, y, z = position.tolist()
    return Point(x=x, y=y, z=z)


def _submap_color(submap: int) -> ColorRGBA:
    red, green, blue = submap_color(submap)
    return ColorRGBA(r=red, g=green, b=blue, a=1.0)

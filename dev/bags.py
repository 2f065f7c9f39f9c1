"""Rosbag2 files for the demo: written from images, described, and their ground truth read, with `rosbags`."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vggt_ros.camera import Camera
from vggt_ros.geometry import Array, matrix_from_quaternion, pose, quaternion_from_matrix
from vggt_ros.ros.bag_player import BagError, open_bag

IMAGE, INFO, TRUTH = "/camera/image_raw", "/camera/camera_info", "/ground_truth/pose"
FRAME = "camera_optical_frame"
STORE = get_typestore(Stores.ROS2_JAZZY)
_CLASSES = {name.rsplit("/", 1)[-1]: kind for name, kind in STORE.types.items()
            if name.startswith(("std_msgs/msg/Header", "builtin_interfaces/msg/Time", "geometry_msgs/msg/",
                                "sensor_msgs/msg/"))}


@dataclass(frozen=True, eq=False)
class Truth:
    """Camera poses in optical axes: stamps in nanoseconds (n,) and matrices (n, 4, 4)."""

    stamps: NDArray[np.int64]
    world_camera: Array


@dataclass(frozen=True)
class BagTopics:
    """What of a bag the node shall take: topics (`image` without `/compressed`), the images' frame, duration in s."""

    image: str
    compressed: bool
    camera_info: str
    frame: str
    messages: int
    duration: float


def write_bag(path: Path, images: Iterable[tuple[int, bytes]], camera: Camera, truth: Truth | None = None) -> None:
    """Write encoded images (stamp in nanoseconds, jpeg or png), the calibration of each, and the poses."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        def connect(topic: str, kind: str) -> Connection:
            return writer.add_connection(topic, kind, typestore=STORE)

        image_out = connect(f"{IMAGE}/compressed", "sensor_msgs/msg/CompressedImage")
        info_out = connect(INFO, "sensor_msgs/msg/CameraInfo")
        truth_out = connect(TRUTH, "geometry_msgs/msg/PoseStamped") if truth else None
        poses = deque(zip(truth.stamps.tolist(), truth.world_camera)) if truth else deque()
        for stamp, data in images:
            while truth_out is not None and poses and poses[0][0] <= stamp:
                at, world_camera = poses.popleft()
                writer.write(truth_out, at, STORE.serialize_cdr(_pose(at, world_camera),
                                                                "geometry_msgs/msg/PoseStamped"))
            head = _header(stamp, FRAME)
            kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
            image = _CLASSES["CompressedImage"](header=head, format=kind, data=np.frombuffer(data, np.uint8))
            writer.write(image_out, stamp, STORE.serialize_cdr(image, "sensor_msgs/msg/CompressedImage"))
            writer.write(info_out, stamp, STORE.serialize_cdr(_camera_info(camera, head), "sensor_msgs/msg/CameraInfo"))


def sequence_images(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Yield stamps in nanoseconds and the files of a folder with `rgb.txt` (lines "timestamp filename")."""
    for stamp, name in _rows(folder / "rgb.txt"):
        yield nanoseconds(stamp), (folder / name).read_bytes()


def sequence_camera(folder: Path) -> Camera:
    """Return the camera of `calibration.txt` ("fx fy cx cy k1 k2 p1 p2 k3", OpenCV's plumb_bob)."""
    fx, fy, cx, cy, *distortion = map(float, _rows(folder / "calibration.txt")[0])
    first = cv2.imdecode(np.frombuffer(next(sequence_images(folder))[1], np.uint8), cv2.IMREAD_COLOR)
    return Camera(first.shape[1], first.shape[0], np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), tuple(distortion))


def read_truth(path: Path) -> Truth:
    """Return the poses of a file in TUM format, "timestamp tx ty tz qx qy qz qw"."""
    rows = _rows(path)
    values = np.array([[float(value) for value in row[1:8]] for row in rows])
    return Truth(np.array([nanoseconds(row[0]) for row in rows], np.int64),
                 np.array([pose(matrix_from_quaternion(row[3:]), row[:3]) for row in values]))


def _rows(path: Path) -> list[list[str]]:
    """Return the words of each line that is not empty and no comment."""
    return [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def nanoseconds(seconds: str) -> int:
    """Return a decimal text of seconds as an exact number of nanoseconds; a float64 would round it."""
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0") or 0)


def describe_bag(path: Path) -> BagTopics:
    """Return which topics of a bag hold images and their calibration.

    Raises:
        BagError: it is not a readable rosbag2, or has no images.

    """
    with contextlib.closing(open_bag(path)) as reader:
        images = [c for c in reader.connections
                  if c.msgtype in ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage") and c.msgcount]
        if not images:
            raise BagError(f"{path}: no topic of type sensor_msgs/Image or CompressedImage with messages in it")
        chosen = max(images, key=lambda c: ("depth" not in c.topic, c.msgcount))
        compressed = chosen.msgtype.endswith("CompressedImage")
        base = chosen.topic.removesuffix("/compressed")
        infos = [c.topic for c in reader.connections if c.msgtype == "sensor_msgs/msg/CameraInfo" and c.msgcount]
        beside = base.rsplit("/", 1)[0] + "/camera_info"
        info = beside if beside in infos or not infos else infos[0]
        message = STORE.deserialize_cdr(next(reader.messages([chosen]))[2], chosen.msgtype)
        return BagTopics(base, compressed, info, message.header.frame_id, chosen.msgcount, reader.duration / 1e9)


def bag_truth(path: Path) -> Truth | None:
    """Return the poses of /ground_truth/pose, None if the bag has no such topic."""
    with contextlib.closing(open_bag(path)) as reader:
        return _read_poses(reader, [c for c in reader.connections if c.topic == TRUTH])


def _read_poses(reader: Reader, connections: list[Connection]) -> Truth | None:
    if not connections:
        return None
    stamps, poses = [], []
    for connection, _, data in reader.messages(connections):
        message = STORE.deserialize_cdr(data, connection.msgtype)
        stamps.append(message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec)
        p, q = message.pose.position, message.pose.orientation
        poses.append(pose(matrix_from_quaternion(np.array([q.x, q.y, q.z, q.w])), np.array([p.x, p.y, p.z])))
    return Truth(np.array(stamps, np.int64), np.array(poses))


def _header(stamp: int, frame: str) -> Any:
    time = _CLASSES["Time"](sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)
    return _CLASSES["Header"](stamp=time, frame_id=frame)


def _camera_info(camera: Camera, head: Any) -> Any:
    projection = np.hstack([camera.intrinsics, np.zeros((3, 1))])
    distortion = np.array(camera.distortion if camera.distortion else np.zeros(5), float)
    return _CLASSES["CameraInfo"](
        header=head, height=camera.height, width=camera.width, distortion_model=camera.model, d=distortion,
        k=camera.intrinsics.ravel(), r=np.eye(3).ravel(), p=projection.ravel(), binning_x=0, binning_y=0,
        roi=_CLASSES["RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False))


def _pose(stamp: int, world_camera: Array) -> Any:
    x, y, z, w = quaternion_from_matrix(world_camera[:3, :3])
    at = _CLASSES["Point"](*world_camera[:3, 3])
    return _CLASSES["PoseStamped"](header=_header(stamp, "world"), pose=_CLASSES["Pose"](
        position=at, orientation=_CLASSES["Quaternion"](x=x, y=y, z=z, w=w)))

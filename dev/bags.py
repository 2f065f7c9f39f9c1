"""Writing of rosbag2 files for the demo from images."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Array, quaternion_from_matrix
from vggt_ros.sequences.sequence import Image, Truth

IMAGE, INFO, TRUTH = "/camera/image_raw", "/camera/camera_info", "/ground_truth/pose"
FRAME = "camera_optical_frame"
KINDS = {IMAGE: "sensor_msgs/msg/CompressedImage", INFO: "sensor_msgs/msg/CameraInfo",
         TRUTH: "geometry_msgs/msg/PoseStamped"}
STORE = get_typestore(Stores.ROS2_JAZZY)


def jpeg(image: Image) -> bytes:
    """Return an RGB image as JPEG with a quality that preserves features."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def write_bag(path: Path, images: Iterable[tuple[int, bytes]], camera: Camera, truth: Truth | None = None) -> None:
    """Write JPEG images with stamps in nanoseconds, a CameraInfo for each, and the ground-truth poses."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        out = {topic: writer.add_connection(f"{topic}/compressed" if topic == IMAGE else topic, kind, typestore=STORE)
               for topic, kind in KINDS.items()}

        def write(topic: str, stamp: int, message: Any) -> None:
            writer.write(out[topic], stamp, STORE.serialize_cdr(message, KINDS[topic]))

        poses = deque(zip(truth[0].tolist(), truth[1])) if truth else deque()
        for stamp, data in images:
            while poses and poses[0][0] <= stamp:
                pose_stamp, world_camera = poses.popleft()
                write(TRUTH, pose_stamp, _pose(pose_stamp, world_camera))
            header = _header(stamp, FRAME)
            write(IMAGE, stamp, _type("sensor_msgs/msg/CompressedImage")(
                header=header, format="jpeg", data=np.frombuffer(data, np.uint8)))
            write(INFO, stamp, _camera_info(camera, header))


def _type(name: str) -> Any:
    return STORE.types[name]


def _header(stamp: int, frame: str) -> Any:
    time = _type("builtin_interfaces/msg/Time")(sec=stamp // 10**9, nanosec=stamp % 10**9)
    return _type("std_msgs/msg/Header")(stamp=time, frame_id=frame)


def _camera_info(camera: Camera, header: Any) -> Any:
    """Return the CameraInfo; intrinsics are zero, which means uncalibrated (REP-104), if they are only assumed."""
    intrinsics = camera.intrinsics if camera.calibrated else np.zeros((3, 3))
    projection = np.hstack([intrinsics, np.zeros((3, 1))])
    distortion = np.array(camera.distortion if camera.distortion else np.zeros(5), float)
    whole = _type("sensor_msgs/msg/RegionOfInterest")(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return _type(KINDS[INFO])(
        header=header, height=camera.height, width=camera.width, distortion_model=camera.model, d=distortion,
        k=intrinsics.ravel(), r=np.eye(3).ravel(), p=projection.ravel(), binning_x=0, binning_y=0, roi=whole)


def _pose(stamp: int, world_camera: Array) -> Any:
    x, y, z, w = quaternion_from_matrix(world_camera[:3, :3])
    return _type(KINDS[TRUTH])(header=_header(stamp, "world"), pose=_type("geometry_msgs/msg/Pose")(
        position=_type("geometry_msgs/msg/Point")(*world_camera[:3, 3]),
        orientation=_type("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w)))

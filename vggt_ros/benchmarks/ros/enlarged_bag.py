"""A rosbag2 with larger images: what a camera of higher resolution costs, with the same motion and ground truth."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tqdm import tqdm

from vggt_ros.ros.tools.bag_player import open_bag

_COMPRESSED, _INFO = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"
_QUALITY = 90


def enlarge(bag: Path, target: Path, factor: int, images: int | None = None) -> None:
    """Write a bag whose compressed images are `factor` times as large, with their CameraInfo; all else is copied.

    It ends after so many `images`, if that is given.

    Raises:
        BagError: the bag cannot be read.

    """
    store = get_typestore(Stores.ROS2_JAZZY)
    change = {_COMPRESSED: _enlarge_image, _INFO: _enlarge_info}
    with contextlib.closing(open_bag(bag)) as reader, \
            Writer(target, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        out = {c.id: writer.add_connection(c.topic, c.msgtype, typestore=store) for c in reader.connections}
        total = sum(c.msgcount for c in reader.connections)
        for connection, stamp, data in tqdm(reader.messages(), total=total, unit="msg", disable=None):
            if images is not None and connection.msgtype == _COMPRESSED:
                if not images:
                    break
                images -= 1
            if factor > 1 and connection.msgtype in change:
                message = store.deserialize_cdr(data, connection.msgtype)
                data = store.serialize_cdr(change[connection.msgtype](store, message, factor), connection.msgtype)
            writer.write(out[connection.id], stamp, data)


def _enlarge_image(store: Any, message: Any, factor: int) -> Any:
    image = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
    large = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    return store.types[_COMPRESSED](header=message.header, format="jpeg", data=np.asarray(data, np.uint8).ravel())


def _enlarge_info(store: Any, message: Any, factor: int) -> Any:
    """Scale the matrices; centers of pixels are at integers, so the principal point moves by half a pixel."""
    scaling = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]], float)
    intrinsics, projection = message.k.reshape(3, 3), message.p.reshape(3, 4)
    return store.types[_INFO](
        header=message.header, height=factor * message.height, width=factor * message.width,
        distortion_model=message.distortion_model, d=message.d,
        k=(scaling @ intrinsics if intrinsics[0, 0] else intrinsics).ravel(), r=message.r,
        p=(scaling @ projection if projection[0, 0] else projection).ravel(),
        binning_x=message.binning_x, binning_y=message.binning_y, roi=message.roi)

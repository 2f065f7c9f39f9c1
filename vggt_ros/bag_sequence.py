"""Images, calibration and ground truth of a rosbag2, read without ROS by the package rosbags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore

from vggt_ros.camera import Camera
from vggt_ros.encodings import ImageError, decode, decode_compressed
from vggt_ros.geometry import matrix_from_quaternion, pose
from vggt_ros.sequences import Image, SequenceError, Truth

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class BagSequence:
    """One image topic of a rosbag2 (sqlite3 or mcap), with its CameraInfo and a PoseStamped as ground truth."""

    def __init__(self, path: Path, image_topic: str = "", info_topic: str = "", truth_topic: str = "",
                 fov: float = 65.0) -> None:
        """Read all but the images.

        Raises:
            SequenceError: the bag cannot be read, has no images, or a topic that is asked for is not in it.

        """
        self.path = path
        self.name = path.resolve().parent.name if path.name == "bag" else path.stem
        with self._open() as reader:
            images = self._choose(reader, (RAW, COMPRESSED), image_topic)
            if images is None:
                raise SequenceError(f"{path}: no topic with images ({RAW} or {COMPRESSED}) in it")
            self.image_topic, self._count = images.topic, sum(
                c.msgcount for c in reader.connections if c.topic == images.topic)
            self.rectified = "rect" in images.topic.rsplit("/", 2)[-1] or "image_rect" in images.topic
            info = self._choose(reader, ("sensor_msgs/msg/CameraInfo",), info_topic, images.topic)
            message = next((m for _, m in self._messages(reader, info)), None) if info else None
            camera = Camera.from_info(message, self.rectified) if message is not None else None
            truth = self._choose(reader, ("geometry_msgs/msg/PoseStamped",), truth_topic)
            self.truth = self._truth(reader, truth) if truth else None
        self.assumptions: tuple[str, ...] = ()
        if camera is None:
            _, first = next(iter(self), (0, None))
            if first is None:
                raise SequenceError(f"{path}: {self.image_topic} has no images")
            camera = Camera.assumed(first.shape[1], first.shape[0], fov)
            self.assumptions = (f"a field of view of {fov:g} degrees, since the bag has no calibration",)
        self.camera = camera

    def __len__(self) -> int:
        """Return the number of images."""
        return self._count

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield the stamp of the header and the image; raises SequenceError where one cannot be decoded."""
        with self._open() as reader:
            for stamp, message in self._messages(reader, self._choose(reader, (RAW, COMPRESSED), self.image_topic)):
                try:
                    if hasattr(message, "encoding"):
                        image = decode(message.encoding, message.height, message.width, message.step,
                                       message.is_bigendian, message.data)
                    else:
                        image = decode_compressed(message.format, message.data)
                except ImageError as error:
                    raise SequenceError(f"{self.path}: {self.image_topic} at {stamp} ns: {error}") from error
                yield stamp, image

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield nothing: bags with sensor depth are not compared."""
        return iter(())

    @contextmanager
    def _open(self) -> Iterator[AnyReader]:
        try:
            reader = AnyReader([self.path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
            reader.open()
        except Exception as error:  # a damaged file fails anywhere inside of its parser
            raise SequenceError(f"{self.path}: not a readable rosbag2 ({error})") from error
        try:
            yield reader
        finally:
            reader.close()

    def _choose(self, reader: AnyReader, kinds: tuple[str, ...], topic: str, near: str = "") -> Connection | None:
        """Return the connection of `topic`, or the first of these kinds: those beside `near`, then those not depth."""
        found = [connection for connection in reader.connections if connection.msgtype in kinds]
        if topic:
            if chosen := next((c for c in found if c.topic == topic), None):
                return chosen
            there = ", ".join(sorted(c.topic for c in found)) or "none"
            raise SequenceError(f"{self.path}: no topic {topic} of type {' or '.join(kinds)}; there are: {there}")
        namespace = near.removesuffix("/compressed").rsplit("/", 1)[0]
        found.sort(key=lambda c: (not c.topic.startswith(f"{namespace}/"), "depth" in c.topic, c.topic))
        return found[0] if found else None

    def _messages(self, reader: AnyReader, connection: Connection | None) -> Iterator[tuple[int, Any]]:
        """Yield the header's stamp, nanoseconds, and the message."""
        chosen = [c for c in reader.connections if connection is not None and c.topic == connection.topic]
        messages = reader.messages(chosen)
        while True:
            try:
                kind, _, data = next(messages)
                message: Any = reader.deserialize(data, kind.msgtype)
            except StopIteration:
                return
            except Exception as error:  # as in _open
                raise SequenceError(f"{self.path}: cannot be read on ({error})") from error
            yield message.header.stamp.sec * 10**9 + message.header.stamp.nanosec, message

    def _truth(self, reader: AnyReader, connection: Connection) -> Truth | None:
        stamps, poses = [], []
        for stamp, message in self._messages(reader, connection):
            p, q = message.pose.position, message.pose.orientation
            stamps.append(stamp)
            poses.append(pose(matrix_from_quaternion(np.array([q.x, q.y, q.z, q.w])), np.array([p.x, p.y, p.z])))
        return (np.array(stamps, np.int64), np.array(poses)) if stamps else None

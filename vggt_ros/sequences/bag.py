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

from vggt_ros.geometry.camera import Camera, CameraError, is_rectified_topic
from vggt_ros.geometry.poses import matrix_from_quaternion, pose
from vggt_ros.sequences.encodings import ImageError, decode, decode_compressed
from vggt_ros.sequences.sequence import Image, SequenceError, Truth

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFOS = ("sensor_msgs/msg/CameraInfo",)
POSES = ("geometry_msgs/msg/PoseStamped",)


class BagSequence:
    """One image topic of a rosbag2 (sqlite3 or mcap), with its CameraInfo and a PoseStamped as ground truth."""

    def __init__(self, path: Path, image_topic: str = "", info_topic: str = "", truth_topic: str = "",
                 fov: float = 65.0) -> None:
        """Read everything but the images.

        Raises:
            SequenceError: the bag cannot be read, has no images or an unusable calibration, or a topic that is asked
                for is not in it.

        """
        self.path = path
        self.name = path.resolve().parent.name if path.name == "bag" else path.stem
        assumptions: list[str] = []
        with self._open() as reader:
            images = self._choose(reader, IMAGES, image_topic)
            if images is None:
                raise SequenceError(f"{path}: no topic with images ({' or '.join(IMAGES)})")
            self.image_topic, self._count = images.topic, sum(
                c.msgcount for c in reader.connections if c.topic == images.topic)
            self.rectified = is_rectified_topic(images.topic)
            info = self._choose(reader, INFOS, info_topic, images.topic)
            camera, missing = self._calibration(reader, info)
            truth = self._choose(reader, POSES, truth_topic)
            self.truth = self._truth(reader, truth, assumptions) if truth else None
            if not image_topic:
                assumptions += self._alternatives(reader, IMAGES, images, "images")
            if not truth_topic and truth:
                assumptions += self._alternatives(reader, POSES, truth, "ground truth")
        if info and not info_topic and not info.topic.startswith(_namespace(images.topic)):
            assumptions.append(f"the calibration of {info.topic}, since there is none next to {images.topic}")
        if camera is None:
            _, first = next(self._images(), (0, None))
            if first is None:
                raise SequenceError(f"{path}: {self.image_topic} has no images")
            camera = Camera.assumed(first.shape[1], first.shape[0], fov)
            assumptions.insert(0, f"a field of view of {fov:g} degrees, since {missing}")
        self.camera = camera
        self.assumptions: tuple[str, ...] = tuple(assumptions)

    def __len__(self) -> int:
        """Return the number of images."""
        return self._count

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield the stamp of the header and the image.

        Raises:
            SequenceError: an image cannot be decoded, or is not of the size that the calibration is for.

        """
        for stamp, image in self._images():
            if image.shape[:2] != (self.camera.height, self.camera.width):
                raise SequenceError(f"{self.path}: {self.image_topic} at {stamp} ns: {image.shape[1]}x{image.shape[0]} "
                                    f"pixels, the calibration is for {self.camera.width}x{self.camera.height}")
            yield stamp, image

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield nothing: sensor depth is not read from bags."""
        return iter(())

    def _images(self) -> Iterator[tuple[int, Image]]:
        with self._open() as reader:
            for stamp, message in self._messages(reader, self._choose(reader, IMAGES, self.image_topic)):
                try:
                    if hasattr(message, "encoding"):
                        image = decode(message.encoding, message.height, message.width, message.step,
                                       message.is_bigendian, message.data)
                    else:
                        image = decode_compressed(message.format, message.data)
                except ImageError as error:
                    raise SequenceError(f"{self.path}: {self.image_topic} at {stamp} ns: {error}") from error
                yield stamp, image

    @contextmanager
    def _open(self) -> Iterator[AnyReader]:
        try:
            reader = AnyReader([self.path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
            reader.open()
        except Exception as error:  # the parser of a damaged file may raise anything
            raise SequenceError(f"{self.path}: not a readable rosbag2 ({error})") from error
        try:
            yield reader
        finally:
            reader.close()

    def _choose(self, reader: AnyReader, types: tuple[str, ...], topic: str, near: str = "") -> Connection | None:
        """Return the connection of `topic`, or the first of these types, those in the namespace of `near` first.

        Then come those that have messages, then those that are not depth.
        """
        found = [connection for connection in reader.connections if connection.msgtype in types]
        if topic:
            if chosen := next((c for c in found if c.topic == topic), None):
                return chosen
            available = ", ".join(sorted(c.topic for c in found)) or "none"
            raise SequenceError(f"{self.path}: no topic {topic} of type {' or '.join(types)}; there are: {available}")
        namespace = _namespace(near)
        found.sort(key=lambda c: (not c.topic.startswith(namespace), not c.msgcount, "depth" in c.topic, c.topic))
        return found[0] if found else None

    def _alternatives(self, reader: AnyReader, types: tuple[str, ...], chosen: Connection, content: str) -> list[str]:
        """Return a line that names the other topics that could have been chosen, if there are any."""
        others = {c.topic for c in reader.connections if c.msgtype in types and c.msgcount and "depth" not in c.topic
                  and c.topic.removesuffix("/compressed") != chosen.topic.removesuffix("/compressed")}
        return [f"the {content} of {chosen.topic}; there are others: {', '.join(sorted(others))}"] if others else []

    def _calibration(self, reader: AnyReader, info: Connection | None) -> tuple[Camera | None, str]:
        """Return the camera, or None and why there is none; raises SequenceError if the calibration is unusable."""
        if info is None:
            return None, "the bag has no CameraInfo"
        message = next((message for _, message in self._messages(reader, info)), None)
        if message is None:
            return None, f"{info.topic} has no messages"
        try:
            camera = Camera.from_info(message, self.rectified)
        except CameraError as error:
            raise SequenceError(f"{self.path}: {info.topic}: {error}") from error
        return camera, "" if camera else f"K[0] is 0 in {info.topic}, which means not calibrated (REP-104)"

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
                raise SequenceError(f"{self.path}: reading stopped at a damaged message ({error})") from error
            yield message.header.stamp.sec * 10**9 + message.header.stamp.nanosec, message

    def _truth(self, reader: AnyReader, connection: Connection, assumptions: list[str]) -> Truth | None:
        """Return the ground truth; invalid poses are left out, and `assumptions` says so."""
        stamps, poses, total = [], [], 0
        for stamp, message in self._messages(reader, connection):
            p, q = message.pose.position, message.pose.orientation
            position, quaternion = np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])
            total += 1
            if np.isfinite(position).all() and np.isfinite(quaternion).all() and quaternion.any():
                stamps.append(stamp)
                poses.append(pose(matrix_from_quaternion(quaternion), position))
        if len(stamps) < total:
            assumptions.append(f"the ground truth of {connection.topic} without {total - len(stamps)} poses that are "
                               "not finite or have no rotation")
        return (np.array(stamps, np.int64), np.array(poses)) if stamps else None


def _namespace(topic: str) -> str:
    """Return the namespace of an image topic."""
    return topic.removesuffix("/compressed").rsplit("/", 1)[0] + "/"

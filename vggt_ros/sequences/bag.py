"""Images, calibration and ground truth of a bag of ROS 2 or ROS 1, read without ROS by the package rosbags."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection

from vggt_ros.geometry.camera import Camera, CameraError, is_rectified_topic
from vggt_ros.geometry.poses import matrix_from_quaternion, pose
from vggt_ros.sequences.bag_files import readable, reader_of
from vggt_ros.sequences.calibration_file import NONE, find_calibration
from vggt_ros.sequences.encodings import DEPTH_ENCODINGS, ImageError
from vggt_ros.sequences.intake import Intake
from vggt_ros.sequences.sequence import Image, Omitted, SequenceError, Truth
from vggt_ros.sequences.topics import is_beside, nearest_info

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFOS = ("sensor_msgs/msg/CameraInfo",)
POSES = ("geometry_msgs/msg/PoseStamped",)
_MAX_INFOS, _MAX_TRIALS = 500, 100
"""Most CameraInfo, and most images, that are read until one can be used."""


class BagSequence:
    """One image topic of a bag of ROS 2 (sqlite3 or mcap) or ROS 1, with its CameraInfo, and poses as ground truth."""

    def __init__(self, path: Path, image_topic: str = "", info_topic: str = "", truth_topic: str = "",
                 fov: float = 65.0, calibration: Path | None = None) -> None:
        """Read everything but the images.

        Args:
            path: a folder of a rosbag2, or a storage file; of files that are damaged the others are read.
            image_topic: chosen by type if it is empty.
            info_topic: chosen by the image topic if it is empty; `none`: the field of view is assumed.
            truth_topic: chosen by type if it is empty.
            fov: field of view along the longer side, degrees, assumed without a calibration.
            calibration: a file, instead of a CameraInfo.

        Raises:
            SequenceError: the bag cannot be read, has no images or an unusable calibration, or a topic that is asked
                for is not in it.

        """
        self.path, self.omitted = path, Omitted()
        self.name = path.resolve().parent.name if path.name == "bag" else path.stem
        self._files, lacking = readable(path)
        assumptions = [lacking] if lacking else []
        known = find_calibration(calibration)
        info_topic = "none" if calibration == NONE else info_topic
        if known and info_topic not in ("", "none"):
            raise SequenceError(f"{path}: calibrations of {calibration} and of {info_topic} are given; one is possible")
        with reader_of(self._files) as reader:
            images = self._choose(reader, IMAGES, image_topic)
            if images is None:
                others = ", ".join(sorted({f"{c.topic} ({c.msgtype})" for c in reader.connections})) or "none"
                raise SequenceError(f"{path}: no topic with images ({' or '.join(IMAGES)}); its topics are: {others}")
            self.image_topic, self._count = images.topic, sum(
                c.msgcount for c in reader.connections if c.topic == images.topic)
            self.rectified = is_rectified_topic(images.topic)
            info = None if known or info_topic == "none" else self._choose(reader, INFOS, info_topic, images.topic)
            self.info_topic = "" if info is None else info.topic
            first, size = self._first_image(reader)
            if known:
                camera, missing = known.camera(size), ""
                assumptions += known.assumptions(camera)
            else:
                camera, missing = self._calibration(reader, size, fov, assumptions)
            truth = self._choose(reader, POSES, truth_topic)
            self.truth = self._truth(reader, truth, assumptions) if truth else None
            if not (first.header.stamp.sec or first.header.stamp.nanosec):
                assumptions.append(f"the times of recording, since header.stamp in {images.topic} is 0")
            if "depth" in images.topic and getattr(first, "encoding", "") in DEPTH_ENCODINGS:
                assumptions.append(f"depth as gray images: {images.topic} is a topic of depth, and there are no others")
            if not image_topic:
                assumptions += self._alternatives(reader, IMAGES, images, "images")
            if not truth_topic and truth:
                assumptions += self._alternatives(reader, POSES, truth, "ground truth")
        if info and not info_topic and not is_beside(images.topic, info.topic):
            assumptions.append(f"the calibration of {info.topic}, since there is none next to {images.topic}")
        if missing:
            assumptions.insert(0, f"a field of view of {fov:g} degrees, since {missing}")
        self.camera = camera
        self.assumptions: tuple[str, ...] = tuple(assumptions)

    def __len__(self) -> int:
        """Return the number of images."""
        return self._count

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield the stamp of the header and the image; `camera` follows the newest CameraInfo that can be used.

        Raises:
            SequenceError: the bag is damaged before its first image.

        """
        self.omitted.clear()
        yielded = 0
        try:
            for stamp, image, camera in self._taken():
                self.camera = camera
                yield stamp, image
                yielded += 1
        except SequenceError as error:
            if not yielded:
                raise
            self.omitted.add("the rest of the bag", str(error))

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield nothing: sensor depth is not read from bags."""
        return iter(())

    def _taken(self) -> Iterator[tuple[int, Image, Camera]]:
        """Yield stamp, image and camera of every image that can be used."""
        intake, assumed = Intake(self.rectified), None if self.camera.calibrated else self.camera
        with reader_of(self._files) as reader:
            if self.camera.calibrated:  # images may come before it
                self._add_first_info(reader, intake, (self.camera.width, self.camera.height))
            for topic, stamp, message in self._messages(reader, self.image_topic, self.info_topic):
                if isinstance(message, Exception):
                    self.omitted.add(f"at {stamp} ns", f"not a message ({message})")
                elif topic != self.image_topic:
                    intake.add_info(message)
                else:
                    try:
                        if stamp < 0:
                            raise ImageError("the stamp is negative")
                        image = intake.decode(message)
                        camera = intake.camera(image.shape[1], image.shape[0]) or assumed or self.camera
                        if image.shape[:2] != (camera.height, camera.width):
                            raise ImageError(f"{image.shape[1]}x{image.shape[0]} pixels, the first has "
                                             f"{camera.width}x{camera.height}")
                    except (ImageError, CameraError) as error:
                        self.omitted.add(f"at {stamp} ns", str(error))
                        continue
                    yield stamp, image, camera

    def _choose(self, reader: AnyReader, types: tuple[str, ...], topic: str, near: str = "") -> Connection | None:
        """Return the connection of `topic`, or of these types the one that belongs to the images `near`.

        Those that have messages come first, then those that are not depth, by their name or encoding.
        """
        found = [connection for connection in reader.connections if connection.msgtype in types]
        if topic:
            if chosen := next((c for c in found if c.topic == topic), None):
                return chosen
            available = ", ".join(sorted(c.topic for c in found)) or "none"
            raise SequenceError(f"{self.path}: no topic {topic} of type {' or '.join(types)}; there are: {available}")
        found.sort(key=lambda c: (not c.msgcount, "depth" in c.topic, c.topic))
        if types == IMAGES and len({c.topic for c in found if c.msgcount and "depth" not in c.topic}) > 1:
            found.sort(key=lambda c: (not c.msgcount, "depth" in c.topic or self._has_depth(reader, c), c.topic))
        if near and (name := nearest_info(near, [c.topic for c in found if c.msgcount])):
            return next(c for c in found if c.topic == name)
        return found[0] if found else None

    def _has_depth(self, reader: AnyReader, connection: Connection) -> bool:
        """Return whether the first image of a topic has an encoding of depth; a camera alone may have it, too."""
        messages = self._messages(reader, connection.topic) if connection.msgcount else iter(())
        return any(getattr(message, "encoding", "") in DEPTH_ENCODINGS for _, _, message in islice(messages, 1))

    def _alternatives(self, reader: AnyReader, types: tuple[str, ...], chosen: Connection, content: str) -> list[str]:
        """Return a line that names the other topics that could have been chosen, if there are any."""
        others = {c.topic for c in reader.connections if c.msgtype in types and c.msgcount and "depth" not in c.topic
                  and c.topic.removesuffix("/compressed") != chosen.topic.removesuffix("/compressed")}
        return [f"the {content} of {chosen.topic}; there are others: {', '.join(sorted(others))}"] if others else []

    def _calibration(self, reader: AnyReader, size: tuple[int, int], fov: float,
                     assumptions: list[str]) -> tuple[Camera, str]:
        """Return the camera, and why its field of view is only assumed; raises SequenceError if it is unusable."""
        assumed, intake = Camera.assumed(*size, fov), Intake(self.rectified)
        if not self.info_topic:
            return assumed, "the bag has no CameraInfo, or none is asked for; --calibration FILE gives one"
        camera, problem = self._add_first_info(reader, intake, size)
        if intake.doubt:
            assumptions.append(f"the calibration of {self.info_topic}, although {intake.doubt}")
        if camera is None and problem:
            raise SequenceError(f"{self.path}: {self.info_topic}: {problem}; `--info-topic none` does without it")
        if camera is None:
            return assumed, f"{self.info_topic}: {intake.problem or 'there are no messages'}"
        return camera, ""

    def _add_first_info(self, reader: AnyReader, intake: Intake, size: tuple[int, int]) -> tuple[Camera | None, str]:
        """Add the CameraInfo until one can be used for images of this size; return its camera, or the first problem."""
        problem = ""
        for _, _, message in islice(self._messages(reader, self.info_topic), _MAX_INFOS):
            if isinstance(message, Exception):
                continue
            intake.add_info(message)
            try:
                if camera := intake.camera(*size):
                    return camera, ""
            except CameraError as error:
                problem = problem or str(error)
        return None, problem

    def _first_image(self, reader: AnyReader) -> tuple[Any, tuple[int, int]]:
        """Return the message and size (width, height) of the first image that can be decoded; raises SequenceError."""
        problem = "there are no images"
        for _, stamp, message in islice(self._messages(reader, self.image_topic), _MAX_TRIALS):
            try:
                if isinstance(message, Exception):
                    raise ImageError(f"not a message ({message})")
                height, width = Intake().decode(message).shape[:2]
                return message, (width, height)
            except ImageError as error:
                problem = f"at {stamp} ns: {error}"
        raise SequenceError(f"{self.path}: {self.image_topic}: {problem}")

    def _messages(self, reader: AnyReader, *topics: str) -> Iterator[tuple[str, int, Any]]:
        """Yield topic, stamp in nanoseconds, and message, or the error by which it cannot be read.

        The stamp is the header's; if that is 0, the time of recording.
        """
        chosen = [c for c in reader.connections if c.topic in topics]
        messages = reader.messages(chosen)
        while chosen:
            try:
                kind, logged, data = next(messages)
            except StopIteration:
                return
            except Exception as error:  # the parser of a damaged file may raise anything
                raise SequenceError(f"{self.path}: reading stopped at a damaged part ({error})") from error
            try:
                message: Any = reader.deserialize(data, kind.msgtype)
                stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec or logged
            except Exception as error:  # the parser of a damaged file may raise anything
                yield kind.topic, logged, error
                continue
            yield kind.topic, stamp, message

    def _truth(self, reader: AnyReader, connection: Connection, assumptions: list[str]) -> Truth | None:
        """Return the ground truth; invalid poses are left out, and `assumptions` says so."""
        stamps, poses, total = [], [], 0
        for _, stamp, message in self._messages(reader, connection.topic):
            total += 1
            if isinstance(message, Exception):
                continue
            p, q = message.pose.position, message.pose.orientation
            position, quaternion = np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])
            if np.isfinite(position).all() and np.isfinite(quaternion).all() and quaternion.any():
                stamps.append(stamp)
                poses.append(pose(matrix_from_quaternion(quaternion), position))
        if len(stamps) < total:
            assumptions.append(f"the ground truth of {connection.topic} without {total - len(stamps)} poses that are "
                               "not finite or have no rotation")
        rising, rows = np.unique(np.array(stamps, np.int64), return_index=True)
        return (rising, np.array(poses)[rows]) if stamps else None


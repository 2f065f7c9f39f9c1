"""Messages that no honest sender makes: wrong fields, impossible values, damaged bytes, for every topic of the node."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu
from tf2_msgs.msg import TFMessage

from vggt_ros.ros.conversions import messages

TOPICS: dict[str, Any] = {"camera_info": CameraInfo, "odometry": Odometry, "imu": Imu, "depth": Image, "/tf": TFMessage,
                          "/tf_static": TFMessage, "initialpose": PoseWithCovarianceStamped}
"""The inputs of the node apart from its images, and their types."""
_NUMBERS = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e300, -1e300, 1e30, 1e-30, 2.0**62, 1e7, 0.5]
_STAMPS = [(-1, 0), (-(2**31), 0), (2**31 - 1, 0), (2**31 - 1, 2**32 - 1), (0, 0), (0, 2**32 - 1), (1_700_000_000, 7)]
_NAMES = ["", "/", "map", "odom", "base_link", "camera_optical_frame", "x" * 5000, "\u202e\x00\n\t", "a b/../c", "%s%n"]
_ENCODINGS = ["", "rgb8", "bgra8", "mono8", "mono16", "16UC1", "32FC1", "bayer_rggb8", "yuv422", "nv12", "8UC3",
              "64FC4", "8UC99999999", "rgb9", "x" * 5000]


class HostileMessages:
    """Makes messages at random, all of them reproducible by the seed."""

    def __init__(self, image: NDArray[np.uint8], intrinsics: NDArray[np.float64], seed: int = 0) -> None:
        """Make images of the size of `image`, RGB, or of any other, and calibrations about `intrinsics` 3x3."""
        self._rng, self._image, self._intrinsics = np.random.default_rng(seed), image, intrinsics
        self._jpeg = cv2.imencode(".jpg", image)[1].tobytes()
        self._png = cv2.imencode(".png", image[::4, ::4])[1].tobytes()
        self._makers: dict[str, Callable[[], Any]] = {
            "image": self._raw, "image/compressed": self._compressed, "camera_info": self._info,
            "odometry": self._odometry, "imu": self._imu, "depth": self._raw, "/tf": self._tf, "/tf_static": self._tf,
            "initialpose": self._initial_pose}

    def make(self, topic: str) -> Any:
        """Return a message for a topic; one in eight as its serialized bytes, damaged."""
        message = self._makers[topic]()
        if self._rng.random() >= 0.125:
            return message
        data = bytearray(serialize_message(message))
        if self._rng.random() < 0.3:
            return bytes(data[:4]) + self._bytes(int(self._rng.integers(0, 400)))
        for at in self._rng.integers(4, max(5, min(len(data), 200)), 4):  # the first ones have lengths and names
            if at < len(data):
                data[at] = self._rng.integers(256)
        return bytes(data[:self._rng.integers(4, len(data) + 1)]) if self._rng.random() < 0.3 else bytes(data)

    def _pick(self, values: list[Any]) -> Any:
        return values[self._rng.integers(len(values))]

    def _bytes(self, count: int) -> bytes:
        return self._rng.integers(0, 256, count, np.uint8).tobytes()

    def _number(self) -> float:
        return float(self._pick(_NUMBERS)) if self._rng.random() < 0.5 else float(self._rng.normal())

    def _numbers(self, count: int) -> list[float]:
        return [self._number() for _ in range(count)]

    def _header(self) -> Any:
        header = messages.header(0, str(self._pick(_NAMES)))
        if self._rng.random() < 0.5:
            header.stamp.sec, header.stamp.nanosec = self._pick(_STAMPS)
        else:
            header.stamp.sec = int(self._rng.integers(-(2**31), 2**31))
        return header

    def _raw(self) -> Image:
        """Return an image whose size, step, encoding and data do not fit each other; sometimes a valid one of noise."""
        width, height = self._pick([(320, 240), (2000, 1), (1, 2000), (0, 0), (2**32 - 1, 2**32 - 1), (65536, 65536),
                                    (7, 5), (2**31, 2)])
        encoding = str(self._pick(_ENCODINGS))
        step = int(self._pick([3 * width % 2**32, 0, 1, 2**32 - 1, width]))
        size = int(self._pick([0, 1, 100, 3 * 320 * 240, 5 * 7 * 3]))
        if self._rng.random() < 0.1:
            width, height, encoding, step, size = 320, 240, "rgb8", 960, 960 * 240
        return Image(header=self._header(), height=height, width=width, encoding=encoding, step=step,
                     is_bigendian=int(self._pick([0, 1, 255])), data=array.array("B", self._bytes(size)))

    def _compressed(self) -> CompressedImage:
        """Return an image that is cut, damaged, of a huge size by its header, or no image at all."""
        data, kind = bytearray(self._pick([self._jpeg, self._png])), self._rng.integers(5)
        if kind == 0:
            data = data[:self._rng.integers(0, len(data))]
        elif kind == 1:
            for at in self._rng.integers(0, len(data), 20):
                data[at] = self._rng.integers(256)
        elif kind == 2:
            data = bytearray(self._bytes(int(self._rng.integers(0, 2000))))
        elif kind == 3:
            data = huge_by_header(bytes(data))
        return CompressedImage(header=self._header(), data=array.array("B", bytes(data)),
                               format=str(self._pick(["jpeg", "png", "", "rgb8; jpeg compressed bgr8", "x" * 5000])))

    def _info(self) -> CameraInfo:
        """Return a calibration that is not one: fields exchanged, missing, not finite or absurd."""
        message = messages.camera_info(self._intrinsics, (320, 240), self._header())
        for name, count in (("k", 9), ("p", 12), ("r", 9), ("d", int(self._pick([0, 1, 5, 8, 1000])))):
            if self._rng.random() < 0.5:
                setattr(message, name, self._numbers(count))
        if self._rng.random() < 0.3:
            message.k = self._intrinsics.T.ravel().tolist()
        if self._rng.random() < 0.3:
            message.width, message.height = (int(v) for v in self._rng.integers(0, 2**32, 2))
        if self._rng.random() < 0.5:
            message.distortion_model = str(self._pick(["equidistant", "rational_polynomial", "", "none", "x" * 5000]))
        message.binning_x, message.roi.width = (int(v) for v in self._rng.integers(0, 2**31, 2))
        return message

    def _fill_pose(self, pose: Any) -> None:
        p, q = pose.position, pose.orientation
        p.x, p.y, p.z = self._numbers(3)
        q.x, q.y, q.z, q.w = self._numbers(4)

    def _odometry(self) -> Odometry:
        message = Odometry(header=self._header(), child_frame_id=str(self._pick(_NAMES)))
        self._fill_pose(message.pose.pose)
        message.pose.covariance = self._numbers(36)
        return message

    def _imu(self) -> Imu:
        message = Imu(header=self._header())
        for vector in (message.angular_velocity, message.linear_acceleration):
            vector.x, vector.y, vector.z = self._numbers(3)
        message.linear_acceleration_covariance = self._numbers(9)
        return message

    def _tf(self) -> TFMessage:
        """Return transforms between any frames, also of one frame to itself, and of ever new names."""
        message = TFMessage()
        for _ in range(int(self._pick([0, 1, 1, 1, 50]))):
            link = TransformStamped(header=self._header(), child_frame_id=str(self._pick(
                [*_NAMES, f"frame_{self._rng.integers(10**9)}"])))
            t, q = link.transform.translation, link.transform.rotation
            t.x, t.y, t.z = self._numbers(3)
            q.x, q.y, q.z, q.w = self._numbers(4)
            message.transforms.append(link)
        return message

    def _initial_pose(self) -> PoseWithCovarianceStamped:
        message = PoseWithCovarianceStamped(header=self._header())
        self._fill_pose(message.pose.pose)
        message.pose.covariance = self._numbers(36)
        return message


def huge_by_header(data: bytes) -> bytearray:
    """Return a JPEG or PNG file whose header states 60,000 rows and columns."""
    changed, side = bytearray(data), (60_000).to_bytes(2, "big")
    start = data.find(b"\xff\xc0")
    if start >= 0:
        changed[start + 5:start + 9] = side + side
    elif data.startswith(b"\x89PNG"):
        changed[16:24] = 2 * (b"\0\0" + side)
    return changed

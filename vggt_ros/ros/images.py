"""Image messages to RGB arrays, by numpy and OpenCV.

cv_bridge breaks when NumPy or OpenCV come from pip, so that the encodings which cameras send are decoded here; any
other goes to cv_bridge if it is there.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

_COLOR = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4}
_GRAY = {"mono8": "u1", "8UC1": "u1", "mono16": "u2", "16UC1": "u2", "32FC1": "f4"}
# OpenCV names a pattern by its second row and column, ROS by its first.
_BAYER = {"bayer_rggb8": cv2.COLOR_BayerBG2RGB, "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
          "bayer_gbrg8": cv2.COLOR_BayerGR2RGB, "bayer_grbg8": cv2.COLOR_BayerGB2RGB}
_YUV422 = {"yuv422": cv2.COLOR_YUV2RGB_UYVY, "uyvy": cv2.COLOR_YUV2RGB_UYVY,
           "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2, "yuyv": cv2.COLOR_YUV2RGB_YUY2}
_YUV420 = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
ENCODINGS = (*_COLOR, *_GRAY, *_BAYER, *_YUV422, *_YUV420)
"""The encodings of sensor_msgs/Image that are decoded without cv_bridge."""


class ImageError(ValueError):
    """An image message cannot be decoded; the text says why."""


def decode(message: Any) -> Image:
    """Return a sensor_msgs/Image as RGB, uint8 (H, W, 3); gray is repeated.

    16-bit gray keeps its high byte, 32FC1 is taken as 0 to 1 (NaN is black), 8UC3 as BGR, OpenCV's order.

    Raises:
        ImageError: the image is empty, too short for its size, or of an encoding that nobody here knows.

    """
    encoding = message.encoding
    if message.width == 0 or message.height == 0 or len(message.data) == 0:
        raise ImageError(f"the image is empty ({message.width}x{message.height}, {len(message.data)} bytes)")
    if encoding in _COLOR:
        channels = _COLOR[encoding]
        pixels = _rows(message, channels).reshape(message.height, message.width, channels)
        if encoding == "rgb8":
            return pixels
        code = {"rgba8": cv2.COLOR_RGBA2RGB, "bgra8": cv2.COLOR_BGRA2RGB}.get(encoding, cv2.COLOR_BGR2RGB)
        return _convert(pixels, code)
    if encoding in _GRAY:
        return _convert(_gray(message), cv2.COLOR_GRAY2RGB)
    if encoding in _BAYER:
        return _convert(_rows(message, 1), _BAYER[encoding])
    if encoding in _YUV422:
        return _convert(_rows(message, 2).reshape(message.height, message.width, 2), _YUV422[encoding])
    if encoding in _YUV420:
        return _convert(_rows(message, 1, message.height * 3 // 2), _YUV420[encoding])
    return _by_cv_bridge(message)


def decode_compressed(message: Any) -> Image:
    """Return a sensor_msgs/CompressedImage (jpeg or png) as RGB, uint8 (H, W, 3).

    Raises:
        ImageError: the message is empty, or OpenCV cannot read it.

    """
    if len(message.data) == 0:
        raise ImageError("the image is empty (0 bytes)")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"format {message.format!r} cannot be decoded: {error.err}") from error
    if pixels is None:
        raise ImageError(f"format {message.format!r} cannot be decoded; jpeg and png can")
    return _convert(np.asarray(pixels, np.uint8), cv2.COLOR_BGR2RGB)


def _convert(pixels: Image, code: int) -> Image:
    try:
        return np.asarray(cv2.cvtColor(pixels, code), np.uint8)
    except cv2.error as error:  # e.g. an odd width of a format that stores pixels in pairs
        raise ImageError(f"{pixels.shape[1]}x{pixels.shape[0]} pixels cannot be converted: {error.err}") from error


def _rows(message: Any, pixel_bytes: int, height: int | None = None) -> Image:
    """Return the bytes of the image, uint8 (height, width * pixel_bytes), without the padding of its rows."""
    height = message.height if height is None else height
    width = message.width * pixel_bytes
    if message.step < width:
        raise ImageError(f"step {message.step} is too short for {message.width} pixels of {message.encoding}, "
                         f"which take {width} bytes")
    if len(message.data) < height * message.step - (message.step - width):
        raise ImageError(f"{len(message.data)} bytes are too few for {height} rows of step {message.step}")
    data: Image = np.frombuffer(message.data, np.uint8)
    if message.step == width:
        return data[:height * width].reshape(height, width)
    # The last row may come without its padding.
    return np.lib.stride_tricks.as_strided(data, (height, width), (message.step, 1), writeable=False)


def _gray(message: Any) -> Image:
    """Return a one-channel image of 8, 16 or 32 bit as uint8 (H, W)."""
    kind = np.dtype(_GRAY[message.encoding]).newbyteorder(">" if message.is_bigendian else "<")
    rows = _rows(message, kind.itemsize)
    if kind.itemsize == 1:
        return rows
    if kind.itemsize == 2:
        return np.ascontiguousarray(rows[:, 0 if message.is_bigendian else 1::2])
    values = np.ascontiguousarray(rows).view(kind).astype(np.float32)
    return np.asarray(np.rint(np.clip(np.nan_to_num(values), 0.0, 1.0) * 255), np.uint8)


def _by_cv_bridge(message: Any) -> Image:
    known = ", ".join(ENCODINGS)
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as error:
        raise ImageError(f"encoding {message.encoding!r} is not known here ({known}), nor is cv_bridge installed, "
                         "which may know it") from error
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"), np.uint8)
    except (CvBridgeError, ValueError, TypeError) as error:
        raise ImageError(f"encoding {message.encoding!r} is not known here ({known}), and cv_bridge refuses it: "
                         f"{error}") from error

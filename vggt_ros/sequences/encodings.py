"""Decoding of image messages to RGB arrays, by numpy and OpenCV, without ROS and cv_bridge.

cv_bridge breaks when NumPy or OpenCV come from pip; the encodings that cameras use are decoded here directly.
"""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.sequences.gray_range import GrayRange

Image = NDArray[np.uint8]

_COLOR = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4, "8UC4": 4}
_COLOR16 = {"rgb16": 3, "bgr16": 3, "16UC3": 3, "rgba16": 4, "bgra16": 4}
_GRAY = {"mono8": "u1", "8UC1": "u1", "mono16": "u2", "16UC1": "u2", "32FC1": "f4"}
# OpenCV names a Bayer pattern by the pixels of its second row and column, ROS by those of its first.
_BAYER = {"bayer_rggb8": cv2.COLOR_BayerBG2RGB, "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
          "bayer_gbrg8": cv2.COLOR_BayerGR2RGB, "bayer_grbg8": cv2.COLOR_BayerGB2RGB}
_BAYER16 = {name.removesuffix("8") + "16": code for name, code in _BAYER.items()}
_YUV422 = {"yuv422": cv2.COLOR_YUV2RGB_UYVY, "uyvy": cv2.COLOR_YUV2RGB_UYVY,
           "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2, "yuyv": cv2.COLOR_YUV2RGB_YUY2}
_YUV420 = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
_DECODED = {1: (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE),
            2: (cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
            4: (cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
            8: (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_GRAYSCALE_8)}
ENCODINGS = (*_COLOR, *_COLOR16, *_GRAY, *_BAYER, *_BAYER16, *_YUV422, *_YUV420)
"""The supported encodings of sensor_msgs/Image."""
_SPELLING = {name.lower(): name for name in ENCODINGS}
DEPTH_ENCODINGS = ("16UC1", "32FC1")
"""Those that depth has; an infrared camera alone may have them, too."""


class ImageError(ValueError):
    """An image cannot be decoded; the text says why."""


class UnknownEncoding(ImageError):
    """An image has an encoding that is not among `ENCODINGS`."""


def decode(encoding: str, height: int, width: int, step: int, is_bigendian: bool, data: Any,
           gray_range: GrayRange | None = None) -> Image:
    """Return the image of a sensor_msgs/Image's fields as RGB, uint8 (H, W, 3); gray is repeated.

    More than 8 bits are scaled by the range of values that is used, NaN is black, 8UC3 is taken as BGR, OpenCV's order.
    Some bridges write the encoding in capitals, or leave the step out, which is 0 then.

    Args:
        encoding, height, width, step, is_bigendian: the message's.
        data: its bytes, anything with the buffer protocol.
        gray_range: the camera's range of values; the default is that of this image alone.

    Raises:
        UnknownEncoding: the encoding is not among `ENCODINGS`.
        ImageError: the image is empty, or its step or data are too short for its size.

    """
    encoding = _SPELLING.get(encoding.lower(), encoding)
    if encoding not in ENCODINGS:
        raise UnknownEncoding(f"encoding {encoding!r} is not supported; these are: {', '.join(ENCODINGS)}")
    if width == 0 or height == 0 or len(data) == 0:
        raise ImageError(f"the image is empty ({width}x{height}, {len(data)} bytes)")
    if encoding in _COLOR:
        channels = _COLOR[encoding]
        pixels = _rows(data, height, width * channels, step).reshape(height, width, channels)
        if encoding == "rgb8":
            return pixels
        code = {"rgba8": cv2.COLOR_RGBA2RGB, "bgra8": cv2.COLOR_BGRA2RGB, "8UC4": cv2.COLOR_BGRA2RGB}
        return _convert(pixels, code.get(encoding, cv2.COLOR_BGR2RGB))
    if encoding in _BAYER:
        return _convert(_rows(data, height, width, step), _BAYER[encoding])
    if encoding in _GRAY or encoding in _BAYER16 or encoding in _COLOR16:
        channels = _COLOR16.get(encoding, 1)
        kind = np.dtype(_GRAY.get(encoding, "u2")).newbyteorder(">" if is_bigendian else "<")
        rows = np.ascontiguousarray(_rows(data, height, width * channels * kind.itemsize, step)).view(kind)
        if encoding in _COLOR16:  # alpha is not part of the range
            rows = rows.reshape(height, width, channels)[..., :3]
        pixels = rows if kind.itemsize == 1 else (gray_range or GrayRange())(rows.astype(kind.newbyteorder("=")))
        if encoding in _COLOR16:
            return pixels if encoding.startswith("rgb") else _convert(pixels, cv2.COLOR_BGR2RGB)
        return _convert(pixels, _BAYER16.get(encoding, cv2.COLOR_GRAY2RGB))
    if encoding in _YUV422:
        return _convert(_rows(data, height, width * 2, step).reshape(height, width, 2), _YUV422[encoding])
    return _convert(_rows(data, height * 3 // 2, width, step), _YUV420[encoding])


def decode_compressed(kind: str, data: Any, gray_range: GrayRange | None = None, reduction: int = 1,
                      gray: bool = False) -> Image:
    """Return an encoded image, such as that of a sensor_msgs/CompressedImage, as RGB, uint8 (H, W, 3).

    Check its header first (`image_header`): whatever size it declares is allocated here.

    Args:
        kind: the message's `format`, for the error's text.
        data: its bytes.
        gray_range: the camera's range of values, if it has more than 8 bits; the default is that of this image alone.
        reduction: 1, 2, 4 or 8: for a JPEG with sides that it divides, by which the image is reduced. The decoder then
            does a part of its work only.
        gray: for a JPEG, return its brightness alone, uint8 (H, W).

    Raises:
        ImageError: there are no bytes, or OpenCV cannot read them.

    """
    if len(data) == 0:
        raise ImageError("the image is empty (0 bytes)")
    if bytes(data[:2]) in (b"P1", b"P2", b"P3"):  # OpenCV wants white space behind the last number of ASCII
        data = bytes(data) + b"\n"
    flags = cv2.IMREAD_IGNORE_ORIENTATION | (_DECODED[reduction][gray] if reduction > 1 or gray else
                                             cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"format {kind!r} cannot be decoded: {error.err}") from error
    if pixels is None:
        raise ImageError(f"format {kind!r} cannot be decoded: its data are damaged, cut off, or of another format")
    if pixels.dtype != np.uint8:
        values = pixels if pixels.dtype == np.uint16 else pixels.astype(np.float32)
        pixels = (gray_range or GrayRange())(values)
    if gray:
        return np.asarray(pixels, np.uint8)
    return _convert(np.asarray(pixels, np.uint8), cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB)


def mosaic_of(kind: str) -> str:
    """Return the Bayer encoding of 8 bits that the `format` of a sensor_msgs/CompressedImage states; empty if none.

    compressed_image_transport encodes the mosaic of a raw image as it is, `bayer_rggb8; jpeg compressed `, unless the
    encoding to which it converted it is behind that.
    """
    name, _, rest = kind.partition(";")
    name = re.sub("16$", "8", name.strip())
    converted = rest.partition("compressed")[2].strip()
    return name if name in _BAYER and (not converted or converted.startswith("bayer")) else ""


def demosaiced(pattern: str, mosaic: Image) -> Image:
    """Return a mosaic, uint8 (H, W), of an encoding by `mosaic_of` as RGB, uint8 (H, W, 3)."""
    return _convert(mosaic, _BAYER[pattern])


def decode_depth(encoding: str, height: int, width: int, step: int, is_bigendian: bool,
                 data: Any) -> NDArray[np.float32]:
    """Return a depth image in meters, float32 (H, W), NaN where unknown (REP-118).

    32FC1 is in meters, 16UC1 and mono16 in millimeters, where 0 is unknown.

    Args:
        encoding, height, width, step, is_bigendian: the message's.
        data: its bytes, anything with the buffer protocol.

    Raises:
        UnknownEncoding: not an encoding of depth images.
        ImageError: the image is empty, or its step or data are too short for its size.

    """
    if encoding not in ("32FC1", "16UC1", "mono16"):
        raise UnknownEncoding(f"encoding {encoding!r} is not supported for depth; 32FC1 and 16UC1 are")
    if width == 0 or height == 0 or len(data) == 0:
        raise ImageError(f"the image is empty ({width}x{height}, {len(data)} bytes)")
    kind = np.dtype("f4" if encoding == "32FC1" else "u2").newbyteorder(">" if is_bigendian else "<")
    values = np.ascontiguousarray(_rows(data, height, width * kind.itemsize, step)).view(kind)
    depth = values.astype(np.float32) / np.float32(1.0 if encoding == "32FC1" else 1000.0)
    return np.where((depth > 0) & np.isfinite(depth), depth, np.float32(np.nan))


def _convert(pixels: Image, code: int) -> Image:
    try:
        return np.asarray(cv2.cvtColor(pixels, code), np.uint8)
    except cv2.error as error:  # e.g. an odd width of a format that stores pixels in pairs
        raise ImageError(f"{pixels.shape[1]}x{pixels.shape[0]} pixels cannot be converted: {error.err}") from error


def _rows(data: Any, height: int, width: int, step: int) -> Image:
    """Return the bytes of an image, uint8 (height, width), without the padding of its rows; all in bytes."""
    if step == 0 and len(data) == height * width:  # which can mean one thing only
        step = width
    if step < width:
        raise ImageError(f"step {step} is too short for rows of {width} bytes")
    if len(data) < height * step - (step - width):  # the last row may come without its padding
        raise ImageError(f"{len(data)} bytes are too few for {height} rows of step {step}")
    values: Image = np.frombuffer(data, np.uint8)
    if step == width:
        return values[:height * width].reshape(height, width)
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, (height, width), (step, 1), writeable=False))

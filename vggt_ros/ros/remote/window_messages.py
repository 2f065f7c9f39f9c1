"""Windows and their geometry as messages of vggt_ros_msgs, for a reconstructor on another machine."""

from __future__ import annotations

import array
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from vggt_ros_msgs.action import ReconstructWindow
from vggt_ros_msgs.msg import WindowGeometry as GeometryMessage
from vggt_ros_msgs.msg import WindowKeyframe

from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.ros.conversions.messages import nanoseconds, time_message
from vggt_ros.windows.keyframe import Corners, Keyframe, Window

_MAX_VALUES = 64 * 1024 * 1024
"""Most values of a packed array; more is no window."""


class MessageError(ValueError):
    """A message is not what it has to be; the text names the field."""


def window_goal(window: Window, client: str, quality: int, lossless: bool) -> Any:
    """Return the goal for a window; images are JPEG of a quality from 10 to 100, or PNG if nothing may be lost."""
    goal = ReconstructWindow.Goal(client=client, window=window.id, lossless=lossless)
    goal.shared = array.array("q", window.shared)
    goal.keyframes = [_keyframe_message(keyframe, quality, lossless) for keyframe in window.keyframes]
    return goal


def goal_bytes(goal: Any) -> int:
    """Return the number of bytes of a goal that grow with its images."""
    return sum(len(k.image) + len(k.excluded) + 16 * len(k.corner_pixels) for k in goal.keyframes)


def goal_window(goal: Any) -> Window:
    """Return the window of a goal.

    Raises:
        MessageError: an image cannot be decoded.

    """
    return Window(goal.window, tuple(_keyframe(message) for message in goal.keyframes), tuple(goal.shared))


def geometry_message(geometry: WindowGeometry, lossless: bool) -> Any:
    """Return the geometry of a window as a message; depth in float16 and confidence in uint8, unless lossless."""
    count, height, width = geometry.depth.shape
    depth, confidence = geometry.depth.astype(np.float32), geometry.confidence.astype(np.float32)
    message = GeometryMessage(
        height=height, width=width, lossless=lossless, metric=geometry.metric, uncertainty=float(geometry.uncertainty),
        notes=list(geometry.notes), report_names=list(geometry.report),
        report_values=[float(value) for value in geometry.report.values()])
    message.keyframe_ids = array.array("q", geometry.keyframe_ids)
    message.window_camera = array.array("d", geometry.window_camera.ravel())
    message.intrinsics = array.array("d", geometry.intrinsics.ravel())
    message.depth = _packed(depth if lossless else depth.astype(np.float16))
    message.confidence = _packed(confidence if lossless else np.rint(255 * confidence).astype(np.uint8))
    if geometry.descriptors is not None:
        message.descriptor_size = geometry.descriptors.shape[1]
        message.descriptors = array.array("f", geometry.descriptors.astype(np.float32).ravel())
    if geometry.step_covariance is not None:
        message.step_covariance = array.array("d", geometry.step_covariance.ravel())
    assert count == len(geometry.keyframe_ids)
    return message


def geometry_bytes(message: Any) -> int:
    """Return the number of bytes of a geometry that grow with its images."""
    return len(message.depth) + len(message.confidence) + 4 * len(message.descriptors)


def message_geometry(message: Any) -> WindowGeometry:
    """Return the geometry of a message.

    Raises:
        MessageError: a field does not fit to the others.

    """
    count = len(message.keyframe_ids)
    shape = count, message.height, message.width
    try:
        depth = _unpacked(message.depth, np.float32 if message.lossless else np.float16, shape)
        confidence = _unpacked(message.confidence, np.float32 if message.lossless else np.uint8, shape)
        descriptors = None if not message.descriptor_size else \
            np.array(message.descriptors, np.float32).reshape(count, message.descriptor_size)
        covariance = None if not len(message.step_covariance) else \
            np.array(message.step_covariance, np.float64).reshape(count - 1, 6, 6)
        confidence = confidence.astype(np.float32) / np.float32(1 if message.lossless else 255)
        return WindowGeometry(
            tuple(message.keyframe_ids), np.array(message.window_camera).reshape(count, 4, 4),
            np.array(message.intrinsics).reshape(count, 3, 3), depth.astype(np.float32),
            confidence, descriptors, bool(message.metric),
            dict(zip(message.report_names, message.report_values, strict=True)), covariance, message.uncertainty,
            tuple(message.notes))
    except (ValueError, zlib.error) as error:
        raise MessageError(f"the geometry of the window is damaged: {error}") from error


def _keyframe_message(keyframe: Keyframe, quality: int, lossless: bool) -> Any:
    message = WindowKeyframe(id=keyframe.id, stamp=time_message(keyframe.stamp), calibrated=keyframe.calibrated,
                             intrinsics=keyframe.intrinsics.ravel(), unordered=keyframe.unordered)
    options = (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]) if lossless else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
    message.image = array.array("B", cv2.imencode(options[0], keyframe.image[..., ::-1], options[1])[1].tobytes())
    if keyframe.corners is not None:
        message.corner_ids = array.array("q", keyframe.corners.ids.astype(np.int64))
        message.corner_pixels = array.array("f", keyframe.corners.pixels.astype(np.float32).ravel())
        message.corner_velocities = array.array("f", keyframe.corners.velocity.astype(np.float32).ravel())
    if keyframe.excluded is not None:
        mask = keyframe.excluded.astype(np.uint8) * 255
        message.excluded = array.array("B", cv2.imencode(".png", mask)[1].tobytes())
    return message


def _keyframe(message: Any) -> Keyframe:
    image = _decoded(message.image, cv2.IMREAD_COLOR, f"keyframes[{message.id}].image")
    count = len(message.corner_ids)
    if not count == len(message.corner_pixels) / 2 == len(message.corner_velocities) / 2:
        raise MessageError(f"keyframes[{message.id}]: {count} corner_ids, but {len(message.corner_pixels)} values of "
                           f"corner_pixels and {len(message.corner_velocities)} of corner_velocities")
    corners = None if not count else Corners(
        np.array(message.corner_ids, np.int64), np.array(message.corner_pixels, np.float32).reshape(-1, 2),
        np.array(message.corner_velocities, np.float32).reshape(-1, 2))
    excluded = None if not len(message.excluded) else \
        _decoded(message.excluded, cv2.IMREAD_GRAYSCALE, f"keyframes[{message.id}].excluded") > 0
    return Keyframe(message.id, nanoseconds(message.stamp), np.ascontiguousarray(image[..., ::-1]),
                    np.array(message.intrinsics, np.float64).reshape(3, 3), message.calibrated, corners,
                    excluded=excluded, unordered=bool(message.unordered))


def _decoded(data: Any, how: int, name: str) -> NDArray[np.uint8]:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), how) if len(data) else None
    if decoded is None:
        raise MessageError(f"{name} cannot be decoded")
    return np.asarray(decoded, np.uint8)


def _packed(values: NDArray[Any]) -> array.array[int]:
    """Return little-endian values as bytes, those of one significance together, compressed."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    planes = little.view(np.uint8).reshape(-1, values.dtype.itemsize).T
    return array.array("B", zlib.compress(planes.tobytes(), 1))


def _unpacked(data: Any, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    size, count = np.dtype(kind).itemsize, int(np.prod(shape, dtype=np.int64))
    if not 0 < count <= _MAX_VALUES:
        raise MessageError(f"{shape} is no size of a window")
    raw = zlib.decompressobj().decompress(bytes(data), size * count + 1)
    if len(raw) != size * count:
        raise MessageError(f"{len(raw)} bytes for {shape} values of {size} bytes")
    planes = np.frombuffer(raw, np.uint8).reshape(size, count)
    return np.ascontiguousarray(planes.T).view(np.dtype(kind).newbyteorder("<")).reshape(shape)

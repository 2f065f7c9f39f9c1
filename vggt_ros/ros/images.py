"""Image messages to RGB arrays; encodings unknown to `sequences.encodings` are decoded by cv_bridge if installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.sequences import encodings
from vggt_ros.sequences.encodings import ImageError, UnknownEncoding


def decode(message: Any) -> NDArray[np.uint8]:
    """Return a sensor_msgs/Image as RGB, uint8 (H, W, 3).

    Raises:
        ImageError: the image is empty, too short for its size, or of an unsupported encoding.

    """
    try:
        return encodings.decode(message.encoding, message.height, message.width, message.step,
                                bool(message.is_bigendian), message.data)
    except UnknownEncoding as unknown:
        return _by_cv_bridge(message, unknown)


def decode_compressed(message: Any) -> NDArray[np.uint8]:
    """Return a sensor_msgs/CompressedImage (jpeg or png) as RGB, uint8 (H, W, 3).

    Raises:
        ImageError: the message is empty, or OpenCV cannot read it.

    """
    return encodings.decode_compressed(message.format, message.data)


def _by_cv_bridge(message: Any, unknown: UnknownEncoding) -> NDArray[np.uint8]:
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as error:
        raise ImageError(f"{unknown}; cv_bridge, which may support it, is not installed") from error
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"), np.uint8)
    except (CvBridgeError, ValueError, TypeError) as error:
        raise ImageError(f"{unknown}; cv_bridge does not support it either: {error}") from error

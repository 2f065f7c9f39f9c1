"""Image messages to RGB arrays; encodings unknown to `sequences.encodings` are decoded by cv_bridge if installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.sequences.encodings import ImageError, UnknownEncoding
from vggt_ros.sequences.intake import Intake


def decode(message: Any, intake: Intake) -> NDArray[np.uint8]:
    """Return a sensor_msgs/Image or CompressedImage (jpeg or png) as RGB, uint8 (H, W, 3).

    Raises:
        ImageError: the image is empty, too short for its size, or of an unsupported encoding.
        CameraError: it is not of the size that the calibration is for.

    """
    try:
        return intake.decode(message)
    except UnknownEncoding as unknown:
        return intake.accept(_by_cv_bridge(message, unknown))


def _by_cv_bridge(message: Any, unknown: UnknownEncoding) -> NDArray[np.uint8]:
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as error:
        raise ImageError(f"{unknown}; cv_bridge, which may support it, is not installed") from error
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"), np.uint8)
    except (CvBridgeError, ValueError, TypeError) as error:
        raise ImageError(f"{unknown}; cv_bridge does not support it either: {error}") from error

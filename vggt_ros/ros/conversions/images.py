"""Image messages to RGB arrays; encodings unknown to `sequences.encodings` are decoded by cv_bridge if installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Rectifier
from vggt_ros.sequences.encodings import ImageError, UnknownEncoding
from vggt_ros.sequences.intake import Intake


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded image, in color or, if it is large, first in gray: tracking needs no more, and keyframes are few.

    Attributes:
        pixels: uint8, RGB (h, w, 3) or gray (h, w); it may be smaller than the message's, see `Rectifier.reduction`.
        size: (width, height) of the message's.
        color: makes the same in RGB if `pixels` are gray.

    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    color: Callable[[], NDArray[np.uint8]] | None = None


def decode_first(message: Any, intake: Intake, rectifier: Rectifier | None) -> Decoded:
    """Return an image in gray if the `rectifier` of the images before reduces them, else in color.

    Raises as `decode`.
    """
    if rectifier is None or not rectifier.is_reducing:
        image = decode(message, intake)
        return Decoded(image, (image.shape[1], image.shape[0]))
    size = rectifier.camera.width, rectifier.camera.height
    if (found := intake.decode_gray(message, size, rectifier.reduction)) is not None:
        return Decoded(found[0], size, found[1])
    image = decode(message, intake)
    return Decoded(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8), (image.shape[1], image.shape[0]),
                   lambda: image)


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

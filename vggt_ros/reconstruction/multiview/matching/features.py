"""What tracking through the keyframes of a window needs of each image, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.images.corners import detect_corners
from vggt_ros.images.exposure import gray_image
from vggt_ros.images.flow import coarse_image
from vggt_ros.images.mask import free_pixels
from vggt_ros.images.sift import SiftFeatures, sift_features
from vggt_ros.windows.keyframe import Keyframe

Gray = NDArray[np.uint8]

MAX_PHOTO_FEATURES = 3000
MIN_HALVED = 480
"""Width of images, pixels, from which corners are found in half the size."""


@dataclass(frozen=True, eq=False)
class Features:
    """Images and features of one keyframe that tracking needs, computed once.

    Attributes:
        gray: uint8 (H, W), stretched if it is dark.
        coarse: uint8, the image at low resolution, for the initial guess of the flow.
        corners: float32 (n, 2), the strongest of each part of the image first.
        intrinsics: pinhole matrix (3, 3).
        excluded: mask of what is left out; None: nothing is.

    """

    gray: Gray
    coarse: Gray
    corners: NDArray[np.float32]
    intrinsics: Array
    excluded: NDArray[np.bool_] | None = None

    @cached_property
    def sift(self) -> SiftFeatures:
        """SIFT features of the image at half its size."""
        return sift_features(self.gray, free_pixels(self.excluded, self.gray.shape))

    @cached_property
    def fine_sift(self) -> SiftFeatures:
        """SIFT features of the image at full size."""
        return sift_features(self.gray, free_pixels(self.excluded, self.gray.shape), reduction=1)

    @cached_property
    def photo_sift(self) -> SiftFeatures:
        """More SIFT features of the image at full size: photos have nothing else."""
        return sift_features(self.gray, free_pixels(self.excluded, self.gray.shape), 1, MAX_PHOTO_FEATURES)


def detect(keyframe: Keyframe, count: int) -> Features:
    """Return the features of a keyframe: up to `count` corners."""
    gray = gray_image(keyframe.image)
    height, width = gray.shape
    # Half the size is enough to find them: patches say where exactly they are.
    size = (width, height) if width < MIN_HALVED else (width // 2, height // 2)
    small = gray if width < MIN_HALVED else np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)
    spacing = 0.5 * float(np.sqrt(gray.size / count))
    corners = detect_corners(small, count, spacing * size[0] / width, free_pixels(keyframe.excluded, small.shape))
    corners = ((corners + 0.5) * (np.array([width, height]) / size) - 0.5).astype(np.float32)
    return Features(gray, coarse_image(gray), corners, keyframe.intrinsics, keyframe.excluded)

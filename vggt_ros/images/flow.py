"""Dense optical flow at low resolution, as an initial guess for that of points."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.images.exposure import brightness_change

COARSE_WIDTH = 160
"""Width of the images, pixels."""


def coarse_image(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (H, W) reduced to `COARSE_WIDTH`."""
    height, width = gray.shape
    size = (COARSE_WIDTH, round(height * COARSE_WIDTH / width))
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)


def coarse_flow(source: NDArray[np.uint8], target: NDArray[np.uint8],
                points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an initial guess (n, 2) of the motion of points between two images (H, W)."""
    if not len(points):
        return points
    return flow_at(coarse_image(source), coarse_image(target), points, source.shape[1])


def flow_at(source: NDArray[np.uint8], target: NDArray[np.uint8], points: NDArray[np.float32],
            width: int) -> NDArray[np.float32]:
    """Return the dense flow (n, 2) between two coarse images at points in the full image, which is `width` wide.

    Dense inverse search (Kroeger et al., ECCV 2016).
    """
    change = brightness_change(source, target)
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dense = flow.calc(source if change.is_negligible else change.apply(source), target, None)
    scale = width / source.shape[1]
    at = ((points + 0.5) / scale - 0.5).astype(np.float32)
    return np.asarray(cv2.remap(dense, at[None, :, 0].copy(), at[None, :, 1].copy(), cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_REPLICATE)[0] * np.float32(scale), np.float32)

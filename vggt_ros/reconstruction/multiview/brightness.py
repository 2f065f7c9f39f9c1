"""Exposure that changes inside a window: the brightness of the keyframes is made equal before they are matched.

Optical flow takes a scene point for equally bright in two images. By how much the exposure differs is measured at the
corners that tracking followed, not by the whole images, which show different parts of the scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.windows.keyframe import Keyframe

_MAX_CHANGE = 0.2
"""Difference of the logarithms of the brightness of two keyframes up to which nothing is changed."""
_MIN_COMMON = 10
"""Fewest common corners of two keyframes for a comparison."""
_PATCH = 7
"""Side of the patch around a corner whose brightness is compared, px."""


def balanced_images(keyframes: Sequence[Keyframe]) -> list[NDArray[np.uint8]]:
    """Return the images (H, W, 3) of consecutive keyframes, darkened to the darkest if their exposure differs."""
    gains = exposure_gains(keyframes)
    if np.ptp(gains) < _MAX_CHANGE:
        return [keyframe.image for keyframe in keyframes]
    return [cv2.convertScaleAbs(keyframe.image, alpha=float(np.exp(gains.min() - gain)))
            for keyframe, gain in zip(keyframes, gains, strict=True)]


def exposure_gains(keyframes: Sequence[Keyframe]) -> NDArray[np.float64]:
    """Return the logarithm of the exposure of each keyframe (S,), relative to the first one."""
    gains = [0.0]
    smooth = [cv2.blur(cv2.cvtColor(keyframe.image, cv2.COLOR_RGB2GRAY).astype(np.float32), (_PATCH, _PATCH))
              for keyframe in keyframes]
    for first, second in pairwise(range(len(keyframes))):
        one, two, change = keyframes[first].corners, keyframes[second].corners, 0.0
        if one is None or two is None:
            gains.append(gains[-1])
            continue
        _, rows, others = np.intersect1d(one.ids, two.ids, assume_unique=True, return_indices=True)
        if len(rows) >= _MIN_COMMON:
            before, after = _sample(smooth[first], one.pixels[rows]), _sample(smooth[second], two.pixels[others])
            change = float(np.median(np.log(np.maximum(after, 1.0) / np.maximum(before, 1.0))))
        gains.append(gains[-1] + change)
    return np.array(gains)


def _sample(gray: NDArray[np.float32], pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    columns, rows = np.rint(pixels).astype(int).T
    return gray[np.clip(rows, 0, gray.shape[0] - 1), np.clip(columns, 0, gray.shape[1] - 1)]

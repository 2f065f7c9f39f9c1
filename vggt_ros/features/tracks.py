"""Feature tracks by pyramidal Lucas-Kanade optical flow, and the features of one image."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.appearance import describe
from vggt_ros.features.attached import AttachedRegion
from vggt_ros.windows.keyframe import BinaryFeatures, Corners, Keyframe

REFERENCE_WIDTH = 640.0
"""Image width to which thresholds in pixels refer; they are scaled with the width of the image."""

_MAX_RATIO = 0.8
"""Largest ratio of the distance of the best to that of the second-best match (Lowe, IJCV 2004)."""
_FORWARD: dict[str, Any] = {"winSize": (15, 15), "maxLevel": 3,
                            "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03)}
# The check back to the origin needs no pyramid: from a wrong match the flow leads away from the origin in any case.
_BACKWARD = {**_FORWARD, "maxLevel": 0, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}


_MAX_BRIGHTNESS_CHANGE = 0.2
"""Difference of the logarithms of two images' mean brightness from which on they are balanced."""


class FeatureTracks:
    """The tracked features (corners) in the newest image, each with an id that stays the same while it is tracked.

    Attributes:
        ids: int64 (n,), rising, never reused.
        pixels: float32 (n, 2), x and y in the newest image.
        motion: float32 (n, 2), displacement since the previous image, NaN for new ones.

    """

    def __init__(self, count: int) -> None:
        """Track at most `count` features."""
        self._count = count
        self._next_id = 0
        self._gray: NDArray[np.uint8] | None = None
        self.attached = AttachedRegion()
        self.clear()

    def clear(self) -> None:
        """Forget all tracks and the newest image."""
        self.attached.forget_tracks()
        self.ids = np.zeros(0, np.int64)
        self.pixels = np.zeros((0, 2), np.float32)
        self.motion = np.zeros((0, 2), np.float32)
        self._gray = None

    def advance(self, gray: NDArray[np.uint8]) -> None:
        """Track the features into `gray` (H, W).

        Those that fail the forward-backward check, or move with the camera, are dropped.
        """
        if self._gray is not None and self._gray.shape != gray.shape:
            self.clear()
        if self._gray is not None and len(self.ids):
            before, after = balance_brightness(self._gray, gray)
            forward, found, _ = cv2.calcOpticalFlowPyrLK(before, after, self.pixels, None, **_FORWARD)
            backward, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, forward, self.pixels.copy(), **_BACKWARD)
            height, width = gray.shape
            inside = (forward > 1).all(1) & (forward[:, 0] < width - 2) & (forward[:, 1] < height - 2)
            consistent = np.linalg.norm(backward - self.pixels, axis=1) < 1.0 * width / REFERENCE_WIDTH
            valid = (found[:, 0] == 1) & (found_back[:, 0] == 1) & inside & consistent
            self.motion = forward[valid] - self.pixels[valid]
            self.ids, self.pixels = self.ids[valid], forward[valid]
            self.attached.update(self.ids, self.pixels, self.motion, (height, width), width / REFERENCE_WIDTH)
            kept = ~self.attached.contains(self.pixels)
            self.ids, self.pixels, self.motion = self.ids[kept], self.pixels[kept], self.motion[kept]
        self._gray = gray
        if self.attached.needs_corners:
            self.replenish()

    def replenish(self) -> None:
        """Detect new corners (Shi-Tomasi) away from the present ones, up to the number of features to track."""
        missing = self._count - len(self.ids)
        if self._gray is None or missing <= 0:
            return
        spacing = max(5, int(0.6 * np.sqrt(self._gray.size / self._count)))
        free = np.full(self._gray.shape, 255, np.uint8)
        if self.attached.mask is not None:
            free[self.attached.mask] = 0
        for x, y in self.pixels.astype(int):
            cv2.circle(free, (int(x), int(y)), spacing, 0, -1)
        corners = cv2.goodFeaturesToTrack(self._gray, missing, 0.01, spacing, mask=free)
        if corners is not None:
            self.append(corners.reshape(-1, 2))

    def append(self, pixels: NDArray[np.float32]) -> NDArray[np.int64]:
        """Track `pixels` (k, 2) of the newest image from now on, and return their ids (k,).

        Beyond twice the number of features to track, the oldest are dropped.
        """
        ids = np.arange(self._next_id, self._next_id + len(pixels), dtype=np.int64)
        self._next_id += len(pixels)
        self.ids = np.concatenate([self.ids, ids])
        self.pixels = np.concatenate([self.pixels, pixels.astype(np.float32)])
        self.motion = np.concatenate([self.motion, np.full_like(pixels, np.nan, np.float32)])
        newest = slice(-2 * self._count, None)
        self.ids, self.pixels, self.motion = self.ids[newest], self.pixels[newest], self.motion[newest]
        return ids

    def corners(self, seconds: float) -> Corners:
        """Return the present tracks with velocities, by the `seconds` since the previous image; NaN if not positive."""
        velocity = self.motion / np.float32(seconds) if seconds > 0 else np.full_like(self.motion, np.nan)
        return Corners(self.ids, self.pixels, velocity)


class ImageFeatures:
    """An image and its features; each kind is extracted once, when it is first used.

    Attributes:
        gray: uint8 (H, W).

    """

    def __init__(self, gray: NDArray[np.uint8], count: int = 500, ignored: NDArray[np.bool_] | None = None) -> None:
        """Prepare to detect at most `count` ORB features in `gray`, except where it is `ignored`, bool (H, W)."""
        self.gray = gray
        self._count = count
        self._mask: NDArray[np.uint8] | None = None
        if ignored is not None and ignored.shape == gray.shape:
            self._mask = np.where(ignored, 0, 255).astype(np.uint8)

    @staticmethod
    def from_keyframe(keyframe: Keyframe, count: int = 500) -> ImageFeatures:
        """Return the features of a keyframe, with its ORB features if they were extracted before."""
        features = ImageFeatures(np.asarray(cv2.cvtColor(keyframe.image, cv2.COLOR_RGB2GRAY), np.uint8), count)
        if keyframe.binary is not None:
            features.binary = keyframe.binary
        return features

    @cached_property
    def binary(self) -> BinaryFeatures:
        """ORB features (Rublee et al., ORB: an efficient alternative to SIFT or SURF, ICCV 2011)."""
        points, descriptors = cv2.ORB_create(self._count).detectAndCompute(self.gray, self._mask)
        if descriptors is None:
            return BinaryFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
        return BinaryFeatures(np.array([point.pt for point in points], np.float32).reshape(-1, 2),
                              np.asarray(descriptors, np.uint8))

    @cached_property
    def appearance(self) -> NDArray[np.float32]:
        """The VLAD place descriptor (2048,), see `vggt_ros/features/appearance.py`."""
        return describe(self.gray)[1]


def balance_brightness(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> tuple[NDArray[np.uint8],
                                                                                     NDArray[np.uint8]]:
    """Return two consecutive images (H, W), the brighter one darkened to the other's histogram if they differ much.

    Optical flow takes a scene point for equally bright in both. Some cameras alternate their exposure, or change it at
    once; the histogram follows any monotone change of brightness.
    """
    means = np.array([max(float(image.mean()), 1.0) for image in (before, after)])
    if abs(np.log(means[0] / means[1])) < _MAX_BRIGHTNESS_CHANGE:
        return before, after
    counts = [np.cumsum(np.bincount(image.ravel(), minlength=256)) for image in (before, after)]
    brighter = int(np.argmax(means))
    table = np.searchsorted(counts[1 - brighter], counts[brighter]).clip(0, 255).astype(np.uint8)
    darkened = np.asarray(cv2.LUT((before, after)[brighter], table), np.uint8)
    return (darkened, after) if brighter == 0 else (before, darkened)


def match_binary(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of binary descriptors (n, 32) and (m, 32), m at least 2, that match by the ratio test."""
    pairs = [best for best, other in cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(first, second, k=2)
             if best.distance < _MAX_RATIO * other.distance]
    rows = np.array([(pair.queryIdx, pair.trainIdx) for pair in pairs], np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def resize_pixels(pixels: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Return the positions of `pixels` (n, 2) in the image resized by `factor`; integers are pixel centers."""
    return np.asarray((pixels + 0.5) * factor - 0.5, np.float32)

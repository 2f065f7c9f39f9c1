"""Corners that are followed from frame to frame by pyramidal Lucas-Kanade, and features that images are found by."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.appearance import describe
from vggt_ros.windows.keyframe import BinaryFeatures, Corners, Keyframe

REFERENCE_WIDTH = 640.0
"""Image width for which thresholds in pixels are given; they grow with the image."""

_FORWARD: dict[str, Any] = {"winSize": (15, 15), "maxLevel": 3,
                            "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03)}
# Back from where it came to, a corner needs no search: a wrong match is pulled away from its origin all the same.
_BACKWARD = {**_FORWARD, "maxLevel": 0, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}


class FeatureTracks:
    """The corners seen in the newest image, each with an id that lasts as long as it is followed.

    Attributes:
        ids: int64 (n,), rising, never reused.
        pixels: float32 (n, 2), x and y in the newest image.
        motion: float32 (n, 2), how far they came since the image before, NaN for new ones.

    """

    def __init__(self, count: int) -> None:
        """Follow at most `count` corners."""
        self._count = count
        self._next_id = 0
        self._gray: NDArray[np.uint8] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget all tracks and the newest image."""
        self.ids = np.zeros(0, np.int64)
        self.pixels = np.zeros((0, 2), np.float32)
        self.motion = np.zeros((0, 2), np.float32)
        self._gray = None

    def advance(self, gray: NDArray[np.uint8]) -> None:
        """Follow the tracks into `gray` (H, W); those that do not come back to where they were are dropped."""
        if self._gray is not None and self._gray.shape != gray.shape:
            self.clear()
        if self._gray is not None and len(self.ids):
            there, found, _ = cv2.calcOpticalFlowPyrLK(self._gray, gray, self.pixels, None, **_FORWARD)
            back, found_back, _ = cv2.calcOpticalFlowPyrLK(gray, self._gray, there, self.pixels.copy(), **_BACKWARD)
            height, width = gray.shape
            inside = (there > 1).all(1) & (there[:, 0] < width - 2) & (there[:, 1] < height - 2)
            closed = np.linalg.norm(back - self.pixels, axis=1) < 1.0 * width / REFERENCE_WIDTH
            good = (found[:, 0] == 1) & (found_back[:, 0] == 1) & inside & closed
            self.motion = there[good] - self.pixels[good]
            self.ids, self.pixels = self.ids[good], there[good]
        self._gray = gray

    def replenish(self) -> None:
        """Detect new corners away from the present ones, up to the number that is followed."""
        missing = self._count - len(self.ids)
        if self._gray is None or missing <= 0:
            return
        spacing = max(5, int(0.6 * np.sqrt(self._gray.size / self._count)))
        free = np.full(self._gray.shape, 255, np.uint8)
        for x, y in self.pixels.astype(int):
            cv2.circle(free, (int(x), int(y)), spacing, 0, -1)
        corners = cv2.goodFeaturesToTrack(self._gray, missing, 0.01, spacing, mask=free)
        if corners is not None:
            self.append(corners.reshape(-1, 2))

    def append(self, pixels: NDArray[np.float32]) -> NDArray[np.int64]:
        """Follow `pixels` (k, 2) of the newest image from now on, and return their ids (k,).

        Beyond twice the number that is followed the oldest are let go.
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
        """Return the tracks as they stand, `seconds` after the image before; without time there is no velocity."""
        velocity = self.motion / np.float32(seconds) if seconds > 0 else np.full_like(self.motion, np.nan)
        return Corners(self.ids, self.pixels, velocity)


class ImageFeatures:
    """An image and its features, each kind looked for once, when it is first asked for.

    Attributes:
        gray: uint8 (H, W).

    """

    def __init__(self, gray: NDArray[np.uint8], count: int = 500) -> None:
        """Look for at most `count` binary features in `gray`."""
        self.gray = gray
        self._count = count

    @staticmethod
    def of(keyframe: Keyframe, count: int = 500) -> ImageFeatures:
        """Return the features of a keyframe, with those that were found when it came."""
        features = ImageFeatures(np.asarray(cv2.cvtColor(keyframe.image, cv2.COLOR_RGB2GRAY), np.uint8), count)
        if keyframe.binary is not None:
            features.binary = keyframe.binary
        return features

    @cached_property
    def binary(self) -> BinaryFeatures:
        """ORB features (Rublee et al., ORB: an efficient alternative to SIFT or SURF, ICCV 2011)."""
        points, looks = cv2.ORB_create(self._count).detectAndCompute(self.gray, None)
        if looks is None:
            return BinaryFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
        return BinaryFeatures(np.array([point.pt for point in points], np.float32).reshape(-1, 2),
                              np.asarray(looks, np.uint8))

    @cached_property
    def appearance(self) -> NDArray[np.float32]:
        """What the place looks like (2048,), see `vggt_ros/appearance.py`."""
        return describe(self.gray)[1]


def resize_pixels(pixels: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Return where `pixels` (n, 2) are in an image resized by `factor`; integers are pixel centers."""
    return np.asarray((pixels + 0.5) * factor - 0.5, np.float32)

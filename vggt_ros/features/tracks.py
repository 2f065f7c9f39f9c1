"""Feature tracks by pyramidal Lucas-Kanade optical flow, and the features of one image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.appearance import describe
from vggt_ros.features.attached import AttachedRegion
from vggt_ros.images.exposure import Brightness, brightness_quantiles, brightness_transfer, followed, gray_image
from vggt_ros.images.flow import coarse_flow
from vggt_ros.images.mask import free_pixels, is_masked, reduced, union
from vggt_ros.images.warped_flow import homography, is_confirmed, mapped, warped
from vggt_ros.windows.keyframe import BinaryFeatures, Corners, Keyframe, filled

_FEW = 0.2
"""Fraction of the wanted number; if an image has fewer strong corners, weak ones are tracked, too. Around a box in an
empty room strong ones are where its edges cross what is behind them, and move with neither. The floor has weak ones."""
_STRONG, _WEAK = 0.01, 0.001
"""Least response of corners, over that of the strongest one."""
_INTERVALS = 2
"""Newest intervals between images of which the motion of the tracks is kept."""
_MIN_TRACKED_FRACTION = 0.5
"""Fraction of the tracks that must be followed into an image, else they are tried again from dense flow."""
_MAX_RATIO = 0.8
"""Largest ratio of the distance of the best to that of the second-best match (Lowe, IJCV 2004)."""
_FORWARD: dict[str, Any] = {"winSize": (15, 15), "maxLevel": 3,
                            "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03)}
# Blurred as in a fast turn, but near the guess.
_WARPED = {**_FORWARD, "winSize": (31, 31), "maxLevel": 2}
# The check back to the origin needs no pyramid: from a wrong match the flow leads away from the origin in any case.
_BACKWARD = {**_FORWARD, "maxLevel": 0, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}


class FeatureTracks:
    """The tracked features (corners) in the newest image, each with an id that stays the same while it is tracked.

    Attributes:
        ids: int64 (n,), rising, never reused.
        pixels: float32 (n, 2), x and y in the newest image.
        motions: float32 (n, 2, 2), displacements between the newest three images, the newest first; NaN where unknown.
        excluded: mask of the part of the newest image without tracks: as given, and what never moves; None: nothing.

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
        self.motions = np.zeros((0, _INTERVALS, 2), np.float32)
        self._seconds, self._stamp = np.zeros(_INTERVALS, np.float32), 0  # of the motions, and of the newest image
        self._gray, self._quantiles = None, np.zeros(0)  # of the newest image
        self.excluded: NDArray[np.bool_] | None = None

    def advance(self, gray: NDArray[np.uint8], excluded: NDArray[np.bool_] | None = None, stamp: int = 0) -> None:
        """Track the features into `gray` (H, W) of a `stamp` in nanoseconds; drop those that fail the check backward.

        So are those in the part of the image that the mask `excluded` leaves out, and in the part that moves with the
        camera.
        """
        if self._gray is not None and self._gray.shape != gray.shape:
            self.clear()
        seconds, self._stamp = 1e-9 * (stamp - self._stamp), stamp
        self._seconds = np.array([seconds, *self._seconds[:-1]], np.float32)
        quantiles = brightness_quantiles(gray)
        if self._gray is not None and len(self.ids):
            change = brightness_transfer(self._quantiles, quantiles)
            self.pixels, valid = _flow(self._gray, gray, previous := self.pixels, change)
            self.motions = np.concatenate([(self.pixels - previous)[:, None], self.motions[:, :-1]], 1)
            self._keep(valid)
            self.attached.update(self.ids, self.pixels, self.motions[:, 0], gray.shape, threshold_scale(gray.shape))
        attached = self.attached.mask
        self.excluded = excluded if attached is None else union(excluded, reduced(attached))
        self._keep(~is_masked(self.excluded, self.pixels, gray.shape))
        self._gray, self._quantiles = gray, quantiles
        if self.attached.needs_corners:
            self.replenish()

    def replenish(self) -> None:
        """Detect new corners (Shi-Tomasi) away from the present ones, up to the number of features to track."""
        missing = self._count - len(self.ids)
        if self._gray is None or missing <= 0:
            return
        spacing = max(5, int(0.6 * np.sqrt(self._gray.size / self._count)))
        free = free_pixels(self.excluded, self._gray.shape)
        free = np.full(self._gray.shape, 255, np.uint8) if free is None else free
        few = round(_FEW * self._count)
        is_plain = missing > few and len(self._strongest(few, _STRONG, spacing, free)) < few
        for x, y in self.pixels.astype(int):
            cv2.circle(free, (int(x), int(y)), spacing, 0, -1)
        self.append(self._strongest(missing, _WEAK if is_plain else _STRONG, spacing, free))

    def _strongest(self, count: int, quality: float, spacing: int, free: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return corners (n, 2) of the newest image: the strongest ones of all of it, which are tracked longest.

        The reconstructor takes those of every part.
        """
        corners = cv2.goodFeaturesToTrack(self._gray, count, quality, spacing, mask=free)
        return np.zeros((0, 2), np.float32) if corners is None else corners.reshape(-1, 2)

    def append(self, pixels: NDArray[np.float32]) -> NDArray[np.int64]:
        """Track `pixels` (k, 2) of the newest image from now on, and return their ids (k,).

        Beyond twice the number of features to track, the oldest are dropped.
        """
        ids = np.arange(self._next_id, self._next_id + len(pixels), dtype=np.int64)
        self._next_id += len(pixels)
        self.ids = np.concatenate([self.ids, ids])
        self.pixels = np.concatenate([self.pixels, pixels.astype(np.float32)])
        self.motions = np.concatenate([self.motions, np.full((len(pixels), _INTERVALS, 2), np.nan, np.float32)])
        self._keep(slice(-2 * self._count, None))
        return ids

    def _keep(self, rows: NDArray[np.bool_] | slice) -> None:
        self.ids, self.pixels, self.motions = self.ids[rows], self.pixels[rows], self.motions[rows]

    def corners(self) -> Corners:
        """Return the tracks in the newest image, with their mean velocity since the image before."""
        return Corners(self.ids, self.pixels, self.motions[:, 0] / self._rising_seconds()[0])

    def row_shifts(self, readout: float) -> NDArray[np.float32]:
        """Return by how many pixels (n, 2) a rolling shutter shifts the tracks, against their place at the middle row.

        `readout` is from the first row to the last, seconds. The velocity of a track is that since the image before,
        and by half of the change of velocity of all tracks, in the median, that in the newest image.
        """
        if not readout or self._gray is None or not len(self.ids):
            return np.zeros_like(self.pixels)
        seconds = self._rising_seconds()
        after, before = (self.motions / seconds[:, None]).transpose(1, 0, 2)
        change = (after - before) * seconds[0] / seconds.sum()
        known = [values[np.isfinite(values[:, 0])] for values in (after, change)]
        velocity, faster = (np.median(values, axis=0) if len(values) else np.zeros(2, np.float32) for values in known)
        velocity = np.where(np.isfinite(after), after, velocity) + faster
        return np.asarray(readout * (self.pixels[:, 1:] / self._gray.shape[0] - 0.5) * velocity, np.float32)

    def corners_before(self) -> Corners:
        """Return the tracks in the image before the newest one, with their velocity in it.

        A camera that is turned back and forth has another velocity in an image than on the way to it. It is that of a
        parabola of time through the positions in three images, the newest one included. A track that was new there has
        the change of velocity of the others, in the median.
        """
        to_newest, since = seconds = self._rising_seconds()
        after, before = (self.motions / seconds[:, None]).transpose(1, 0, 2)
        velocity = (since * after + to_newest * before) / (since + to_newest)
        return Corners(self.ids, self.pixels - self.motions[:, 0], filled(velocity, after))

    def _rising_seconds(self) -> NDArray[np.float32]:
        """Return the seconds of the `motions`; NaN where the stamps do not rise."""
        return np.where(self._seconds > 0, self._seconds, np.float32(np.nan))


def threshold_scale(shape: Sequence[int]) -> float:
    """Return the factor on thresholds "px at 640 px" in an image (H, W, ...): its longer side over 640 px.

    So an image and the same one turned by 90 degrees have the same.
    """
    return max(shape[:2]) / 640


def follow(source: NDArray[np.uint8], target: NDArray[np.uint8],
           pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return where `pixels` (n, 2) of an image (H, W) are in a later one, and which passed the checks of tracks."""
    if not len(pixels):
        return pixels, np.zeros(0, np.bool_)
    return _flow(source, target, pixels,
                 brightness_transfer(brightness_quantiles(source), brightness_quantiles(target)))


def _flow(source: NDArray[np.uint8], target: NDArray[np.uint8], pixels: NDArray[np.float32],
          change: Brightness) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return where `pixels` (n, 2) of an image are in the next one, and which passed the forward-backward check.

    If most do not (a fast turn), they are tried again from dense flow at low resolution, then by a homography.
    """
    source = source if change.is_negligible else change.apply(source)
    source, (moved, valid) = followed(lambda image: _lucas_kanade(image, target, pixels, None), source, target)
    if valid.sum() < _MIN_TRACKED_FRACTION * len(pixels):
        guess = pixels + coarse_flow(source, target, pixels)
        retried, retried_valid = _lucas_kanade(source, target, pixels, guess)
        if retried_valid.sum() > valid.sum():
            moved, valid = retried, retried_valid
    if valid.sum() < _MIN_TRACKED_FRACTION * len(pixels):
        matrix = homography(pixels[valid], moved[valid], max(source.shape))
        if matrix is not None:
            turned = mapped(pixels, matrix)
            retried, retried_valid = _lucas_kanade(warped(source, matrix), target, turned, turned, _WARPED)
            if retried_valid.sum() > valid.sum() and is_confirmed(turned, retried_valid, target.shape[::-1]):
                moved, valid = retried, retried_valid
    return moved, valid


def _lucas_kanade(source: NDArray[np.uint8], target: NDArray[np.uint8], pixels: NDArray[np.float32],
                  guess: NDArray[np.float32] | None, options: dict[str, Any] = _FORWARD
                  ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    if guess is not None:
        options = {**options, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    moved, found, _ = cv2.calcOpticalFlowPyrLK(source, target, pixels, None if guess is None else guess.copy(),
                                               **options)
    height, width = target.shape
    valid = (found[:, 0] == 1) & (moved > 1).all(1) & (moved[:, 0] < width - 2) & (moved[:, 1] < height - 2)
    rows = np.flatnonzero(valid)
    if len(rows):
        back, found_back, _ = cv2.calcOpticalFlowPyrLK(target, source, moved[rows], pixels[rows], **_BACKWARD)
        consistent = np.linalg.norm(back - pixels[rows], axis=1) < threshold_scale(target.shape)
        valid[rows] = (found_back[:, 0] == 1) & consistent
    return moved, valid


class ImageFeatures:
    """An image and its features; each kind is extracted once, when it is first used.

    Attributes:
        gray: uint8 (H, W).

    """

    def __init__(self, gray: NDArray[np.uint8], count: int = 500, excluded: NDArray[np.bool_] | None = None) -> None:
        """Prepare to detect at most `count` ORB features in `gray`, none in what the mask `excluded` leaves out."""
        self.gray = gray
        self._count = count
        self._excluded = excluded

    @staticmethod
    def from_keyframe(keyframe: Keyframe, count: int = 500) -> ImageFeatures:
        """Return the features of a keyframe, with its ORB features if they were extracted before."""
        features = ImageFeatures(gray_image(keyframe.image), count, keyframe.excluded)
        if keyframe.binary is not None:
            features.binary = keyframe.binary
        return features

    @property
    def known_binary(self) -> BinaryFeatures | None:
        """The ORB features if they were extracted already."""
        return self.__dict__.get("binary")

    @cached_property
    def binary(self) -> BinaryFeatures:
        """ORB features (Rublee et al., ORB: an efficient alternative to SIFT or SURF, ICCV 2011)."""
        points, descriptors = cv2.ORB_create(self._count).detectAndCompute(
            self.gray, free_pixels(self._excluded, self.gray.shape))
        if descriptors is None:
            return BinaryFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
        return BinaryFeatures(np.array([point.pt for point in points], np.float32).reshape(-1, 2),
                              np.asarray(descriptors, np.uint8))

    @cached_property
    def appearance(self) -> NDArray[np.float32]:
        """The VLAD place descriptor (2048,), see `vggt_ros/features/appearance.py`."""
        return describe(self.gray, self._excluded)[1]


def match_binary(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of binary descriptors (n, 32) and (m, 32), m at least 2, that match by the ratio test."""
    distance, nearest = cv2.batchDistance(first, second, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=2)
    rows = np.flatnonzero(distance[:, 0] < _MAX_RATIO * distance[:, 1])
    return rows, nearest[rows, 0].astype(np.int64)


def resize_pixels(pixels: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Return the positions of `pixels` (n, 2) in the image resized by `factor`; integers are pixel centers."""
    return np.asarray((pixels + 0.5) * factor - 0.5, np.float32)

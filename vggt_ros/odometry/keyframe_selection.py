"""Keyframe selection: by parallax, not by time, and sharp images rather than blurred ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import KeyframeConfig
from vggt_ros.features.tracks import FeatureTracks, threshold_scale
from vggt_ros.images.exposure import gray_image
from vggt_ros.images.mask import free_pixels
from vggt_ros.images.sharpness import Sharpness
from vggt_ros.images.sift import sift_features, verified_matches
from vggt_ros.odometry.keyframe_color import KeyframeColor
from vggt_ros.odometry.landmark_table import find
from vggt_ros.windows.keyframe import Keyframe

MIN_CORNERS = 15
"""Fewest corners of a keyframe: with fewer (dark, covered or textureless images) nothing could be matched to it."""
_BLURRED = 0.87
"""Sharpness, over that of the images before, below which an image is blurred."""
_MAX_WAIT = 3
"""Most images for which a keyframe waits for a sharp image."""
_WAIT_PARALLAX, _WAIT_SURVIVAL = 1.7, 0.75
"""A keyframe waits only up to these factors of the settings `min_parallax` and `min_survival`."""
_SLOW_PARALLAX = 0.4
"""Fraction of the setting `min_parallax` that is enough after the setting `max_interval`."""
_MIN_MATCHES = 25
"""Fewest matches of two keyframes that show the same."""


class KeyframeSelector:
    """Compares every frame with the newest keyframe by their common tracks.

    Attributes:
        stamp: of the newest image, nanoseconds; 0 before the first.

    """

    def __init__(self, config: KeyframeConfig) -> None:
        """Select with the thresholds of `config`."""
        self._config = config
        self._sharpness = Sharpness()
        self.clear()

    def clear(self) -> None:
        """Forget the newest keyframe, so that the next frame with texture becomes one."""
        self._ids: NDArray[np.int64] | None = None
        self._pixels = np.zeros((0, 2), np.float32)
        self._images = 0
        self.stamp = self._keyframe_stamp = 0
        self._due: int | None = None  # the image at which a keyframe was due first
        self._sharpness.clear()

    def add_image(self, gray: NDArray[np.uint8], stamp: int) -> None:
        """Take note of the sharpness of the newest image (H, W), and of its stamp, nanoseconds."""
        self._images += 1
        self.stamp = stamp
        self._sharpness.add(gray)

    def needs_keyframe(self, tracks: FeatureTracks, shape: Sequence[int], spacing: float = 1.0) -> bool:
        """Return True if the frame with these `tracks`, an image (H, W), should become a keyframe.

        Under load keyframes are farther apart than the settings say, by the factor `spacing`.
        """
        if self._ids is None:
            return True
        common, before = find(self._ids, tracks.ids)
        survival = len(before) / max(len(self._ids), 1)
        motion = np.linalg.norm(tracks.pixels[common] - self._pixels[before], axis=1)
        parallax = float(np.median(motion)) / threshold_scale(shape) if len(before) else np.inf
        waited = (self.stamp - self._keyframe_stamp) * 1e-9 > self._config.max_interval
        usual, enough_tracks = spacing * self._config.min_parallax, self._config.min_survival / spacing
        if survival >= enough_tracks and parallax <= usual * (_SLOW_PARALLAX if waited else 1.0):
            self._due = None
            return False
        self._due = self._images if self._due is None else self._due
        may_wait = (self._images - self._due < _MAX_WAIT and survival > _WAIT_SURVIVAL * enough_tracks
                    and parallax < _WAIT_PARALLAX * usual)
        return not (may_wait and self._sharpness.relative < _BLURRED)

    def is_elsewhere(self, tracks: FeatureTracks, newest: Keyframe | None, keyframe: Keyframe,
                     colors: KeyframeColor) -> bool:
        """Return True if a keyframe with these `tracks` shows nothing that the `newest` one before shows.

        Their images are made by `colors`.
        """
        if self._ids is None or np.isin(self._ids, tracks.ids, assume_unique=True).any():
            return False
        if newest is not None:
            colors.wait((newest.id, keyframe.id))
        return not show_the_same(newest, keyframe)

    def set_keyframe(self, tracks: FeatureTracks) -> None:
        """Set the frame with these `tracks` as the newest keyframe; call it after new corners were detected."""
        self._ids, self._pixels, self._due = tracks.ids, tracks.pixels, None
        self._keyframe_stamp = self.stamp


def show_the_same(first: Keyframe | None, second: Keyframe) -> bool:
    """Return whether two keyframes without common tracks have features that agree on an essential matrix."""
    if first is None:
        return False
    one, other = (sift_features(gray_image(keyframe.image), free_pixels(keyframe.excluded, keyframe.image.shape[:2]))
                  for keyframe in (first, second))
    return len(verified_matches(one, other, first.intrinsics, second.intrinsics)[0]) >= _MIN_MATCHES

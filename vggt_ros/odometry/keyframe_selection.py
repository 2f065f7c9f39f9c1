"""Keyframe selection: by parallax, not by time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import KeyframeConfig
from vggt_ros.features.tracks import REFERENCE_WIDTH, FeatureTracks

MIN_CORNERS = 15
"""Fewest corners of a keyframe: with fewer (dark, covered or textureless images) nothing could be matched to it."""


class KeyframeSelector:
    """Compares every frame with the newest keyframe by their common tracks."""

    def __init__(self, config: KeyframeConfig) -> None:
        """Select with the thresholds of `config`."""
        self._config = config
        self.clear()

    def clear(self) -> None:
        """Forget the newest keyframe, so that the next frame with texture becomes one."""
        self._ids: NDArray[np.int64] | None = None
        self._pixels = np.zeros((0, 2), np.float32)

    def needs_keyframe(self, tracks: FeatureTracks, width: int) -> bool:
        """Return True if the frame with these `tracks`, `width` pixels wide, should become a keyframe."""
        if self._ids is None:
            return True
        _, before, after = np.intersect1d(self._ids, tracks.ids, assume_unique=True, return_indices=True)
        if len(after) < self._config.min_survival * len(self._ids):
            return True
        motion = np.linalg.norm(tracks.pixels[after] - self._pixels[before], axis=1)
        return bool(np.median(motion) > self._config.min_parallax * width / REFERENCE_WIDTH)

    def has_no_overlap(self, tracks: FeatureTracks) -> bool:
        """Return True if the frame with these `tracks` has no track in common with the newest keyframe."""
        return self._ids is not None and not np.isin(self._ids, tracks.ids, assume_unique=True).any()

    def set_keyframe(self, tracks: FeatureTracks) -> None:
        """Set the frame with these `tracks` as the newest keyframe; call it after new corners were detected."""
        self._ids, self._pixels = tracks.ids, tracks.pixels

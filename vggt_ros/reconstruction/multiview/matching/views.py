"""The views of a window: keyframes with their features, and the tracks through them as measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.bundle import Scene, undistorted
from vggt_ros.reconstruction.adjustment.lens import Lens, distorted
from vggt_ros.reconstruction.adjustment.rolling_shutter import shift_per_second, velocity_grid
from vggt_ros.reconstruction.multiview.matching.features import Features, detect
from vggt_ros.windows.keyframe import Keyframe

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class View:
    """A keyframe, without its image, with its features and its image motion (see `velocity_grid`).

    `tracked_velocity` is that of the tracker where `velocity` is corrected (`turn_rates`), else None.
    """

    keyframe: Keyframe
    features: Features
    velocity: Array
    tracked_velocity: Array | None = None

    @staticmethod
    def of(keyframe: Keyframe, corners: int) -> View:
        """Return the view of a keyframe, with up to `corners` corners."""
        # Views are kept as long as the local map; its features have the gray image, a third of the memory.
        without_image = replace(keyframe, image=np.empty((0, 0, 3), np.uint8))
        return View(without_image, detect(keyframe, corners), velocity_grid(keyframe))


@dataclass(frozen=True, eq=False)
class Measurements:
    """Tracks through S views, as observations that a pinhole camera with a global shutter would have made.

    Attributes:
        views: the S views.
        tracks: (n, S, 2), pixels in the images, NaN where a point was not observed.
        readout: of the rolling shutter, seconds.
        lens: corrections of the calibration.

    """

    views: Sequence[View]
    tracks: Array
    readout: float
    lens: Lens

    @cached_property
    def centers(self) -> Array:
        """Principal points (S, 2)."""
        return np.array([view.keyframe.intrinsics[:2, 2] for view in self.views])

    @cached_property
    def focal(self) -> Array:
        """Focal lengths (S, 2), pixels."""
        return self.lens.focal_factor * np.array([np.diag(view.keyframe.intrinsics)[:2] for view in self.views])

    @cached_property
    def visible(self) -> Mask:
        """Which view observes which track (n, S)."""
        return ~np.isnan(self.tracks[..., 0])

    @cached_property
    def shift_rate(self) -> Array:
        """Shift of the observations by a rolling shutter, pixels per second of readout (n, S, 2)."""
        return self._shift_rate_at(self.tracks)

    @cached_property
    def tracked_shift_rate(self) -> Array:
        """Shift as in `shift_rate`, by the image motion of the tracker (n, S, 2)."""
        velocities = [view.velocity if view.tracked_velocity is None else view.tracked_velocity for view in self.views]
        return shift_per_second(self.tracks, velocities, self.views[0].features.gray.shape[::-1])

    @cached_property
    def observations(self) -> Array:
        """Pixels from the principal point, corrected (n, S, 2); 0 where not visible."""
        return np.nan_to_num(self.to_observations(self.tracks, self.readout * self.shift_rate, slice(None)))

    @property
    def grays(self) -> list[NDArray[np.uint8]]:
        """The S images (H, W)."""
        return [view.features.gray for view in self.views]

    def shift_everywhere(self, scene: Scene) -> Array:
        """Return the shift (n, S, 2) of all points of a scene, where they are not observed at their projections."""
        predicted = self.to_pixels(scene.residuals(np.zeros_like(self.tracks)), np.zeros(2), slice(None))
        return self.readout * self._shift_rate_at(np.where(self.visible[..., None], self.tracks, predicted))

    def to_observations(self, pixels: Array, shift: Array, views: Any) -> Array:
        """Return pixels (..., 2) in the images of `views`, which index the S views, as observations."""
        return undistorted(pixels - shift - self.centers[views], self.focal[views], self.lens.applied)

    def to_pixels(self, observations: Array, shift: Array, views: Any) -> Array:
        """Return observations (..., 2) as pixels in the images of `views`, which index the S views."""
        return distorted(observations, self.focal[views], self.lens.applied) + self.centers[views] + shift

    def _shift_rate_at(self, pixels: Array) -> Array:
        return shift_per_second(pixels, [view.velocity for view in self.views],
                                self.views[0].features.gray.shape[::-1])

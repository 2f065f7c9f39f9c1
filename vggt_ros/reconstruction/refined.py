"""A reconstructor whose windows are refined by bundle adjustment; see `refinement.py`."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera, resize_intrinsics
from vggt_ros.reconstruction.base import Reconstructor, WindowGeometry
from vggt_ros.reconstruction.earlier_keyframes import earlier_keyframes
from vggt_ros.reconstruction.image_correction import ImageCorrection, RawImage
from vggt_ros.reconstruction.refinement import OVERCONFIDENCE, NotRefined, Refinement, refine_window
from vggt_ros.windows.keyframe import Window

_LOG = logging.getLogger(__name__)
_PREDICTED_SIGMA = 0.03
"""Relative standard deviation of the focal length that a network predicts: 0.9 % from image to image, and up to 4 % off
in all images of a scene, in recorded outputs of VGGT-1B."""
_WINDOW_SIGMA = 0.004
"""Relative standard deviation of the focal length that one window finds: its patches share a bias."""
_MAX_READOUT_UPDATES = 3
"""How often a window is adjusted, at most, until the readout time does not change any more."""


def refined_as_configured(reconstructor: Reconstructor, config: Config) -> Reconstructor:
    """Return a reconstructor with its windows refined, if the setting `refine` says so; else itself."""
    refines = config.refine == "on" or (config.refine == "auto" and not getattr(reconstructor, "adjusted", False))
    return RefinedReconstructor(reconstructor) if refines else reconstructor


class RefinedReconstructor:
    """Refines the windows of another reconstructor; a window that cannot be refined is returned as it is.

    The focal length of a camera that is not calibrated is estimated over all windows, and so is the readout time of a
    rolling shutter. Whatever else the other reconstructor has (`prepare`, `status_values`, `close`, ...) is passed on.

    Attributes:
        focal: focal length found so far, as a fraction of the width of the images; None before the first window.

    """

    def __init__(self, inner: Reconstructor) -> None:
        """Refine the windows of `inner`."""
        self._inner = inner
        self.name = inner.name
        self._log_focal, self._variance = 0.0, np.inf
        self._before: tuple[WindowGeometry, list[RawImage]] | None = None
        self._correction = ImageCorrection()

    def __getattr__(self, name: str) -> Any:
        """Return what the other reconstructor has."""
        return getattr(self._inner, name)

    @property
    def focal(self) -> float | None:
        """Focal length found so far, as a fraction of the width of the images; None before the first window."""
        return float(np.exp(self._log_focal)) if np.isfinite(self._variance) else None

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that the reconstructor needs from this camera."""
        return self._inner.image_size(camera)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window and refine it; raises as the other reconstructor does."""
        geometry = self._inner.reconstruct(window)
        started = time.perf_counter()
        keyframes = {keyframe.id: keyframe for keyframe in window.keyframes}
        chosen = [keyframes[k] for k in geometry.keyframe_ids]
        calibrated = all(keyframe.calibrated for keyframe in chosen)
        images = [RawImage.of(keyframe) for keyframe in chosen]
        (height, width), (small_height, small_width) = images[0].gray.shape, geometry.depth.shape[1:]
        # Principal points are the images': the network takes them to be half a pixel beside.
        intrinsics = np.array([resize_intrinsics(keyframe.intrinsics, small_width / width, small_height / height)
                               for keyframe in chosen])
        focal, sigma = None, 0.0
        if not calibrated:
            intrinsics[:, [0, 1], [0, 1]] = geometry.intrinsics[:, [0, 1], [0, 1]]
            predicted = float(np.log(geometry.intrinsics[:, [0, 1], [0, 1]] / small_width).mean())
            focal, sigma = self._expected(predicted)
            focal *= width
        try:
            refined = self._refine(replace(geometry, intrinsics=intrinsics), images, focal, sigma)
        except NotRefined as reason:
            _LOG.info("window %d is not refined: %s", window.id, reason)
            return replace(geometry, notes=(*geometry.notes, f"not refined: {reason}"),
                           report={**geometry.report, "refined": 0.0, "refine_s": time.perf_counter() - started})
        if not calibrated:
            self._observe(float(np.log(refined.focal / width)))
        return replace(refined.geometry, report={
            **refined.geometry.report, "refined": 1.0, "readout_s": self._correction.readout,
            "refine_s": time.perf_counter() - started})

    def _refine(self, geometry: WindowGeometry, images: list[RawImage], focal: float | None,
                sigma: float) -> Refinement:
        """Adjust a window, again where it has changed the readout time."""
        for _ in range(_MAX_READOUT_UPDATES):
            result, used = self._adjust(geometry, images, focal, sigma)
            if not self._correction.update(used, result.solution, result.tracked):
                break
        # A loop's window, of older keyframes, is not what the next window continues.
        if self._before is None or max(geometry.keyframe_ids) > max(self._before[0].keyframe_ids):
            self._before = result.geometry, images
        return result

    def _adjust(self, geometry: WindowGeometry, images: list[RawImage], focal: float | None,
                sigma: float) -> tuple[Refinement, list[RawImage]]:
        """Adjust a window together with the newest keyframes of the one before, or alone; return the images, too."""
        if self._before is not None and self._before[1][0].gray.shape == images[0].gray.shape:
            before, before_images = self._before
            if (earlier := earlier_keyframes(geometry, before)) is not None:
                rows = [before.keyframe_ids.index(k) for k in earlier.keyframe_ids]
                both = [*images, *(before_images[row] for row in rows)]
                with suppress(NotRefined):
                    return refine_window(geometry, self._correction.corrected(both), focal, sigma, earlier), both
        return refine_window(geometry, self._correction.corrected(images), focal, sigma), images

    def _expected(self, predicted: float) -> tuple[float, float]:
        """Return focal length over width and its sigma for bundle adjustment; `predicted` is a logarithm."""
        if not np.isfinite(self._variance):
            return float(np.exp(predicted)), _PREDICTED_SIGMA
        return float(np.exp(self._log_focal)), float(np.sqrt(self._variance)) / OVERCONFIDENCE

    def _observe(self, log_focal: float) -> None:
        """Update the focal length by what a window found."""
        if np.isfinite(self._variance):
            gain = self._variance / (self._variance + _WINDOW_SIGMA**2)
            self._log_focal += gain * (log_focal - self._log_focal)
            self._variance = max((1 - gain) * self._variance, (_WINDOW_SIGMA / 8) ** 2)
        else:
            self._log_focal, self._variance = log_focal, _WINDOW_SIGMA**2

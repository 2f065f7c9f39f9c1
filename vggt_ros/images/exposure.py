"""Brightness of images: dark ones are stretched, and changes of exposure and gain between two images are estimated.

Between two images of a video brightness changes by a gain and an offset, `target = gain * source + offset`, as in DSO
(Engel et al., PAMI 2018). Optical flow and patch alignment assume that it does not change. Most of what both images
show is the same, so their histograms give an estimate. Under lamps that flicker a rolling shutter sees dark and bright
bands, which are elsewhere in each image: there every row has a gain of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.median import median

Gray = NDArray[np.uint8]
Followed = tuple[NDArray[np.float32], NDArray[np.bool_]]

NORMAL_RANGE = 110.0
"""Gray values between the 2nd and the 98th percentile below which an image is stretched."""
MAX_STRETCH = 6.0
"""Largest factor of the stretch; more shows noise only."""
_PERCENTILES = np.array([0.02, 0.98])
_QUANTILES = np.linspace(0.1, 0.9, 17)
_SATURATED = 250.0
"""Brighter values are saturated, and say nothing of the gain."""
_MIN_CHANGE_GAIN, _MIN_CHANGE_OFFSET = 0.08, 4.0
"""Smaller changes of gain and offset (gray values) do not disturb optical flow."""
_MIN_GAIN, _MAX_GAIN = 0.15, 6.0
_BAND = 0.05
"""Rows, of the height of an image, over which the gains of rows are averaged: bands of lamps are higher."""
_MIN_BANDED, _MIN_BAND_CHANGE = 0.5, 0.1
"""Least share of rows, and least change of the logarithm of their gain against the median, of images with bands."""
_TRACKED, _TRACKED_WITH_BANDS, _MORE = 0.8, 0.5, 1.3
"""Bands are tried where fewer than the first share of points can be tracked. They are there if the second share can be
with them, and so many times as many: in a turn up or down rows differ as well, but not as in bands."""


@dataclass(frozen=True)
class Brightness:
    """The transfer `target = gain * source + offset` of gray values from one image to another."""

    gain: float = 1.0
    offset: float = 0.0

    @property
    def is_negligible(self) -> bool:
        """True if optical flow need not care."""
        return abs(self.gain - 1) < _MIN_CHANGE_GAIN and abs(self.apply_to(128.0) - 128) < 2 * _MIN_CHANGE_OFFSET

    def apply_to(self, value: float) -> float:
        """Return the transferred gray value."""
        return self.gain * value + self.offset

    def apply(self, gray: Gray) -> Gray:
        """Return the transferred image."""
        if self == Brightness():
            return gray
        table = np.clip(np.rint(self.gain * np.arange(256) + self.offset), 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(gray, table), np.uint8)


def gray_image(image: NDArray[np.uint8]) -> Gray:
    """Return an RGB image (H, W, 3), or one in gray (H, W), in gray, stretched if it is dark; see `stretch`."""
    return stretch(image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8))


def stretch(gray: Gray) -> Gray:
    """Return an image of low contrast (dark, in fog) stretched to a normal range of gray values, others unchanged."""
    low, high = _quantiles(gray, _PERCENTILES)
    factor = min(NORMAL_RANGE / max(high - low, 1.0), MAX_STRETCH)
    if factor <= 1.0:
        return gray
    # The middle of the range keeps its place as far as the range fits, so that a dark image stays the darker one.
    middle = float(np.clip((low + high) / 2, NORMAL_RANGE / 2 + 8, 247 - NORMAL_RANGE / 2))
    return Brightness(factor, middle - factor * (low + high) / 2).apply(gray)


def brightness_change(source: Gray, target: Gray) -> Brightness:
    """Return the transfer from one image to another that shows about the same, by the quantiles of both."""
    return brightness_transfer(brightness_quantiles(source), brightness_quantiles(target))


def brightness_quantiles(gray: Gray) -> NDArray[np.float64]:
    """Return the quantiles of an image for `brightness_transfer`; an image is compared with two others."""
    return _quantiles(gray, _QUANTILES)


def brightness_transfer(first: NDArray[np.float64], second: NDArray[np.float64]) -> Brightness:
    """Return the transfer from one image to another by the `brightness_quantiles` of both."""
    usable = (first < _SATURATED) & (second < _SATURATED)
    return _fit(first[usable], second[usable])


def followed(follow: Callable[[Gray], Followed], source: Gray, target: Gray) -> tuple[Gray, Followed]:
    """Return what `follow(source)` finds of points in `target`, and which are good (n,); with its bands if it has any.

    The image that was followed comes first.
    """
    found = follow(source)
    count, good = len(found[1]), int(found[1].sum())
    if good < _TRACKED * count and (banded := with_bands_of(source, target)) is not None:
        retried = follow(banded)
        if retried[1].sum() > max(_TRACKED_WITH_BANDS * count, _MORE * good):
            return banded, retried
    return source, found


def with_bands_of(source: Gray, target: Gray) -> Gray | None:
    """Return `source` (H, W) with the mean brightness of each row of `target`; None if few rows differ from the others.

    They also differ where the camera turns up or down between the two images: the caller has to see which fits better.
    """
    size = (1, 2 * round(_BAND * len(source) / 2) + 1)
    before, after = (cv2.blur(cv2.reduce(gray, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F), size) for gray in (source, target))
    gains = (after + 4) / (before + 4)  # of dark rows little is known
    if np.mean(np.abs(np.log(gains / np.median(gains))) > _MIN_BAND_CHANGE) < _MIN_BANDED:
        return None
    return np.asarray(cv2.convertScaleAbs(source * gains), np.uint8)


def _fit(first: NDArray[np.float64], second: NDArray[np.float64]) -> Brightness:
    """Return the robust linear fit of gray values `second` by `first` (n,): medians of slopes (Theil and Sen)."""
    if len(first) < 5:
        return Brightness()
    step = max(1, len(first) // 60)
    order = np.argsort(first)[::step]
    x, y = first[order], second[order]
    rise, run = y[:, None] - y[None], x[:, None] - x[None]
    apart = run > max(0.25 * (x[-1] - x[0]), 2.0)
    if not apart.any():  # hardly any contrast: an offset at most
        return Brightness(1.0, median(y - x))
    gain = float(np.clip(median(rise[apart] / run[apart]), _MIN_GAIN, _MAX_GAIN))
    return Brightness(gain, median(y - gain * x))


def _quantiles(gray: Gray, fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the gray values below which these fractions of the pixels are, from the histogram."""
    histogram = cv2.calcHist([gray], [0], None, [256], [0, 256]).ravel()
    cumulative = np.cumsum(histogram) / max(float(histogram.sum()), 1.0)
    return np.interp(fractions, cumulative, np.arange(256) + 0.5)

"""Sixteen bits and real numbers to eight bits: by the range of values that a camera uses, which is then held fixed.

A camera with 12 bits fills a sixteenth of a 16-bit image, and a thermal camera a narrow band somewhere in it. A range
of its own for every image would make the brightness of a scene point change from image to image, which tracking by
optical flow does not survive; so the first image sets the range, and only values beyond it widen it.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
_BITS = (8, 10, 12, 14, 16)
"""Depths of sensors: the range is that of the smallest one that holds all values of the image."""
_NARROW = 0.25
"""A band of values narrower than this share of the depth's range, and away from zero, is a range of its own."""
_MAX_CLIPPED = 0.02
"""Share of the pixels that may be beyond the range, such as highlights and dead pixels, before it is widened."""
_STEP = 4
"""Every fourth row and column decides."""


class GrayRange:
    """The range of gray values of one camera.

    Attributes:
        low, high: values that become 0 and 255; equal before the first image.
        widened: how often later images had values beyond the range.

    """

    def __init__(self) -> None:
        """Begin without a range: the first image sets it."""
        self.low = self.high = 0.0
        self.widened = 0

    def __call__(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Return `values`, of any shape, unsigned integers or floats, as uint8; what is not finite is black."""
        sample = np.asarray(values[::_STEP, ::_STEP], np.float64)
        sample = sample[np.isfinite(sample)]
        if len(sample) and self._is_beyond(sample):
            known = self.low < self.high
            low, high = _range_of(sample, values.dtype.kind == "f")
            if known:
                self.low, self.high, self.widened = min(low, self.low), max(high, self.high), self.widened + 1
                _LOG.warning("gray values beyond the range so far: from here on %g to %g are black to white",
                             self.low, self.high)
            else:
                self.low, self.high = low, high
                _LOG.info("gray values of %s: %g to %g are black to white", values.dtype, self.low, self.high)
        return self._scaled(values)

    def _is_beyond(self, sample: NDArray[np.float64]) -> bool:
        if self.low >= self.high:
            return bool(sample.max() > 0)  # a black image tells nothing
        return bool(((sample < self.low) | (sample > self.high)).mean() > _MAX_CLIPPED)

    def _scaled(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        low, high = (self.low, self.high) if self.low < self.high else (0.0, 1.0)
        if values.dtype.kind == "u":
            if low == 0 and (bits := int(high).bit_length()) > 8:
                return np.asarray(np.minimum(values >> (bits - 8), 255), np.uint8)
            table = np.clip((np.arange(65536) - low) * (255 / (high - low)), 0, 255)
            return np.rint(table).astype(np.uint8)[values]
        unit = np.clip((np.nan_to_num(values.astype(np.float32), nan=low, posinf=low, neginf=low) - np.float32(low))
                       * np.float32(1 / (high - low)), 0, 1)
        return np.rint(unit * 255).astype(np.uint8)


def _range_of(sample: NDArray[np.float64], is_real: bool) -> tuple[float, float]:
    """Return the range of an image: that of its depth in bits, of the unit interval, or of a narrow band in either."""
    top = 1.0 if is_real and sample.max() <= 1 else next(
        (2.0**bits - 1 for bits in _BITS if sample.max() < 2**bits), float(sample.max()))
    low, high = np.percentile(sample, (0.1, 99.9))
    span = high - low
    if low > _NARROW * top and 0 < span < _NARROW * top:  # such as 290 to 310 kelvin of a thermal camera
        return max(float(low - span / 2), 0.0), min(float(high + span / 2), top)
    return min(float(sample.min()), 0.0), top

"""Surface splatting: a picture of the surface on which points lie.

Zwicker et al. 2001, in the two passes of Botsch et al. 2005: the first one finds how near the surface is in each pixel,
the second one blends the points that lie there, so that colors are smooth. Points of about the same distance and size
are blended together, by two box filters: their weights are those of a tent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

_MAX_RADIUS = 14.0
"""Largest radius of a splat, pixels."""
_LAYERS, _STEP = 8, 1.3
"""Number of layers of different distance, and the largest ratio of radii in a layer, which is blended at once."""
_CORE = 0.7
"""A splat hides what is behind this share of its radius, where its own weight is still large enough to be drawn."""
_FAINT = 0.04
"""Share of a splat's largest weight from which it is drawn."""
_HIDDEN = 1e-9
"""Weight of a layer whose mean is behind the nearest splat: not nothing, since there may be no other layer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Splats:
    """Points in a picture.

    Attributes:
        pixels: (n, 2) x and y.
        distance: (n,) along the view, positive; in any unit.
        radius: (n,) pixels.
        values: (n, k) what is blended, as colors.

    """

    pixels: NDArray[np.float32]
    distance: NDArray[np.float32]
    radius: NDArray[np.float32]
    values: NDArray[np.float32]

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Splats:
        """Return some of them."""
        return Splats(self.pixels[chosen], self.distance[chosen], self.radius[chosen], self.values[chosen])


def blend(splats: Splats, thickness: float, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the mean of the values in each pixel, (h, w, k), and where there are any, (h, w).

    Args:
        splats: the points, also those around the picture, which reach into it.
        thickness: what is as much behind the nearest splat belongs to the same surface, in the unit of the distance.
        size: width and height.

    """
    border = int(_MAX_RADIUS)
    size = width, height = size[0] + 2 * border, size[1] + 2 * border
    splats = dataclasses.replace(splats, pixels=splats.pixels + border)
    column, row = np.floor(splats.pixels).astype(np.int64).T
    splats = splats[(column >= 0) & (column < width) & (row >= 0) & (row < height) & (splats.distance > 0)]
    front = nearest(splats, size)
    limit = np.where(np.isfinite(front), front + thickness, 0)
    column, row = splats.pixels.astype(np.int64).T
    splats = splats[splats.distance <= limit[row, column]]
    sums = np.zeros((height, width, splats.values.shape[1] + 1), np.float32)
    for layer, radius in _layers(splats):
        half = max(round(radius / 2), 1)
        box, rows, columns = _box(layer, 2 * half, size)
        values = np.zeros((*limit[box].shape, sums.shape[2] + 1), np.float32)
        ones = np.ones((len(layer.distance), 1), np.float32)
        np.add.at(values, (rows, columns), np.concatenate([layer.values, ones, layer.distance[:, None]], axis=1))
        for _ in range(2):
            values = cv2.boxFilter(values, -1, (2 * half + 1, 2 * half + 1), borderType=cv2.BORDER_CONSTANT)
        area = (2 * half + 1)**2  # times the largest weight of one splat is 1
        weight, distance = values[..., -2], values[..., -1]
        share = np.where(distance <= limit[box] * weight, np.float32(area), np.float32(_HIDDEN * area))
        share[(weight <= _FAINT / area) | (limit[box] == 0)] = 0
        values *= share[..., None]
        sums[box] += values[..., :-1]
    sums = sums[border:-border, border:-border]
    weight = sums[..., -1:]
    return np.asarray(sums[..., :-1] / np.maximum(weight, 1e-12), np.float32), weight[..., 0] > 0


def nearest(splats: Splats, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the smallest distance of the cores of the splats over each pixel, (h, w); infinity where there is none.

    All splats lie in the picture.
    """
    width, height = size
    nearness = np.zeros((height, width), np.float32)
    for layer, radius in _layers(splats):
        reach = max(round(_CORE * radius), 1)
        box, rows, columns = _box(layer, reach, size)
        values = np.zeros(nearness[box].shape, np.float32)
        np.maximum.at(values, (rows, columns), 1 / layer.distance)
        values = np.asarray(cv2.dilate(values, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)))
        nearness[box] = np.maximum(nearness[box], values)
    with np.errstate(divide="ignore"):
        return np.asarray(1 / nearness, np.float32)


def _layers(splats: Splats) -> Iterator[tuple[Splats, float]]:
    """Yield splats of about the same distance and radius, and that radius."""
    size = np.rint(np.log(np.clip(splats.radius, 1, _MAX_RADIUS)) / np.log(_STEP)).astype(int)
    bounds = np.quantile(splats.distance, np.arange(1, _LAYERS) / _LAYERS) if len(splats.distance) else np.zeros(0)
    layer = np.stack([np.searchsorted(bounds, splats.distance), size], axis=1)
    for row in np.unique(layer, axis=0):
        yield splats[(layer == row).all(1)], float(_STEP**row[1])


def _box(splats: Splats, margin: int,
         size: tuple[int, int]) -> tuple[tuple[slice, slice], NDArray[np.int64], NDArray[np.int64]]:
    """Return the part of the picture that splats lie in, with a margin, and their rows and columns there."""
    low = np.maximum(np.floor(splats.pixels.min(0)).astype(int) - margin, 0)
    high = np.minimum(np.floor(splats.pixels.max(0)).astype(int) + margin + 1, size)
    columns, rows = splats.pixels.astype(np.int64).T
    return (slice(low[1], high[1]), slice(low[0], high[0])), rows - low[1], columns - low[0]

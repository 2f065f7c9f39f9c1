"""Which point of a map a pixel of its picture shows, against a plain z-buffer."""

from __future__ import annotations

import numpy as np
import pytest

from vggt_ros.evaluation.map_pictures import _nearest_points, _Projection


def _z_buffer(projection: _Projection, drawn: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draw the points one after the other."""
    width, height = size
    nearest, point = np.full((height, width), np.inf), np.full((height, width), -1)
    for index, ((x, y, depth), radius) in enumerate(zip(projection.pixels, projection.radius, strict=True)):
        if not drawn[index] or depth <= 0:
            continue
        reach, column, row = int(np.clip(np.ceil(radius), 1, 12)), round(float(x)), round(float(y))
        for at_row in range(max(row - reach, 0), min(row + reach + 1, height)):
            for at_column in range(max(column - reach, 0), min(column + reach + 1, width)):
                if depth < nearest[at_row, at_column]:
                    nearest[at_row, at_column], point[at_row, at_column] = depth, index
    return point


@pytest.mark.parametrize("count", [0, 1, 400])
def test_the_nearest_point_is_shown(count: int) -> None:
    random, size = np.random.default_rng(count), (90, 60)
    pixels = random.uniform([-15, -15, -0.2], [105, 75, 5], (count, 3)).astype(np.float32)
    projection = _Projection(pixels, random.uniform(0, 14, count).astype(np.float32), np.eye(3))
    drawn = random.random(count) > 0.2
    np.testing.assert_array_equal(_nearest_points(projection, drawn, size), _z_buffer(projection, drawn, size))

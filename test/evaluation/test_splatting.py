"""Pictures of points: what hides what, against a plain z-buffer; a plane's colors; and what a wall hides."""

from __future__ import annotations

import numpy as np
import pytest

from vggt_ros.evaluation.splatting import Splats, blend, nearest

SIZE = 90, 60


def _splats(pixels: np.ndarray, distance: np.ndarray, radius: float, values: np.ndarray) -> Splats:
    return Splats(pixels.astype(np.float32), distance.astype(np.float32), np.full(len(pixels), radius, np.float32),
                  values.astype(np.float32))


def _grid(spacing: float) -> np.ndarray:
    """Return places (n, 2) all over a picture, and beyond it."""
    random = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*(np.arange(-10, side + 10, spacing) for side in SIZE)), -1).reshape(-1, 2)
    return np.asarray(places + random.uniform(-0.2, 0.2, places.shape) * spacing)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_the_nearest_splat_hides_the_others(count: int) -> None:
    random = np.random.default_rng(count)
    pixels, distance = random.uniform(0, SIZE, (count, 2)), random.uniform(0.5, 5, count)
    expected = np.full(SIZE[::-1], np.inf)
    reach = 4  # 0.7 of a radius that is rounded to a power of the step, 5.95
    for (x, y), depth in zip(pixels.astype(int), distance, strict=True):
        around = expected[max(y - reach, 0):y + reach + 1, max(x - reach, 0):x + reach + 1]
        np.minimum(around, depth, out=around)
    np.testing.assert_allclose(nearest(_splats(pixels, distance, 6.0, np.zeros((count, 1))), SIZE), expected, rtol=1e-6)


def test_a_surface_has_no_holes_and_its_color_changes_smoothly() -> None:
    pixels = _grid(4.0)
    slope = pixels @ np.array([1.0, 0.5])
    values, drawn = blend(_splats(pixels, 2 + 0.002 * pixels[:, 1], 5.2, slope[:, None]), 0.1, SIZE)
    assert drawn.all()
    expected = np.add.outer(0.5 * np.arange(SIZE[1]), np.arange(SIZE[0])) + 0.75
    assert np.abs(values[6:-6, 6:-6, 0] - expected[6:-6, 6:-6]).max() < 3.0  # a point's color alone would be 4 off


def test_what_is_behind_a_surface_is_not_seen_through_it() -> None:
    pixels = _grid(4.0)
    half = pixels[pixels[:, 0] < 45]
    both = np.concatenate([half, pixels])
    behind = np.repeat([0.0, 1.0], [len(half), len(pixels)])
    values, drawn = blend(_splats(both, 2 + behind, 5.2, behind[:, None]), 0.1, SIZE)
    assert drawn.all()
    assert np.abs(values[:, :38, 0]).max() < 1e-6
    assert np.abs(values[:, 52:, 0] - 1).max() < 1e-6


def test_points_behind_the_viewer_and_beside_the_picture_are_left_out() -> None:
    pixels = np.array([[45.0, 30.0], [-200.0, 30.0], [45.0, 1e6]])
    _, drawn = blend(_splats(pixels, np.array([-1.0, 1.0, 1.0]), 5.0, np.ones((3, 1))), 0.1, SIZE)
    assert not drawn.any()

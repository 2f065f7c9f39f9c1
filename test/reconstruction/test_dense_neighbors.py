"""The choice of the neighbors by which the depth of a keyframe is found."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from vggt_ros.geometry.poses import pose, so3_exp
from vggt_ros.reconstruction.multiview.dense.dense_neighbors import _ENOUGH, PARTS, DenseNeighbors
from vggt_ros.synthetic import pinhole

Array = NDArray[np.float64]
SHAPE, PARALLAX = (240, 320), 24.0


def _neighbors(cameras: Array, index: int, depth: float = 2.0) -> DenseNeighbors:
    intrinsics = np.array([pinhole(*SHAPE[::-1])] * len(cameras))
    return DenseNeighbors(index, np.full(PARTS, depth), intrinsics, cameras, SHAPE)


def _camera(x: float, turn: float = 0.0) -> Array:
    """Return a camera at `x` meters, turned to the right by `turn` degrees."""
    return pose(so3_exp(np.radians([0.0, turn, 0.0])), np.array([x, 0.0, 0.0]))


def test_parallax_is_that_of_a_point_straight_ahead() -> None:
    cameras = np.array([_camera(0), _camera(0.1), _camera(0.1, 10)])
    expected = pinhole(*SHAPE[::-1])[0, 0] * 0.1 / 2
    parallax = _neighbors(cameras, 0)._parallax
    assert parallax[0].max() == 0
    assert parallax[1].max() == pytest.approx(expected)
    assert parallax[2].max() == pytest.approx(expected)  # a turn makes no parallax


def test_without_a_turn_those_with_the_preferred_parallax_are_chosen() -> None:
    focal = float(pinhole(*SHAPE[::-1])[0, 0])
    pixels = np.array([0, 3, 24, 100, 20, 0.2])
    cameras = np.array([_camera(value * 2 / focal) for value in pixels])
    assert _neighbors(cameras, 0).best(2, PARALLAX) == [2, 4]
    assert 5 not in _neighbors(cameras, 0).best(6, PARALLAX)  # it says nothing about depth


def test_near_and_far_parts_of_an_image_have_neighbors_of_their_own() -> None:
    focal = float(pinhole(*SHAPE[::-1])[0, 0])
    cameras = np.array([_camera(distance) for distance in (0, PARALLAX * 1 / focal, PARALLAX * 20 / focal)])
    depth = np.full(PARTS, 20.0)
    depth[:, PARTS[1] // 2:] = 1.0
    parallax = DenseNeighbors(0, depth, np.array([pinhole(*SHAPE[::-1])] * 3), cameras, SHAPE)._parallax
    far, near = np.split(parallax.reshape(3, *PARTS), 2, axis=2)
    np.testing.assert_allclose(near[1], PARALLAX)
    np.testing.assert_allclose(far[2][:, 1:], PARALLAX)  # the parts at the border are not seen


def test_what_came_into_view_by_a_turn_has_neighbors() -> None:
    ahead = [_camera(x) for x in np.linspace(-0.4, 0.4, 9)]
    turned = [_camera(0.41, 35), _camera(0.43, 35), _camera(0.46, 35)]
    neighbors = _neighbors(np.array(ahead + turned), 10)
    chosen = neighbors.best(4, PARALLAX)
    mean = neighbors._parallax.mean(1)
    assert set(np.argsort(-mean)[:4]) <= set(range(9))  # by the mean over the image none of those beside it is chosen
    visible = neighbors._seen[np.arange(12) != 10].any(0)
    assert visible.mean() > 0.9
    assert neighbors._seen[chosen].any(0)[visible].all()


@pytest.mark.parametrize("seed", range(5))
def test_the_greedy_choice_is_nearly_the_best_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    cameras = np.array([pose(so3_exp(random.normal(0, 0.25, 3)), random.normal(0, 0.2, 3)) for _ in range(9)])
    neighbors = _neighbors(cameras, 4)
    seen = neighbors._seen & (neighbors._parallax > 0.5)
    quality = np.where(seen, np.exp(-0.5 * np.log(np.maximum(neighbors._parallax, 0.5) / PARALLAX) ** 2), 0)

    def value(chosen: tuple[int, ...]) -> float:
        return float(np.log1p(quality[list(chosen)].sum(0) / _ENOUGH).sum())

    best = max(value(chosen) for chosen in combinations(range(9), 3))
    assert value(tuple(neighbors.best(3, PARALLAX))) >= (1 - 1 / np.e) * best


def test_without_parallax_there_is_no_neighbor() -> None:
    assert _neighbors(np.array([_camera(0), _camera(0, 5), _camera(0)]), 0).best(7, PARALLAX) == []

"""Dense depth of the CPU reconstructor against rendered scenes with exact depth and poses."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vggt_ros.geometry.poses import inverse
from vggt_ros.reconstruction.adjustment.pinhole_images import PinholeImages
from vggt_ros.reconstruction.adjustment.rolling_shutter import GRID
from vggt_ros.reconstruction.multiview.dense.depth import dense_depth, rank
from vggt_ros.reconstruction.multiview.dense.depth_refinement import refine
from vggt_ros.reconstruction.multiview.dense.plane_sweep import (
    JUMP_PENALTY,
    STEP_PENALTY,
    SmallImages,
    _Costs,
    _guide,
    _Neighbor,
    _one_side,
    _Texture,
    aggregate,
    sweep,
)
from vggt_ros.synthetic import drive, orbit, pinhole, room
from vggt_ros.synthetic.rooms import _box, corridor
from vggt_ros.synthetic.scene import Scene

Array = NDArray[np.float64]
Map = NDArray[np.float32]
SIZE, MIDDLE = (320, 240), 2


@dataclass(frozen=True, eq=False)
class Views:
    """Rendered views with what `dense_depth` takes: exact poses and some exact sparse points, all visible."""

    grays: NDArray[np.uint8]
    depth: Map
    intrinsics: Array
    poses: Array
    points: Array

    def found(self, grays: NDArray[np.uint8], wanted: int = MIDDLE) -> tuple[Map, Map]:
        """Return depth of one view and its relative standard deviation."""
        visible = np.ones((len(self.points), len(grays)), bool)
        depth, sigma = dense_depth(grays, self.intrinsics, self.poses, self.points, visible, wanted=[wanted])
        others = np.arange(len(grays)) != wanted
        assert np.isnan(depth[others]).all() and np.isnan(sigma[others]).all()
        return depth[wanted], sigma[wanted]


@pytest.fixture(scope="module")
def views() -> Views:
    """Five views of a room; sparse points are on a coarse grid of the middle one, with relative errors of 0.5 %."""
    matrix, poses = pinhole(*SIZE), orbit(60)[::3][:5]
    rendered = [room().render(world_camera, matrix, SIZE) for world_camera in poses]
    grays = np.array([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image, _ in rendered])
    x, y = (n.ravel() for n in np.meshgrid(np.arange(20, 310, 30), np.arange(20, 230, 30)))
    depth = rendered[MIDDLE][1][y, x] * np.random.default_rng(0).normal(1, 0.005, len(x))
    points = np.linalg.solve(matrix, np.stack([x, y, np.ones(len(x))]).astype(float)).T * depth[:, None]
    return Views(grays, np.array([view[1] for view in rendered]), np.array([matrix] * 5), poses,
                 points @ poses[MIDDLE, :3, :3].T + poses[MIDDLE, :3, 3])


def test_depth_covers_the_image_and_its_sigma_is_honest(views: Views) -> None:
    depth, sigma = views.found(views.grays)
    known = np.isfinite(depth)
    error = np.abs(depth[known] / views.depth[MIDDLE][known] - 1)
    assert known.mean() > 0.97
    assert np.median(error) < 0.005
    assert (error < 0.05).mean() > 0.93
    assert (error < 2 * sigma[known]).mean() > 0.8
    confidence = rank(sigma)[known]
    assert np.median(error[confidence > 0.5]) < np.median(error[confidence <= 0.5])


def test_what_a_car_passes_by_gets_depth_like_the_end_of_the_street() -> None:
    """Neighbors with the right parallax for the median depth are too far away for what is near."""
    matrix, count, per_view = pinhole(*SIZE, fov=80.0), 12, 40
    poses = drive(26, 12.0, 1.5)[4:4 + count]
    rendered = [corridor(30.0, 4.0, 3.0).render(world_camera, matrix, SIZE) for world_camera in poses]
    exact = np.array([depth for _, depth in rendered])
    random = np.random.default_rng(0)
    pixels = np.stack([random.integers(2, side - 2, count * per_view) for side in SIZE], axis=1)
    view = np.repeat(np.arange(count), per_view)
    rays = np.linalg.solve(matrix, np.c_[pixels, np.ones(len(pixels))].T).T
    points = np.einsum("nij,nj->ni", poses[view, :3, :3], rays * exact[view, pixels[:, 1], pixels[:, 0], None])
    points += poses[view, :3, 3]
    seen_from = np.einsum("sij,snj->sni", poses[:, :3, :3].transpose(0, 2, 1), points - poses[:, None, :3, 3])
    image = seen_from @ matrix.T
    visible = ((image[..., 2] > 0) & (image[..., :2] >= 0).all(2) & (image[..., :2] < image[..., 2:] * SIZE).all(2)).T
    wanted = 8
    depth, _ = dense_depth(np.array([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image, _ in rendered]),
                           np.array([matrix] * count), poses, points, visible, [wanted])
    near = exact[wanted] < 3
    right = np.abs(depth[wanted] / exact[wanted] - 1) < 0.05  # not where unknown
    assert near.mean() > 0.3
    assert right[near].mean() > 0.8
    assert right.mean() > 0.8


def test_noise_without_texture_gets_hardly_any_depth(views: Views) -> None:
    noise = np.random.default_rng(1).normal(128, 2, views.grays.shape)
    depth, _ = views.found(np.clip(np.rint(noise), 0, 255).astype(np.uint8))
    assert np.isfinite(depth).mean() < 0.05


def test_depth_does_not_depend_on_exposure(views: Views) -> None:
    gains = [1.0, 0.8, 1.15, 1.0, 0.85]
    changed = np.array([np.clip(gain * gray + 5, 0, 255) for gain, gray in zip(gains, views.grays, strict=True)])
    same, other = views.found(views.grays)[0], views.found(changed.astype(np.uint8))[0]
    assert np.isfinite(other).mean() > np.isfinite(same).mean() - 0.05
    assert np.nanmedian(np.abs(other / same - 1)) < 0.005


def _with_somebody(views: Views, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the images with three textured boxes that each move at random in front of the room, and where they are."""
    rng, ahead = np.random.default_rng(seed), views.poses[MIDDLE, :3, 3] + 1.3 * views.poses[MIDDLE, :3, 2]
    steps = np.cumsum(rng.normal(0, 0.06, (len(views.poses), 3, 3)), 0)
    grays, there = views.grays.copy(), np.zeros(views.grays.shape, np.bool_)
    for row, world_camera in enumerate(views.poses):
        lows = ahead - 0.15 + np.array([(0, 0, -0.15), (0, 0, 0.3), (0, 0, -0.65)]) + steps[row] - steps[MIDDLE]
        parts = Scene([face for part, low in enumerate(lows)
                       for face in _box(np.random.default_rng(part), 0.004, low, (0.3, 0.3, 0.45), ("bricks",))])
        image, depth = parts.render(world_camera, views.intrinsics[row], SIZE)
        there[row] = depth < views.depth[row]
        grays[row][there[row]] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[there[row]]
    return grays, there


@pytest.mark.parametrize("seed", [0, 1])
def test_what_moves_gets_hardly_any_depth_and_what_stands_keeps_it(views: Views, seed: int) -> None:
    """Depth of what moves would be by chance: it fits to some of the images only."""
    grays, there = _with_somebody(views, seed)
    depth, _ = views.found(grays)
    right = np.abs(depth / views.depth[MIDDLE] - 1) < 0.05
    moves = there[MIDDLE]
    print(f"of what moves ({moves.mean():.0%}) {np.isfinite(depth)[moves].mean():.1%} are known, of what stands "
          f"{right[~moves].mean():.1%} are right")
    assert moves.mean() > 0.1
    assert np.isfinite(depth)[moves].mean() < 0.05
    assert right[~moves].mean() > 0.9


def _refined(views: Views, grays: NDArray[np.uint8], factor: float) -> tuple[Map, Map]:
    """Return the relative errors of refined depth, and its relative sigma; the guess is wrong by a factor."""
    exact = 1 / views.depth[MIDDLE]
    guess = (exact * factor).astype(np.float32)
    rho, sigma, _ = refine(grays, views.intrinsics, views.poses, MIDDLE, [0, 1, 3, 4], guess, 0.1 * guess)
    return np.asarray(rho / exact - 1, np.float32), np.asarray(sigma / exact, np.float32)


@pytest.mark.parametrize("factor", [0.97, 1.0, 1.02])
def test_refinement_finds_depth_to_a_fraction_of_a_pixel(views: Views, factor: float) -> None:
    """A guess that is wrong by 3 % is off by up to 1.6 pixels."""
    error, sigma = _refined(views, views.grays, factor)
    certain = sigma < 0.01
    assert certain.mean() > 0.6
    assert np.median(np.abs(error[certain])) < 0.003
    assert (np.abs(error[certain]) < 3 * sigma[certain]).mean() > 0.93


def test_refinement_keeps_the_guess_where_images_say_nothing(views: Views) -> None:
    error, sigma = _refined(views, np.full_like(views.grays, 128), 1.03)
    np.testing.assert_allclose(error, 0.03, atol=1e-5)
    np.testing.assert_allclose(sigma, 0.103, atol=1e-5)


def test_a_neighbor_that_sees_something_else_does_not_count(views: Views) -> None:
    grays = views.grays.copy()
    grays[0] = np.random.default_rng(2).integers(0, 256, grays[0].shape)
    error, sigma = _refined(views, grays, 1.015)
    assert np.median(np.abs(error[sigma < 0.01])) < 0.004


def test_the_sweep_needs_no_first_guess(views: Views) -> None:
    points = views.points @ inverse(views.poses[MIDDLE])[:3, :3].T + inverse(views.poses[MIDDLE])[:3, 3]
    found = sweep(SmallImages(views.grays, views.intrinsics), views.poses,
                  points[[points[:, 2].argmin(), points[:, 2].argmax()]], MIDDLE, [0, 1, 3, 4])
    error = np.abs(found.inverse_depth * views.depth[MIDDLE] - 1)
    assert np.median(error) < 0.015
    assert (error < 0.05).mean() > 0.8


def test_aggregation_fills_a_gap_and_keeps_an_edge() -> None:
    cost = np.ones((8, 20, 30), np.float32)
    cost[2, :, :15] = 0.0
    cost[6, :, 15:] = 0.0
    cost[:, 8:12, 5:9] = 0.5
    image = np.zeros((20, 30), np.float32)
    image[:, 15:] = 200.0
    plane = aggregate(cost, image).argmin(0)
    assert (plane[:, :15] == 2).all() and (plane[:, 15:] == 6).all()


def _one_path(cost: Map, image: Map) -> Map:
    """Aggregate the costs (n, h, w) downward, pixel by pixel, as the formula of semi-global matching says."""
    result = cost.astype(float)
    for row in range(1, cost.shape[1]):
        for column in range(cost.shape[2]):
            before = result[:, row - 1, column]
            jump = float(JUMP_PENALTY) / (1 + abs(float(image[row, column]) - float(image[row - 1, column])) / 8)
            neighbors = np.pad(before, 1, constant_values=np.inf)
            best = np.minimum.reduce([before, np.minimum(neighbors[:-2], neighbors[2:]) + STEP_PENALTY,
                                      np.full(len(before), before.min() + jump)])
            result[:, row, column] += best - before.min()
    return result


def test_aggregation_is_that_of_the_formula() -> None:
    random = np.random.default_rng(0)
    cost, image = random.random((6, 9, 7), np.float32), random.uniform(0, 60, (9, 7)).astype(np.float32)
    total = np.zeros(cost.shape)
    for turns in range(4):  # each of the four paths goes downward in an image that is turned
        total += np.rot90(_one_path(np.rot90(cost, turns, (1, 2)), np.rot90(image, turns)), -turns, (1, 2))
    np.testing.assert_allclose(aggregate(cost, image), total / 4, atol=2e-3)  # in 16 bits


@pytest.mark.parametrize("moves", [[(3, True), (-2, False)], [(4, True), (-5, True), (2, False)], [(6, True)]])
def test_the_cost_is_by_the_neighbors_that_see_the_pixel(moves: list[tuple[int, bool]]) -> None:
    """Neighbors whose pixels are shifted by whole columns, against sums over slices of the images."""
    random = np.random.default_rng(1)
    image, *others = random.uniform(0, 255, (1 + len(moves), 16, 24)).astype(np.float32)
    own = _Texture(image)
    products, counts = np.zeros((2, *image.shape), np.float32), np.zeros((2, *image.shape))
    for other, (move, side) in zip(others, moves, strict=True):
        texture = _Texture(other)
        seen, there = slice(max(0, -move), 24 - max(0, move)), slice(max(0, move), 24 - max(0, -move))
        products[int(side), :, seen] += own.detail[:, seen] * texture.detail[:, there] * texture.scale[:, there]
        counts[int(side), :, seen] += 1
    by_side = [np.where(count > 0, (1 - cv2.blur(product, (5, 5)) * own.scale / np.maximum(count, 1)) / 2, np.inf)
               for product, count in zip(products, counts, strict=True)]
    costs = _Costs(own, [_Neighbor(_Texture(other), np.eye(3), np.array([2.0 * move, 0, 0]), side)
                         for other, (move, side) in zip(others, moves, strict=True)])
    found = np.empty_like(image)
    for _ in range(2):  # nothing is left of an earlier plane
        costs.at(0.5, found)
    np.testing.assert_allclose(found, np.minimum(*by_side), atol=1e-5)


def test_neighbors_on_one_side_are_divided_by_their_distance() -> None:
    assert _one_side(4, [2, 3, 5, 7]) == {2, 3}
    assert _one_side(7, [2, 3, 5, 6]) == {5, 6} and _one_side(0, [3, 1, 2]) == {1, 2}


def test_sparse_points_decide_where_images_say_nothing() -> None:
    cost, planes = np.full((8, 20, 30), 0.5, np.float32), np.linspace(0.1, 0.8, 8)
    matrix = np.array([[20.0, 0, 14.5], [0, 20.0, 9.5], [0, 0, 1]])
    _guide(cost, np.array([[0.02, 0.01, 2.0], [-9.0, 0.0, 2.0], [0.0, 0.0, -2.0]]), matrix, planes)
    assert (cost != 0.5).any(0).sum() == 1
    assert (aggregate(cost, np.zeros((20, 30), np.float32)).argmin(0)[8:12, 10:20] == 4).any()


def test_a_rolling_shutter_and_a_distortion_are_undone_and_done_again() -> None:
    matrix, readout, full = pinhole(*SIZE), 0.03, (640, 480)
    x, y = np.meshgrid(np.arange(SIZE[0], dtype=np.float32), np.arange(SIZE[1], dtype=np.float32))
    velocity = np.zeros((*GRID, 2))
    velocity[..., 0] = 400.0
    shutter = PinholeImages(matrix, SIZE, 0.0, readout, [velocity], full)
    shift = 0.5 * 400.0 * readout * ((y + 0.5) / SIZE[1] - 0.5)
    np.testing.assert_allclose(shutter.forward(x[None])[0][:, 20:-20], (x + shift)[:, 20:-20], atol=0.05)
    for images in (shutter, PinholeImages(matrix, SIZE, -0.04, readout, [velocity], full)):
        again = images.backward(images.forward(x[None]), 0, cv2.INTER_LINEAR)[0]
        np.testing.assert_allclose(again[20:-20, 20:-20], x[20:-20, 20:-20], atol=0.1)
    still = PinholeImages(matrix, SIZE, 0.0, readout, [np.zeros((*GRID, 2))], full)
    np.testing.assert_array_equal(still.forward(x[None]), x[None])

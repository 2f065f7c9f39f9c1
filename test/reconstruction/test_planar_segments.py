"""Planes in parts of an image without texture: walls get their depth, what is in front of them or round does not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vggt_ros.reconstruction.multiview.dense.depth import dense_depth
from vggt_ros.reconstruction.multiview.dense.planar_segments import with_planes
from vggt_ros.synthetic import pinhole
from vggt_ros.synthetic.scene import Face, Scene

SIZE, MIDDLE = (320, 240), 3
FOCAL = pinhole(*SIZE)


def texture(height: int, width: int, plain: tuple[slice, slice] | None = None) -> NDArray[np.uint8]:
    """Return a random texture with blobs of several sizes, of one color in a part."""
    rng = np.random.default_rng(0)
    image = sum(cv2.resize(rng.uniform(-60, 60, (height // n, width // n, 3)), (width, height)) for n in (4, 12, 40))
    image = np.clip(128 + image, 0, 255).astype(np.uint8)
    if plain is not None:
        image[plain] = 150
    return image


def found(faces: list[Face]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return dense depth, its sigma and the exact depth of the middle one of seven views, which move to the right."""
    scene, poses = Scene(faces), np.tile(np.eye(4), (7, 1, 1))
    poses[:, 0, 3] = np.linspace(-0.3, 0.3, 7)
    rendered = [scene.render(pose, FOCAL, SIZE) for pose in poses]
    grays = np.array([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image, _ in rendered])
    exact = rendered[MIDDLE][1]
    x, y = (n.ravel() for n in np.meshgrid(np.arange(6, 320, 22), np.arange(6, 240, 22)))
    textured = np.hypot(*np.gradient(cv2.GaussianBlur(grays[MIDDLE], (0, 0), 2).astype(float)))[y, x] > 2
    x, y = x[textured], y[textured]
    points = np.linalg.solve(FOCAL, np.stack([x, y, np.ones(len(x))]).astype(float)).T * exact[y, x, None]
    visible = np.ones((len(points), len(poses)), bool)
    depth, sigma = dense_depth(grays, np.tile(FOCAL, (len(poses), 1, 1)), poses, points, visible, [MIDDLE])
    return depth[MIDDLE], sigma[MIDDLE], exact


def wall(plain: tuple[slice, slice] | None) -> Face:
    """Return a wall that goes from 1.6 m on the left of the image to 3.8 m on its right."""
    right, down = np.array([5.0, 0, 2.8]), np.array([0, 4.0, 0])
    return Face(np.array([-1.8, -2.0, 1.2]), right, down, texture(560, 800, plain))


def test_a_plain_part_of_a_wall_gets_the_depth_of_the_wall() -> None:
    """It is a third of the image, slanted, and says nothing itself."""
    depth, sigma, exact = found([wall((slice(180, 400), slice(190, 430)))])
    gray = Scene([wall((slice(180, 400), slice(190, 430)))]).render(np.eye(4), FOCAL, SIZE)[0]
    plain = cv2.erode((np.abs(gray.astype(int) - 150).max(2) < 3).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert plain.mean() > 0.2
    error = np.abs(depth / exact - 1)[plain]
    assert np.isfinite(error).mean() > 0.98
    assert np.nanmedian(error) < 0.005 and np.nanpercentile(error, 95) < 0.015
    assert (error < 2 * sigma[plain]).mean() > 0.95


def test_a_plain_board_in_front_of_a_wall_does_not_get_the_depth_of_the_wall() -> None:
    """Only its outline says where it is, and there is more texture on the wall beside it. Most of it stays unknown."""
    board = Face(np.array([-0.4, -0.35, 1.4]), np.array([0.8, 0, 0]), np.array([0, 0.7, 0]),
                 np.full((70, 80, 3), 150, np.uint8))
    depth, _, exact = found([wall(None), board])
    inside = cv2.erode((np.abs(exact - 1.4) < 1e-3).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert inside.mean() > 0.15
    assert (np.nan_to_num(np.abs(depth / exact - 1))[inside] > 0.05).mean() < 0.3  # without the check it is all of it


def exact_and_noisy(depth: NDArray[np.float64], plain: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], ...]:
    """Return an image that has no texture where `plain`, inverse depth with noise of 1 %, and its sigma."""
    gray = texture(*depth.shape)[..., 0]
    gray[plain] = 120
    rng = np.random.default_rng(3)
    rho = (1 / depth * np.exp(0.01 * cv2.GaussianBlur(rng.normal(0, 5, depth.shape), (0, 0), 2.0))).astype(np.float32)
    inner = cv2.erode(plain.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return gray, np.where(inner, 0, rho).astype(np.float32), np.where(inner, np.inf, 0.01 * rho).astype(np.float32)


def plain_part() -> NDArray[np.bool_]:
    plain = np.zeros(SIZE[::-1], bool)
    plain[60:180, 80:240] = True
    return plain


@pytest.mark.parametrize("seed", range(3))
def test_a_plane_is_found_by_its_border_with_an_honest_sigma(seed: int) -> None:
    a, b, c = np.random.default_rng(seed).uniform([-0.2, -0.2, 0.5], [0.2, 0.2, 0.8])
    rows, columns = np.mgrid[:240, :320]
    depth = 1 / (c + a * columns / 320 + b * rows / 240)
    plain = plain_part()
    gray, rho, sigma = exact_and_noisy(depth, plain)
    filled, its_sigma = with_planes(gray, rho, sigma, [])
    known = plain & np.isfinite(its_sigma)
    assert known.sum() > 0.99 * plain.sum()
    error = np.abs(filled * depth - 1)[known]
    assert error.max() < 0.03 and (error < 2 * (its_sigma * depth)[known]).mean() > 0.95
    outside = cv2.dilate(plain.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    assert np.array_equal(filled[outside], rho[outside])


def test_what_is_round_stays_unknown() -> None:
    """A column of the diameter of the part: its border is on no plane, though its left and right edge alone are."""
    rows, columns = np.mgrid[:240, :320]
    depth = 2.0 - 0.5 * np.sqrt(np.clip(1 - ((columns - 160) / 90) ** 2, 0, None)) + 0 * rows
    gray, rho, sigma = exact_and_noisy(depth, plain_part())
    assert not np.isfinite(with_planes(gray, rho, sigma, [])[1][100:140, 120:200]).any()


def test_depth_inside_that_contradicts_the_plane_is_kept() -> None:
    """A bump of known depth in the middle of a plain wall."""
    plain = plain_part()
    gray, rho, sigma = exact_and_noisy(np.full((240, 320), 2.0), plain)
    inner = np.zeros_like(plain)
    inner[90:150, 120:200] = True
    rho[inner], sigma[inner] = 1 / 1.5, 0.03 / 1.5
    filled, its_sigma = with_planes(gray, rho, sigma, [])
    assert np.array_equal(filled[inner], rho[inner]) and np.array_equal(its_sigma[inner], sigma[inner])


def test_a_plane_counts_less_far_from_what_supports_it() -> None:
    """Only the left border of the part is known."""
    gray, rho, sigma = exact_and_noisy(np.full((240, 320), 2.0), plain_part())
    sigma[:, 82:], rho[:, 82:] = np.inf, 0
    _, its_sigma = with_planes(gray, rho, sigma, [])
    near, far = its_sigma[100:140, 84:90], its_sigma[100:140, 200:]
    assert not np.isfinite(far).any() and np.nanmean(np.where(np.isfinite(near), near, 1)) > 0.01

"""Self-calibration: the camera that all images of a map share, in a sparse bundle adjustment."""

from dataclasses import replace

import numpy as np
import pytest

from vggt_ros.geometry.poses import so3_exp
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions
from vggt_ros.reconstruction.adjustment.shared_camera import PARAMETERS, SharedCamera
from vggt_ros.reconstruction.adjustment.sparse_bundle import (
    Observations,
    SparseScene,
    adjust_sparse,
    residuals,
)

CALIBRATED = SharedCamera(np.array([400.0, 402.0]), np.zeros(2), -0.01, 0.015)
TRUE = np.array([0.008, 2.5, -1.5, -0.012, 0.004])
"""What the camera is beside its calibration."""
SIGMAS = np.array([0.01, 4.0, 4.0, 0.02, 0.005])


def test_derivatives_are_those_of_finite_differences():
    rng = np.random.default_rng(0)
    pixels, rate = rng.uniform(-150, 150, (50, 2)), rng.uniform(-300, 300, (50, 2))
    directions = rng.uniform(-0.4, 0.4, (50, 2))

    def error(camera):
        return directions * camera.focal - camera.pinhole(pixels, rate)

    found = CALIBRATED.derivatives(directions * CALIBRATED.focal, pixels, rate)
    for row, step in enumerate(np.diag([1e-5, 1e-3, 1e-3, 1e-5, 1e-6])):
        numeric = (error(CALIBRATED.moved(step)) - error(CALIBRATED.moved(-step))) / (2 * step[row])
        np.testing.assert_allclose(found[:, :, row], numeric, rtol=0.02, atol=0.01 * np.abs(numeric).max())


def test_a_step_is_the_difference():
    np.testing.assert_allclose(CALIBRATED.moved(TRUE).difference(CALIBRATED), TRUE, atol=1e-12)


@pytest.fixture(scope="module")
def path():
    """A camera that turns in a bend past a cloud of points: what it shows, exact, and its scene."""
    rng = np.random.default_rng(2)
    camera, points = CALIBRATED.moved(TRUE), rng.uniform([-6, -2, 2], [8, 2, 12], (900, 3))
    turns = np.array([so3_exp(np.array([0.05 * np.sin(0.9 * k), -0.04 * k, 0.04 * np.cos(k)])) for k in range(24)])
    centers = np.array([[0.2 * k, 0.1 * np.sin(k), 0.15 * k] for k in range(24)])
    translation = -np.einsum("kij,kj->ki", turns, centers)
    images, seen, pixels, rates = [], [], [], []
    for k in range(24):
        local = points @ turns[k].T + translation[k]
        ideal = local[:, :2] / local[:, 2:] * camera.focal
        inside = np.flatnonzero((local[:, 2] > 1) & (np.abs(ideal) < (300, 220)).all(1))
        rate = np.stack([250 * np.sin(k + ideal[inside, 1] / 80), 200 * np.cos(2 * k + ideal[inside, 0] / 90)], 1)
        observed = ideal[inside]
        for _ in range(30):  # the inverse of the correction
            square = ((observed / camera.focal) ** 2).sum(1, keepdims=True)
            observed = ideal[inside] / (1 + camera.radial * square)
        images.append(np.full(len(inside), k))
        seen.append(inside)
        pixels.append(observed + camera.center + camera.readout * rate)
        rates.append(rate)
    order = np.argsort(np.concatenate(seen), kind="stable")
    image, pixel, rate = (np.concatenate(part)[order] for part in (images, pixels, rates))
    rows, point = np.unique(np.concatenate(seen)[order], return_inverse=True)
    return SparseScene(turns, translation, points[rows], camera), Observations(image, point, pixel, rate)


def test_the_observations_of_the_path_are_exact(path):
    assert np.abs(residuals(*path)).max() < 1e-6


def test_a_wrong_calibration_is_found_by_a_bend(path):
    true, seen = path
    noisy = replace(seen, pixels=seen.pixels + np.random.default_rng(3).normal(0, 0.1, seen.pixels.shape))
    start = replace(true, camera=CALIBRATED)
    options = AdjustmentOptions(50, 1e-7)
    kept = adjust_sparse(start, noisy, options, np.zeros(PARAMETERS))
    found = adjust_sparse(start, noisy, options, SIGMAS)
    assert not kept.camera.difference(CALIBRATED).any()
    assert (np.abs(found.camera.difference(CALIBRATED) - TRUE) < (0.002, 0.4, 0.4, 0.002, 0.0005)).all()

    def bend(scene):  # of the whole path, by the turns alone
        return np.degrees(np.arccos((np.trace(scene.rotation[-1] @ true.rotation[-1].T) - 1) / 2))

    assert bend(kept) > 0.3 and bend(found) < 0.1

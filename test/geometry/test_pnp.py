"""Poses from points that do not determine one: there is no pose, and never an exception."""

from __future__ import annotations

import numpy as np
import pytest

from vggt_ros.geometry.pnp import pnp_ransac, refine_pose
from vggt_ros.geometry.poses import pose, so3_exp

K = np.array([[250.0, 0, 159.5], [0, 250.0, 119.5], [0, 0, 1]])


def degenerate(kind, rng, count=30):
    points = rng.normal(size=(count, 3)) + (0, 0, 4)
    pixels = rng.uniform(0, 300, (count, 2))
    camera = pose(so3_exp(rng.normal(size=3)), rng.normal(size=3))
    if kind == "one point":
        points[:] = points[0]
    if kind == "a line":
        points = points[:1] + np.linspace(0, 1, count)[:, None] * (points[1:2] - points[:1])
    if kind == "at the camera":
        points[:] = camera[:3, 3]
    if kind == "behind the camera":
        points = camera[:3, 3] - (1 + rng.random((count, 1))) * camera[:3, 2]
    if kind == "grazing":  # close to the plane of the camera, where pixels are at infinity
        points = camera[:3, 3] + (rng.normal(size=(count, 3)) * (1, 1, 1e-5)) @ camera[:3, :3].T
    if kind == "far":
        points = points * 10.0 ** rng.uniform(6, 150)
    if kind == "huge pixels":
        pixels = pixels * 1e200
    return camera, points, pixels


KINDS = ("random", "one point", "a line", "at the camera", "behind the camera", "grazing", "far", "huge pixels")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_points_that_determine_no_pose_give_none(kind):
    rng = np.random.default_rng(1)
    for _ in range(60):
        camera, points, pixels = degenerate(kind, rng)
        found, covariance, inliers = refine_pose(camera, points, pixels, K, 1.5)
        assert np.isfinite(found).all()
        assert np.isfinite(covariance).all()
        assert np.abs(found[:3, :3] @ found[:3, :3].T - np.eye(3)).max() < 1e-6
        assert kind in ("one point", "a line") or inliers.sum() < 15
        assert pnp_ransac(points, np.clip(pixels, 0, 1e6), K, 1.5) is None or kind != "at the camera"

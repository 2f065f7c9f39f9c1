"""Poses of images of a rolling shutter: a camera that turns while its rows are read out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vggt_ros.config import TrackingConfig
from vggt_ros.features.tracks import FeatureTracks
from vggt_ros.geometry.poses import Array, rotation_angle, so3_exp
from vggt_ros.odometry.tracker import Tracker

K = np.array([[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]])
HEIGHT, READOUT, PERIOD = 480, 0.03, 1 / 30


def orientation(seconds: float, axis: Array) -> Array:
    """Return the orientation (3, 3) of a camera that turns faster and faster about an axis."""
    return so3_exp(axis * (0.5 * seconds + 1.0 * seconds**2))


def pixels_at(points: Array, seconds: float, axis: Array) -> Array:
    """Return the pixels (n, 2) of points in the image whose middle row is read out at a time."""
    pixels = np.full((len(points), 2), HEIGHT / 2)
    for _ in range(20):
        for row, point in enumerate(points):
            ray = orientation(seconds + READOUT * (pixels[row, 1] / HEIGHT - 0.5), axis).T @ point
            pixels[row] = (K @ ray)[:2] / ray[2]
    return pixels


@pytest.mark.parametrize("axis", [np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), np.array([0.3, -0.2, 0.9])])
def test_pose_of_a_turning_camera(axis: Array) -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-0.5, 0.5, (60, 2)), np.ones(60)]) * rng.uniform(1.0, 4.0, (60, 1))
    before, middle, newest = (pixels_at(points, index * PERIOD, axis) for index in (-2, -1, 0))
    errors = []
    for readout in (0.0, READOUT):
        tracker, tracks = Tracker(TrackingConfig()), tracked(before, middle, newest)
        tracker.readout = readout
        tracker.landmarks.replace(tracks.ids, points, 0)
        located = tracker._locate_by_landmarks(tracks, K, (HEIGHT, 640))
        assert located is not None
        errors.append((np.degrees(rotation_angle(located.map_camera[:3, :3])),
                       np.linalg.norm(located.map_camera[:3, 3])))
    assert errors[1][0] < 0.25 * errors[0][0] and errors[1][0] < 0.1
    assert errors[1][1] < 0.25 * errors[0][1]


def test_new_tracks_move_as_the_others() -> None:
    places = np.array([[100.0, 120.0], [200.0, 240.0], [300.0, 360.0]])
    tracks = tracked(places, places + [10, 0], places + [20, 0])
    tracks.motions[2] = np.nan
    velocity = 10 / PERIOD
    expected = READOUT * velocity * np.array([-0.25, 0.0, 0.25])
    np.testing.assert_allclose(tracks.row_shifts(READOUT), np.column_stack([expected, np.zeros(3)]), atol=1e-3)
    assert not tracks.row_shifts(0.0).any()


def tracked(before: Array, middle: Array, newest: Array) -> FeatureTracks:
    """Return tracks through three images."""
    tracks = FeatureTracks(500)
    gray: NDArray[np.uint8] = np.zeros((HEIGHT, 640), np.uint8)
    for index in range(3):
        tracks.advance(gray, stamp=round((index + 1) * PERIOD * 1e9))
    tracks.append(newest.astype(np.float32))
    tracks.motions = np.stack([newest - middle, middle - before], 1).astype(np.float32)
    return tracks

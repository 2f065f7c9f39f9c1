"""Keyframes that are matched by features: what one missed is linked over it, by parallax only."""

import numpy as np
import pytest

from vggt_ros.geometry.poses import so3_exp
from vggt_ros.images.sift import SiftFeatures
from vggt_ros.reconstruction.multiview.matching.features import Features
from vggt_ros.reconstruction.multiview.matching.tracks import track
from vggt_ros.windows.keyframe import Keyframe

SIZE, MATRIX = (640, 480), np.array([[500.0, 0, 320], [0, 500.0, 240], [0, 0, 1]])


def views_of(points, turn, step, noise=0.5):
    """Three views of points (n, 3), each turned and moved on; the second does not see every third of the points."""
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(len(points), 128)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    blank, views = np.full(SIZE[::-1], 128, np.uint8), []
    for number in range(3):
        local = (points - number * np.array(step)) @ so3_exp(number * np.array(turn))
        pixels = (local @ MATRIX.T)[:, :2] / local[:, 2:] + rng.normal(0, noise, (len(points), 2))
        seen = (pixels > 0).all(1) & (pixels < SIZE).all(1) & ((number != 1) | (np.arange(len(points)) % 3 > 0))
        views.append(Features(blank, blank[::8, ::8], np.zeros((0, 2), np.float32), MATRIX))
        vars(views[-1])["sift"] = SiftFeatures(pixels[seen].astype(np.float32), descriptors[seen])
    return views


@pytest.mark.parametrize(("relief", "turn", "step", "linked"), [
    (0.0, (0.0, 0.1, 0.0), (-0.4, 0.0, 0.0), True),  # along a facade: a homography, but no rotation
    (1.0, (0.0, 0.1, 0.0), (-0.4, 0.0, 0.0), True),
    (0.0, (0.0, 0.15, 0.1), (0.0, 0.0, 0.0), False),  # on the spot
    (1.0, (0.0, 0.15, 0.1), (0.01, 0.0, 0.0), False),
])
def test_what_a_keyframe_missed_is_linked_over_it_if_there_is_parallax(relief, turn, step, linked):
    rng = np.random.default_rng(1)
    points = np.column_stack([rng.uniform(-4, 4, 600), rng.uniform(-2, 2, 600), 5 + relief * rng.uniform(-1, 1, 600)])
    keyframes = [Keyframe(i, i * 10**9, np.zeros((1, 1, 3), np.uint8), MATRIX, True) for i in range(3)]
    observed = ~np.isnan(track(views_of(points, turn, step), keyframes)[..., 0])
    over = (observed == [True, False, True]).all(1).sum()
    assert observed.all(1).sum() > 100
    assert over > 50 if linked else over == 0

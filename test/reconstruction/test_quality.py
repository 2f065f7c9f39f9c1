"""Which solutions of a window are accepted: exact geometry with wrong tracks, and a keyframe with a wrong pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from window_shape import cameras_of, shape_error

from vggt_ros.config import Config
from vggt_ros.geometry.poses import so3_exp
from vggt_ros.reconstruction.adjustment.bundle import Scene
from vggt_ros.reconstruction.adjustment.lens import Lens
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.multiview.matching.tracks import track
from vggt_ros.reconstruction.multiview.matching.views import Measurements, View
from vggt_ros.reconstruction.multiview.settings import MultiviewConfig
from vggt_ros.reconstruction.multiview.sfm.quality import check_quality, refine_solution
from vggt_ros.reconstruction.multiview.sfm.selection import solve_window
from vggt_ros.synthetic import orbit, pinhole, room
from vggt_ros.windows.keyframe import Keyframe

Array = NDArray[np.float64]
SIZE = (480, 360)


def solution(step: float, right: int, points: int = 200) -> tuple[SparseReconstruction, NDArray[np.bool_]]:
    """Return a scene of six cameras `step` apart, at depths of 2 to 6, and all observations, of which many are wrong.

    The first `right` points are seen rightly by all cameras.
    """
    rng = np.random.default_rng(0)
    rotation = np.tile(np.eye(3), (6, 1, 1))
    translation = np.array([[-step * i, 0.0, 0.0] for i in range(6)])
    scene = Scene(rotation, translation, rng.uniform([-1, -1, 2], [1, 1, 6], (points, 3)), np.full((6, 2), 400.0))
    observations = scene.residuals(np.zeros((points, 6, 2)))
    inliers = np.zeros((points, 6), bool)
    inliers[:right] = True
    return SparseReconstruction(scene, np.ones(6, bool), inliers, observations, (0, 5)), np.ones((points, 6), bool)


@pytest.mark.parametrize(("step", "right", "agreeing", "accepted"), [
    (0.2, 80, 1, True),  # wide angles, 40 % right, found twice
    (0.2, 80, 0, False),  # found once only
    (0.2, 50, 1, False),  # 25 % right
    (0.01, 80, 1, False),  # narrow angles: what moves agrees as well
    (0.01, 110, 1, True),  # most are right
])
def test_a_solution_of_wide_steps_needs_fewer_inliers(step: float, right: int, agreeing: int, accepted: bool) -> None:
    solved, tracked = solution(step, right)
    if accepted:
        assert check_quality(solved, tracked, 20.0, 1, agreeing).inlier_ratio == pytest.approx(right / 200)
    else:
        with pytest.raises(ReconstructionRefused, match="of the observations are inliers"):
            check_quality(solved, tracked, 20.0, 1, agreeing)


@pytest.mark.parametrize(("error", "accepted"), [(0.0, True), (8.0, False)])
def test_tracks_that_came_into_view_by_a_turn_are_no_outliers_if_their_directions_agree(error, accepted):
    """30 % of the tracks see known points, 70 % have no parallax."""
    solved, tracked = solution(0.01, 60)
    far = solved.scene.points * np.where(np.arange(200) < 60, 1.0, 1e4)[:, None]
    observations = replace(solved.scene, points=far).residuals(np.zeros((200, 6, 2)))
    observations[60:] += np.random.default_rng(3).uniform(-error, error, (140, 6, 2))
    turned = replace(solved, observations=observations)
    with pytest.raises(ReconstructionRefused, match="only 30% of the observations are inliers"):
        check_quality(turned, tracked, 20.0, 1, 1)  # no local map: nothing says that the turn is right
    if accepted:
        assert check_quality(turned, tracked, 0.0, 0, 0, continued=True).inlier_ratio == pytest.approx(1.0)
    else:
        with pytest.raises(ReconstructionRefused, match="of the observations are inliers"):
            check_quality(turned, tracked, 0.0, 0, 0, continued=True)


def test_every_keyframe_of_such_a_solution_has_to_be_supported() -> None:
    solved, tracked = solution(0.2, 80)
    solved.inliers[30:, 3] = False
    with pytest.raises(ReconstructionRefused, match="of the observations are inliers"):
        check_quality(solved, tracked, 20.0, 1, 1)


def test_a_keyframe_whose_pose_is_wrong_is_left_out() -> None:
    scene, matrix = room(), pinhole(*SIZE)
    poses = orbit(60)[::3][:7]
    keyframes = [Keyframe(i, i * 10**8, scene.render(pose, matrix, SIZE)[0], matrix, True)
                 for i, pose in enumerate(poses)]
    views = [View.of(keyframe, Config().of(MultiviewConfig).corners) for keyframe in keyframes]
    tracks = track([view.features for view in views], keyframes)
    measured, solved, _, _ = solve_window(Measurements(views, tracks, 0.0, Lens()), seed=0)
    wrong = np.random.default_rng(1).random(len(tracks)) < 0.9
    tracks[wrong, 6] += np.random.default_rng(2).uniform(-60, 60, (wrong.sum(), 2))
    rotation = solved.scene.rotation.copy()
    rotation[6] = so3_exp(np.array([0.0, 0.5, 0.3])) @ rotation[6]
    begin = replace(solved, scene=replace(solved.scene, rotation=rotation))
    refined, _ = refine_solution(begin, replace(measured, tracks=tracks), 0)
    assert refined.registered.tolist() == [True] * 6 + [False]
    assert not refined.inliers[:, 6].any()
    assert shape_error(cameras_of(refined.scene)[:6], poses[:6])[0] < 0.005

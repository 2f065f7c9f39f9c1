"""The tracker against exact landmarks, and feature tracks and keyframe selection."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from scenes import SIZE, lap

from vggt_ros.config import KeyframeConfig
from vggt_ros.features.tracks import FeatureTracks
from vggt_ros.geometry.pnp import refine_pose
from vggt_ros.geometry.poses import inverse, pose, rotation_angle, so3_exp, so3_log
from vggt_ros.odometry.keyframe_selection import KeyframeSelector
from vggt_ros.synthetic import pinhole, room, turn

INTRINSICS = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])


def observed_points(rng, count=100, sigma=0.0):
    """Return a camera, points in front of it, and their pixels with noise of `sigma` pixels."""
    camera = pose(so3_exp(np.array([0.2, -0.3, 0.5])), np.array([1.0, 2.0, -1.0]))
    local = np.column_stack([rng.uniform(-1.5, 1.5, (count, 2)), rng.uniform(2, 6, count)])
    pixels = local[:, :2] / local[:, 2:] * 500 + [320, 240] + sigma * rng.standard_normal((count, 2))
    return camera, local @ camera[:3, :3].T + camera[:3, 3], pixels


def test_refinement_is_exact_and_ignores_outliers():
    """From a guess that is 3 degrees and 20 cm off, with a fifth of the pixels wrong."""
    rng = np.random.default_rng(0)
    camera, points, pixels = observed_points(rng)
    pixels[:20] += rng.uniform(30, 60, (20, 2))
    guess = camera @ pose(so3_exp(np.array([0.03, -0.03, 0.03])), np.array([0.02, -0.02, 0.02]))
    found, covariance, inliers = refine_pose(guess, points, pixels, INTRINSICS, 60.0)
    found, covariance, inliers = refine_pose(found, points, pixels, INTRINSICS, 3.0)
    assert np.allclose(found, camera, atol=1e-5)
    assert not inliers[:20].any()
    assert inliers[20:].all()
    assert np.allclose(covariance, covariance.T)


def test_refinement_does_not_creep():
    """From 3 degrees and 3 cm off, the motion between two images, it converges to the same pose as from the truth.

    With noise of a pixel, and a fifth of outliers; 0.0001 rad move a pixel by 0.05 px.
    """
    for seed in range(5):
        rng = np.random.default_rng(seed)
        camera, points, pixels = observed_points(rng, sigma=1.0)
        pixels[:20] += rng.uniform(30, 60, (20, 2))
        away = camera @ pose(so3_exp(np.array([0.03, -0.03, 0.03])), np.array([0.02, -0.02, 0.02]))
        near, far = (refine_pose(guess, points, pixels, INTRINSICS, 3.0)[0] for guess in (camera, away))
        assert rotation_angle(near[:3, :3].T @ far[:3, :3]) < 1e-4
        assert np.linalg.norm(near[:3, 3] - far[:3, 3]) < 3e-4


def test_the_covariance_of_the_pose_is_consistent():
    """The normalized error over seeds is consistent with a chi-square of six degrees of freedom."""
    squares = []
    for seed in range(80):
        camera, points, pixels = observed_points(np.random.default_rng(seed), 60, 0.5)
        found, covariance, _ = refine_pose(camera, points, pixels, INTRINSICS, 5.0)
        error = inverse(camera) @ found
        vector = np.concatenate([so3_log(error[:3, :3]), error[:3, 3]])
        squares.append(vector @ np.linalg.solve(covariance, vector))
    assert 0.6 * 6 < np.mean(squares) < 1.8 * 6


def test_tracks_follow_the_scene():
    """After ten frames the tracked corners are where the rendered depth predicts them."""
    sequence = lap()
    tracks = FeatureTracks(200)
    grays = [cv2.cvtColor(f.image, cv2.COLOR_RGB2GRAY) for f in sequence.frames[20:31]]
    tracks.advance(grays[0])
    tracks.replenish()
    ids, before = tracks.ids.copy(), tracks.pixels.copy()
    for gray in grays[1:]:
        tracks.advance(gray)
    kept = np.isin(ids, tracks.ids)
    assert kept.sum() > 50
    first, last, intrinsics = sequence.world_camera[20], sequence.world_camera[30], sequence.frames[0].intrinsics
    columns, rows = np.rint(before[kept]).astype(int).T
    depth = room().depth(first, intrinsics, SIZE)[rows, columns]
    rays = np.linalg.solve(intrinsics, np.column_stack([before[kept], np.ones(kept.sum())]).T).T
    world = rays * depth[:, None] @ first[:3, :3].T + first[:3, 3]
    local = (world - last[:3, 3]) @ last[:3, :3]
    expected = local[:, :2] / local[:, 2:] * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]
    assert np.median(np.linalg.norm(expected - tracks.pixels[np.isin(tracks.ids, ids)], axis=1)) < 0.5


def test_new_corners_are_detected_away_from_the_old_ones():
    """Detection fills up to the requested number, and ids are never reused."""
    gray = cv2.cvtColor(lap().frames[0].image, cv2.COLOR_RGB2GRAY)
    tracks = FeatureTracks(150)
    tracks.advance(gray)
    tracks.replenish()
    first = tracks.ids.copy()
    tracks.ids, tracks.pixels = tracks.ids[::2], tracks.pixels[::2]
    tracks.replenish()
    assert len(tracks.ids) <= 150
    assert not set(tracks.ids[len(first[::2]):].tolist()) & set(first.tolist())
    distance = np.linalg.norm(tracks.pixels[:, None] - tracks.pixels[None], axis=2)
    assert distance[~np.eye(len(tracks.ids), dtype=bool)].min() > 4


def test_weak_corners_are_tracked_where_there_are_few_strong_ones():
    """On a plain floor all around twelve checkers, whose middles are strong corners."""
    rng = np.random.default_rng(0)
    plain = cv2.GaussianBlur(rng.normal(0, 1, (480, 640)).astype(np.float32), (0, 0), 1.5)
    floor = np.clip(120 + 6 * plain / plain.std(), 0, 255).astype(np.uint8)
    for x in range(60, 640, 150):
        for y in range(60, 480, 150):
            floor[y:y + 16, x:x + 16] = 255 * ((np.indices((16, 16)) // 8).sum(0) % 2)
    tracks = FeatureTracks(500)
    tracks.advance(floor)
    tracks.replenish()
    on_checkers = ((tracks.pixels - 55) % 150 < 27).all(1)
    assert len(tracks.ids) > 200 and on_checkers.sum() >= 12
    enough = FeatureTracks(40)  # 12 of 40 are not few
    enough.advance(floor)
    enough.replenish()
    assert len(enough.ids) == 12


def test_tracks_are_cleared_when_the_image_size_changes():
    """Nothing is tracked across a change of size, and nothing crashes."""
    tracks = FeatureTracks(100)
    gray = cv2.cvtColor(lap().frames[0].image, cv2.COLOR_RGB2GRAY)
    tracks.advance(gray)
    tracks.replenish()
    tracks.advance(np.ascontiguousarray(gray[:100, :100]))
    assert len(tracks.ids) == 0


def test_a_camera_on_its_side_makes_as_many_keyframes():
    """Thresholds in pixels refer to the longer side of the image."""
    counts = []
    for turns in (0, 1):
        tracks, selector, count = FeatureTracks(300), KeyframeSelector(KeyframeConfig()), 0
        for frame in lap().frames[:40]:
            gray = np.ascontiguousarray(np.rot90(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), turns))
            tracks.advance(gray)
            if selector.needs_keyframe(tracks, gray.shape):
                tracks.replenish()
                selector.set_keyframe(tracks)
                count += 1
        counts.append(count)
    assert counts[0] == pytest.approx(counts[1], abs=1) and counts[0] > 8


@pytest.mark.parametrize("parallax", [12.0, 24.0, 48.0])
def test_keyframes_are_spaced_by_parallax(parallax):
    """Twice the parallax, about half the keyframes; a camera at rest makes one."""
    sequence, counts = lap(), []
    for frames in (sequence.frames, sequence.frames[:1] * 30):
        tracks, selector, count = FeatureTracks(300), KeyframeSelector(KeyframeConfig(min_parallax=parallax)), 0
        for frame in frames:
            tracks.advance(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY))
            if selector.needs_keyframe(tracks, SIZE[::-1]):
                tracks.replenish()
                selector.set_keyframe(tracks)
                count += 1
        counts.append(count)
    assert counts[1] == 1
    assert counts[0] == pytest.approx(43 * 24 / parallax, rel=0.45)


def test_a_fast_rotation_makes_keyframes_before_the_view_is_lost():
    """More than 40 % of the tracks lost: a keyframe, although the remaining corners may not have moved enough."""
    scene, intrinsics = room(), pinhole(*SIZE)
    poses = turn(12, degrees=120)
    tracks = FeatureTracks(300)
    selector = KeyframeSelector(KeyframeConfig(min_parallax=200.0))
    accepted = []
    for i, p in enumerate(poses):
        tracks.advance(cv2.cvtColor(scene.render(p, intrinsics, SIZE)[0], cv2.COLOR_RGB2GRAY))
        if selector.needs_keyframe(tracks, SIZE[::-1]):
            tracks.replenish()
            selector.set_keyframe(tracks)
            accepted.append(i)
    gaps = [np.degrees(rotation_angle(poses[a][:3, :3].T @ poses[b][:3, :3]))
            for a, b in pairwise(accepted)]
    assert len(accepted) > 3
    assert max(gaps) < 45

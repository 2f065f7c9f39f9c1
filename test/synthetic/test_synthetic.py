from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from vggt_ros.geometry.poses import inverse, rotation_angle
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.synthetic import OracleNoise, Scene, SceneReconstructor, demo_sequence, pinhole, room
from vggt_ros.synthetic.paths import drive, laps, look_at, orbit, turn
from vggt_ros.windows.keyframe import Keyframe, Window

SIZE = (320, 240)
K = pinhole(*SIZE)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return room(texel=0.008)


def ray_cast(scene, world_camera, pixel):
    """Depth of one pixel by intersecting its ray with every rectangle: an independent implementation."""
    ray = world_camera[:3, :3] @ np.linalg.solve(K, [*pixel, 1.0])
    center, nearest = world_camera[:3, 3], np.inf
    for face in scene.faces:
        basis = np.column_stack([face.right, face.down, -ray])
        if abs(np.linalg.det(basis)) > 1e-12 and np.cross(face.right, face.down) @ ray > 0:
            s, t, z = np.linalg.solve(basis, center - face.corner)
            if 0 <= s <= 1 and 0 <= t <= 1 and 0 < z < nearest:
                nearest = z
    return nearest


def test_depth_equals_that_of_single_rays(scene):
    rng = np.random.default_rng(1)
    wrong = 0
    for matrix in (*laps(5), look_at(np.array([0.2, -1.2, 2.2]), np.array([0, 0, 0.1]))):
        depth = scene.depth(matrix, K, SIZE)
        for x, y in rng.integers(0, SIZE, (60, 2)):
            wrong += abs(depth[y, x] / ray_cast(scene, matrix, (x, y)) - 1) > 1e-4
    assert wrong <= 2  # a pixel exactly on an edge may go either way


def test_tracked_corners_reproject_by_depth_and_pose(scene):
    """Textures have to allow sub-pixel matching: aliasing would shift corners."""
    first, second = laps(1500)[[500, 501]]
    size, intrinsics = (640, 480), pinhole(640, 480)
    images, depth = [], None
    for matrix in (first, second):
        image, own = scene.render(matrix, intrinsics, size)
        images.append(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        depth = own if depth is None else depth
    corners = cv2.goodFeaturesToTrack(images[0], 400, 0.01, 10)
    tracked, status, _ = cv2.calcOpticalFlowPyrLK(images[0], images[1], corners, None, winSize=(15, 15), maxLevel=4)
    corners, tracked = corners.reshape(-1, 2), tracked.reshape(-1, 2)
    x, y = np.rint(corners).astype(int).T
    rays = np.column_stack([corners, np.ones(len(corners))]) @ np.linalg.inv(intrinsics).T
    points = rays * depth[y, x, None]
    second_first = inverse(second) @ first
    expected = (points @ second_first[:3, :3].T + second_first[:3, 3]) @ intrinsics.T
    expected = expected[:, :2] / expected[:, 2:]
    nearness, kernel = 1 / depth, np.ones((15, 15))
    smooth = cv2.dilate(nearness, kernel) - cv2.erode(nearness, kernel) < 0.1 * nearness  # no edge in the patch
    error = np.linalg.norm(tracked - expected, axis=1)[(status.ravel() == 1) & smooth[y, x]]
    assert len(error) > 250 and np.median(np.linalg.norm(expected - corners, axis=1)) > 2
    assert np.median(error) < 0.08


def test_image_and_depth_cover_every_pixel_of_a_closed_room(scene):
    for matrix in laps(7):
        image, depth = scene.render(matrix, K, SIZE)
        assert image.shape == (240, 320, 3) and image.dtype == np.uint8
        assert depth.dtype == np.float32 and np.isfinite(depth).all()
        assert depth.min() > 0.2 and depth.max() < 7  # clear of the furniture, within the room
        assert image.std() > 20


def test_one_seed_one_room():
    matrix = laps(3)[1]
    images = [room(seed=seed, texel=0.02).render(matrix, K, SIZE)[0].astype(int) for seed in (3, 3, 4)]
    assert np.array_equal(images[0], images[1])
    assert np.abs(images[0] - images[2]).mean() > 10


def test_two_laps_are_closed_smooth_and_have_no_pure_rotation():
    count = 450
    poses = laps(count)
    centers = poses[:, :3, 3]
    assert np.allclose(poses[0], poses[-1], atol=1e-6)
    half = centers[count // 2:][:, None] - centers[None, :count // 2]
    assert np.linalg.norm(half, axis=2).min(1).max() < 0.05  # the second lap revisits the whole first one
    steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    assert np.abs(np.diff(steps)).max() < 0.1 * steps.max()
    turns = np.array([rotation_angle(a[:3, :3].T @ b[:3, :3]) for a, b in pairwise(poses)])
    assert (steps / turns).min() > 0.5  # meters a radian
    assert np.allclose(np.linalg.det(poses[:, :3, :3]), 1)
    assert (poses[:, 2, 1] < -0.9).all()  # upright: y points down


def test_other_paths():
    assert np.allclose(np.diff(turn(9)[:, :3, 3], axis=0), 0)
    assert rotation_angle(turn(9, 90)[0][:3, :3].T @ turn(9, 90)[-1][:3, :3]) == pytest.approx(np.pi / 2, abs=0.01)
    line = drive(20, 10)[:, :3, 3]
    assert line[-1, 0] == pytest.approx(10) and np.allclose(line[:, 1:], line[0, 1:])
    assert np.allclose(np.linalg.norm(orbit(5)[:, :2, 3], axis=1), 1.2)
    with pytest.raises(ValueError, match="cannot look at"):
        look_at(np.zeros(3), np.array([0, 0, 1.0]))


def window_of(scene, poses, number=0):
    image = np.zeros((240, 320, 3), np.uint8)
    return Window(number, tuple(Keyframe(10 + i, 1000 + i, image, K) for i in range(len(poses))))


def test_the_oracle_returns_the_truth_at_a_scale_of_its_own(scene):
    poses = orbit(4)
    oracle = SceneReconstructor(scene, range(1000, 1004), poses)
    geometry, other = (oracle.reconstruct(window_of(scene, poses, number)) for number in (0, 1))
    unit = geometry.report["unit_m"]
    assert geometry.keyframe_ids == (10, 11, 12, 13)
    assert unit != pytest.approx(other.report["unit_m"], rel=0.01)
    for i in range(4):
        expected = inverse(poses[0]) @ poses[i]
        assert np.allclose(geometry.window_camera[i][:3, 3] * unit, expected[:3, 3], atol=1e-9)
        assert np.allclose(geometry.window_camera[i][:3, :3], expected[:3, :3], atol=1e-9)
    # A pixel of the small map and the pixel of the image that it covers see the same depth.
    small = geometry.intrinsics[2]
    ray = np.linalg.solve(small, [80, 50, 1])
    assert K @ ray == pytest.approx([160.5, 100.5, 1])
    assert geometry.depth[2, 50, 80] * unit == pytest.approx(scene.depth(poses[2], small, (160, 120))[50, 80], rel=1e-5)
    assert np.array_equal(geometry.depth, oracle.reconstruct(window_of(scene, poses)).depth)


def test_the_oracle_can_have_errors_and_can_refuse(scene):
    poses = orbit(4)
    noise = OracleNoise(scale=0, rotation=0.01, translation=0.01, depth=0.05, unknown=0.3)
    geometry = SceneReconstructor(scene, range(1000, 1004), poses, noise).reconstruct(window_of(scene, poses))
    exact = SceneReconstructor(scene, range(1000, 1004), poses, OracleNoise(scale=0)).reconstruct(
        window_of(scene, poses))
    assert np.isnan(geometry.depth).mean() == pytest.approx(0.3, abs=0.01)
    assert (geometry.confidence[np.isnan(geometry.depth)] == 0).all()
    assert np.nanstd(np.log(geometry.depth / exact.depth)) == pytest.approx(0.05, abs=0.005)
    assert not np.allclose(geometry.window_camera[1:], exact.window_camera[1:], atol=1e-3)
    with pytest.raises(ReconstructionRefused, match="window 7"):
        SceneReconstructor(scene, range(1000, 1004), poses, refuse=[7]).reconstruct(window_of(scene, poses, 7))
    with pytest.raises(KeyError):
        SceneReconstructor(scene, range(4), poses).reconstruct(window_of(scene, poses))


def test_the_demo_has_stamps_that_no_float_can_hold():
    sequence = demo_sequence(5)
    stamps = [stamp for stamp, _ in sequence]
    assert stamps == sequence.truth[0].tolist() and len(sequence) == 5
    assert all(int(float(stamp) / 1e9 * 1e9) != stamp for stamp in stamps)

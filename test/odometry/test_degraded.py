"""Degraded tracking: the state says what is missing, and the covariance is consistent with the error."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scenes import SIZE, Sequence, lap, trajectory_error

from vggt_ros.config import Config
from vggt_ros.geometry.poses import Array, Sim3, pose, rotation_angle, so3_exp
from vggt_ros.geometry.ray_rotation import rotation_between
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.slam import Slam
from vggt_ros.synthetic import SceneReconstructor, pinhole, room
from vggt_ros.windows.frame import Frame, TrackedFrame
from vggt_ros.windows.keyframe import Window


class NeedsParallax(SceneReconstructor):
    """Refuses windows of a camera that only rotates."""

    def reconstruct(self, window: Window) -> WindowGeometry:
        centers = np.array([self._poses[keyframe.stamp][:3, 3] for keyframe in window.keyframes])
        if np.ptp(centers, axis=0).max() < 0.05:
            raise ReconstructionRefused("no parallax")
        return super().reconstruct(window)


@cache
def rotated_in_place(degrees: int = 120, step: float = 2.0) -> tuple[list[TrackedFrame], list[Array], Sim3]:
    """The lap, then a rotation in place to the left and back; tracked frames, true poses, and map to world."""
    start, count = lap().world_camera[-1], round(degrees / step)
    up = start[:3, :3].T @ np.array([0.0, 0.0, 1.0])
    angles = np.radians(step) * np.concatenate([np.arange(1, count + 1), np.arange(count)[::-1]])
    poses = [start @ pose(so3_exp(angle * up), np.zeros(3)) for angle in angles]
    scene, intrinsics, last = room(), pinhole(*SIZE), lap().frames[-1].stamp
    frames = [Frame(last + 10**8 * (i + 1), scene.render(p, intrinsics, SIZE)[0], intrinsics)
              for i, p in enumerate(poses)]
    whole = Sequence((*lap().frames, *frames), np.concatenate([lap().world_camera, poses]))
    slam, tracked = Slam(Config(), whole.oracle(NeedsParallax)), []
    for frame in whole.frames:
        tracked.append(slam.track(frame))
        if tracked[-1].window is not None:
            slam.step(tracked[-1].window)
    return tracked[-len(poses):], poses, trajectory_error(*slam.solution.trajectory(0), whole)[1]


def errors(tracked: TrackedFrame, truth: Array, world_map: Sim3) -> tuple[float, float]:
    """Return the error of a pose: degrees, and meters."""
    return (float(np.degrees(rotation_angle((world_map.rotation @ tracked.map_camera[:3, :3]).T @ truth[:3, :3]))),
            float(np.linalg.norm(world_map.apply(tracked.map_camera[:3, 3]) - truth[:3, 3])))


def sigmas(tracked: TrackedFrame, world_map: Sim3) -> tuple[float, float]:
    """Return the sigma of a pose by its covariance, over all axes: degrees, and meters."""
    variance = np.diag(tracked.covariance)
    return float(np.degrees(np.sqrt(variance[:3].sum()))), float(world_map.scale * np.sqrt(variance[3:].sum()))


def test_pure_rotation_is_tracked_with_a_large_position_covariance():
    tracked, poses, world_map = rotated_in_place()
    assert all(t.map_camera is not None for t in tracked)
    rotation_only = np.array(["rotation" in t.reason for t in tracked])
    assert rotation_only.sum() > len(poses) / 3
    assert {tracked[i].state for i in np.flatnonzero(rotation_only)} == {"DEGRADED"}
    off = np.array([errors(t, p, world_map) for t, p in zip(tracked, poses, strict=True)])
    sigma = np.array([sigmas(t, world_map) for t in tracked])
    assert off[:, 0].max() < 1.0
    assert (off[rotation_only, 1] < 3 * sigma[rotation_only, 1]).all() and off[:, 1].max() < 0.1
    farthest = len(tracked) // 2
    assert sigma[farthest, 1] > 10 * sigma[0, 1] and sigma[farthest, 1] > 0.05
    assert tracked[-1].state == "TRACKING", "it is back in the mapped area"


def test_poses_are_degraded_while_the_reconstructor_lags():
    """Windows are solved 32 frames after their newest: poses by tracking alone are degraded, their covariance true."""
    sequence = lap()
    slam, waiting, tracked = Slam(Config(), sequence.oracle()), [], []
    for i, frame in enumerate(sequence.frames):
        tracked.append(slam.track(frame))
        if tracked[-1].window:
            waiting.append((i - 1 + 32, tracked[-1].window))  # formed at the image after its newest
        while waiting and waiting[0][0] <= i:
            slam.step(waiting.pop(0)[1])
    world_map = trajectory_error(*slam.solution.trajectory(0), sequence)[1]
    assert {"TRACKING", "DEGRADED"} <= {t.state for t in tracked}
    degraded = [(t, p) for t, p in zip(tracked, sequence.world_camera, strict=True) if t.state == "DEGRADED"]
    assert len(degraded) > 5 and any("reconstructed" in t.reason for t, _ in degraded)
    off = np.array([errors(t, p, world_map) for t, p in degraded])
    sigma = np.array([sigmas(t, world_map) for t, _ in degraded])
    assert (off < 3 * sigma).all(1).mean() >= 0.9
    assert (off[:, 1] > 0.1 * sigma[:, 1]).mean() > 0.5, "the covariance is not much too large either"


def test_few_landmarks_degrade_the_pose():
    """Most of the image is covered: the pose is tracked by the rest, with a larger covariance."""
    sequence, slam = lap(), Slam(Config(), lap().oracle())
    for frame in sequence.frames[:60]:
        tracked = slam.track(frame)
        if tracked.window:
            slam.step(tracked.window)
    assert tracked.state == "TRACKING"
    before = sigmas(tracked, Sim3.identity())[1]
    states = []
    for width in range(SIZE[0], 40, -8):
        image = sequence.frames[59].image.copy()
        image[:, width:] = 0
        states.append(slam.track(Frame(10**18 + width, image, sequence.frames[59].intrinsics)))
    few = [t for t in states if t.state == "DEGRADED"]
    assert few and "landmarks" in few[0].reason
    assert sigmas(few[0], Sim3.identity())[1] > 3 * before


def rays(rng: np.random.Generator, count: int) -> Array:
    return np.column_stack([rng.uniform(-0.6, 0.6, (count, 2)), np.ones(count)])


@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_the_rotation_between_rays_is_estimated_with_a_consistent_covariance(outliers):
    squares = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        second, rotation = rays(rng, 80), so3_exp(rng.uniform(-0.3, 0.3, 3))
        first = second @ rotation.T
        first += 1e-3 * rng.standard_normal(first.shape) * first[:, 2:]
        wrong = rng.random(80) < outliers
        first[wrong, :2] += rng.uniform(0.05, 0.2, (wrong.sum(), 2))
        found, covariance, inliers = rotation_between(first, second, 5e-3, 20)
        assert not (inliers & wrong).any() and inliers.sum() > 0.95 * (~wrong).sum()
        error = np.array([(rotation.T @ found)[2, 1], (rotation.T @ found)[0, 2], (rotation.T @ found)[1, 0]])
        squares.append(error @ np.linalg.solve(covariance, error))
    assert 0.4 * 3 < np.mean(squares) < 2.0 * 3


def test_parallax_is_not_taken_for_rotation():
    rng = np.random.default_rng(0)
    points = rays(rng, 100) * rng.uniform(1, 6, (100, 1))
    assert rotation_between(points, points - [0.2, 0, 0], 2e-3, 20) is None
    assert rotation_between(points[:10], points[:10], 2e-3, 20) is None

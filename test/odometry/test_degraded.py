"""Tracking with less to go by than usual: it says what is missing, and its covariance what that costs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scenes import SIZE, Sequence, lap, trajectory_error

from vggt_ros.config import Config
from vggt_ros.geometry.poses import Array, Sim3, pose, rotation_angle, so3_exp
from vggt_ros.odometry.rotation import turn_between
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.slam import Slam
from vggt_ros.synthetic import SceneReconstructor, pinhole, room
from vggt_ros.windows.keyframe import Window
from vggt_ros.windows.solution import Frame, TrackedFrame


class NeedsParallax(SceneReconstructor):
    """Refuses windows of a camera that only turns."""

    def reconstruct(self, window: Window) -> WindowGeometry:
        centers = np.array([self._poses[keyframe.stamp][:3, 3] for keyframe in window.keyframes])
        if np.ptp(centers, axis=0).max() < 0.05:
            raise ReconstructionRefused("no parallax")
        return super().reconstruct(window)


@cache
def turned(degrees: int = 120, step: float = 2.0) -> tuple[list[TrackedFrame], list[Array], Sim3]:
    """The lap, then a turn on the spot to the left and back; what was tracked, the true poses, and the map's place."""
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
    return tracked[-len(poses):], poses, trajectory_error(*slam.trajectory(0), whole)[1]


def errors(tracked: TrackedFrame, truth: Array, world_map: Sim3) -> tuple[float, float]:
    """Return how far off a pose is: degrees, and meters."""
    return (float(np.degrees(rotation_angle((world_map.rotation @ tracked.map_camera[:3, :3]).T @ truth[:3, :3]))),
            float(np.linalg.norm(world_map.apply(tracked.map_camera[:3, 3]) - truth[:3, 3])))


def sigmas(tracked: TrackedFrame, world_map: Sim3) -> tuple[float, float]:
    """Return what the covariance says of it, over all axes: degrees, and meters."""
    variance = np.diag(tracked.covariance)
    return float(np.degrees(np.sqrt(variance[:3].sum()))), float(world_map.scale * np.sqrt(variance[3:].sum()))


def test_a_turn_on_the_spot_keeps_its_rotation_and_says_that_the_position_is_not_known():
    tracked, poses, world_map = turned()
    assert all(t.map_camera is not None for t in tracked)
    away = np.array(["turn" in t.reason for t in tracked])
    assert away.sum() > len(poses) / 3
    assert {tracked[i].state for i in np.flatnonzero(away)} == {"DEGRADED"}
    off = np.array([errors(t, p, world_map) for t, p in zip(tracked, poses, strict=True)])
    said = np.array([sigmas(t, world_map) for t in tracked])
    assert off[:, 0].max() < 1.0
    assert (off[away, 1] < 3 * said[away, 1]).all() and off[:, 1].max() < 0.1
    farthest = len(tracked) // 2
    assert said[farthest, 1] > 10 * said[0, 1] and said[farthest, 1] > 0.05
    assert tracked[-1].state == "TRACKING", "it is back where the map is"


def test_a_reconstructor_that_lags_degrades_the_poses_until_it_catches_up():
    """Windows solved 32 frames late: what rests on tracking alone says so, and is as far off as it says."""
    sequence = lap()
    slam, waiting, tracked = Slam(Config(), sequence.oracle()), [], []
    for i, frame in enumerate(sequence.frames):
        tracked.append(slam.track(frame))
        if tracked[-1].window:
            waiting.append((i + 32, tracked[-1].window))
        while waiting and waiting[0][0] <= i:
            slam.step(waiting.pop(0)[1])
    world_map = trajectory_error(*slam.trajectory(0), sequence)[1]
    assert {"TRACKING", "DEGRADED"} <= {t.state for t in tracked}
    coasting = [(t, p) for t, p in zip(tracked, sequence.world_camera, strict=True) if t.state == "DEGRADED"]
    assert len(coasting) > 5 and any("reconstructed" in t.reason for t, _ in coasting)
    off = np.array([errors(t, p, world_map) for t, p in coasting])
    said = np.array([sigmas(t, world_map) for t, _ in coasting])
    assert (off < 3 * said).all(1).mean() >= 0.9
    assert (off[:, 1] > 0.1 * said[:, 1]).mean() > 0.5, "nor is it far better than it says"


def test_few_landmarks_degrade_the_pose():
    """Most of the image is covered: the pose holds on what is left, and says how little that is."""
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
def test_the_turn_between_rays_is_found_with_an_honest_covariance(outliers):
    squares = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        second, turn = rays(rng, 80), so3_exp(rng.uniform(-0.3, 0.3, 3))
        first = second @ turn.T
        first += 1e-3 * rng.standard_normal(first.shape) * first[:, 2:]
        wrong = rng.random(80) < outliers
        first[wrong, :2] += rng.uniform(0.05, 0.2, (wrong.sum(), 2))
        found, covariance = turn_between(first, second, 5e-3, 20)
        error = np.array([(turn.T @ found)[2, 1], (turn.T @ found)[0, 2], (turn.T @ found)[1, 0]])
        squares.append(error @ np.linalg.solve(covariance, error))
    assert 0.4 * 3 < np.mean(squares) < 2.0 * 3


def test_parallax_is_not_taken_for_a_turn():
    rng = np.random.default_rng(0)
    points = rays(rng, 100) * rng.uniform(1, 6, (100, 1))
    assert turn_between(points, points - [0.2, 0, 0], 2e-3, 20) is None
    assert turn_between(points[:10], points[:10], 2e-3, 20) is None

"""The covariance of the motion between two images: consistent with its errors, and the same wherever the robot is."""

import numpy as np
import pytest
from scenes import SIZE

from vggt_ros.config import Config
from vggt_ros.geometry.pnp import refine_pose
from vggt_ros.geometry.poses import inverse, pose, so3_exp, so3_log
from vggt_ros.odometry.motion_uncertainty import motion_covariance, pose_influences
from vggt_ros.slam import Slam
from vggt_ros.synthetic import OracleNoise, SceneReconstructor, look_at, pinhole, room
from vggt_ros.windows.frame import Frame

INTRINSICS = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
RUNS = 200
EXACT = 6.0
"""Mean of the squares of six degrees of freedom; of 200 of them, 95 % are in 5.53 to 6.49."""


def motion(rng, origin=(0.0, 0.0, 0.0), outliers=5, landmark_sigma=0.01):
    """Return the covariance and the normalized error of a motion by 60 landmarks with errors of their own, meters."""
    first = pose(so3_exp(np.array([0.2, -0.3, 0.5])), np.array([1.0, 2.0, -1.0]) + origin)
    second = first @ pose(so3_exp(rng.normal(0, 0.02, 3)), rng.normal(0, 0.05, 3))
    local = np.column_stack([rng.uniform(-1.5, 1.5, (60, 2)), rng.uniform(2, 6, 60)])
    points = local @ first[:3, :3].T + first[:3, 3]
    landmarks = points + landmark_sigma * rng.standard_normal(points.shape)  # what both poses are measured against
    found = []
    for camera in (first, second):
        there = (points - camera[:3, 3]) @ camera[:3, :3]
        pixels = there[:, :2] / there[:, 2:] * 500 + [320, 240] + rng.normal(0, 0.4, (60, 2))
        pixels[:outliers] += rng.uniform(20, 40, (outliers, 2))
        refined = refine_pose(camera, landmarks, pixels, INTRINSICS, 5.0)[0]
        found.append(pose_influences(refined, np.arange(60), landmarks, pixels, INTRINSICS, 5.0))
    covariance = motion_covariance(*found)
    error = inverse(inverse(found[0].world_camera) @ found[1].world_camera) @ inverse(first) @ second
    vector = np.concatenate([so3_log(error[:3, :3]), error[:3, 3]])
    return covariance, float(vector @ np.linalg.solve(covariance, vector))


def test_it_is_consistent_with_landmarks_that_have_errors():
    """Never smaller than the errors; the jackknife is larger, by a quarter with 60 landmarks."""
    squares = [motion(np.random.default_rng(seed))[1] for seed in range(RUNS)]
    assert 0.75 * EXACT < np.mean(squares) < 6.49


def test_it_does_not_depend_on_where_the_robot_is():
    """Known fault: that of the pose, which grows with the distance from the origin, was given for the twist."""
    near, _ = motion(np.random.default_rng(1))
    far, _ = motion(np.random.default_rng(1), origin=(300.0, -200.0, 50.0))
    np.testing.assert_allclose(far, near, rtol=0.02, atol=1e-9)


def test_the_error_of_a_landmark_that_both_poses_share_cancels():
    """Landmarks with three times the error move both poses, but hardly the motion between them."""
    exact, wrong = (motion(np.random.default_rng(2), outliers=0, landmark_sigma=sigma)[0] for sigma in (0.001, 0.003))
    assert np.sqrt(np.trace(wrong) / np.trace(exact)) < 1.3


def drive(rng, count=14):
    """Return a path of a camera in the room, with a swaying head."""
    begin, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.5) * rng.choice([-1, 1])
    radius, height = np.array([1.5, 1.1]) * rng.uniform(0.85, 1.1), rng.uniform(0.9, 1.4)
    lead, phase, sway = rng.uniform(-0.3, 0.3), rng.uniform(0, 6.28, 3), rng.uniform(0, 0.03, 3)
    poses = []
    for index in range(count):
        angle = begin + 0.1 * speed * index
        ahead = angle + np.pi + lead
        eye = np.array([*(radius * [np.cos(angle), np.sin(angle)]), height])
        target = np.array([*(0.9 * radius * [np.cos(ahead), np.sin(ahead)]), 0.75 * height])
        poses.append(look_at(eye, target) @ pose(so3_exp(sway * np.sin(phase + 0.3 * index)), np.zeros(3)))
    return np.array(poses)


def rendered(seed, scene, noise=2.0):
    """Return the normalized error of the newest motion of a drive that is rendered with noise; None without a pose."""
    rng, intrinsics = np.random.default_rng(seed), pinhole(*SIZE)
    poses = drive(rng)
    stamps = [10**18 + 10**8 * index for index in range(len(poses))]
    config = Config().replace({"windows.size": 4, "windows.overlap": 2, "tracking.features": 200,
                               "loops.enabled": False})
    slam = Slam(config, SceneReconstructor(scene, stamps, poses, OracleNoise(scale=0.3), seed=seed))
    previous, square = None, None
    for index, (stamp, camera) in enumerate(zip(stamps, poses, strict=True)):
        image = scene.render(camera, intrinsics, SIZE)[0] + noise * rng.standard_normal((*SIZE[::-1], 3))
        tracked = slam.track(Frame(stamp, np.clip(image, 0, 255).astype(np.uint8), intrinsics))
        if tracked.window is not None:
            slam.step(tracked.window)
        if tracked.odom_camera is not None and previous is not None and tracked.motion_covariance is not None:
            rows = [stamps.index(int(solved)) for solved in slam.solution.stamps]
            length = [np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1).sum()
                      for path in (poses[rows], slam.solution.map_camera)]
            scale = np.array([1.0] * 3 + [length[0] / length[1]] * 3)
            step = inverse(previous) @ tracked.odom_camera
            step[:3, 3] *= scale[3]
            error = inverse(step) @ inverse(poses[index - 1]) @ camera
            vector = np.concatenate([so3_log(error[:3, :3]), error[:3, 3]])
            square = float(vector @ np.linalg.solve(np.outer(scale, scale) * tracked.motion_covariance, vector))
        previous = tracked.odom_camera
    return square


@pytest.mark.slow
def test_it_is_consistent_in_two_hundred_rendered_drives():
    """Tracked features, robust poses and landmarks of solved depth, against the true motion.

    200 drives have the mean 5.89, 315 drives (seeds 0 to 419) 5.94. Neighboring features, whose errors are not
    independent where the windows that they are tracked with overlap, matter little: with their correlation the mean
    changes by 1 %.
    """
    scene, squares, seed = room(), [], 0
    while len(squares) < RUNS:
        square = rendered(seed, scene)
        squares += [] if square is None else [square]
        seed += 1
    print("mean of the normalized squared errors:", np.mean(squares))
    assert 5.53 < np.mean(squares) < 6.49

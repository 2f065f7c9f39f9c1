"""Images between solved keyframes: interpolated from both sides, but not across a loss of tracking."""

import numpy as np

from vggt_ros.geometry.poses import inverse, pose, so3_exp
from vggt_ros.odometry.frame_trajectory import frame_trajectory
from vggt_ros.synthetic import laps
from vggt_ros.windows.frame import TrackedFrame
from vggt_ros.windows.solution import Solution

TRUTH = laps(41)
STAMPS = 10**18 + 10**8 * np.arange(41)
KEYS = np.arange(0, 41, 8)
MAP = Solution(ids=KEYS, stamps=STAMPS[KEYS], submaps=np.zeros(6, np.int64), windows=np.zeros(6, np.int64),
               map_camera=TRUTH[KEYS], scale=np.ones(6))


def tracked(drift, lost=()):
    """Odometry in its own frame; each step rotates and is too long by `drift`; located against keyframe 0 alone."""
    frames, odom = [], pose(so3_exp(np.array([0.1, 2.0, 0.3])), np.array([5.0, 1.0, 2.0]))
    for index, stamp in enumerate(STAMPS.tolist()):
        if index:
            step = inverse(TRUTH[index - 1]) @ TRUTH[index]
            odom = odom @ pose(step[:3, :3] @ so3_exp(np.array([0, 0.1 * drift, 0])), (1 + drift) * step[:3, 3])
        key = index if index in KEYS else None
        frames.append(TrackedFrame(stamp, "LOST", keyframe=key) if index in lost else
                      TrackedFrame(stamp, "TRACKING", TRUTH[index], odom, reference=0, keyframe=key,
                                   reference_camera=inverse(TRUTH[0])))
    return frames


def test_an_exact_odometry_gives_the_exact_trajectory():
    stamps, poses = frame_trajectory(tracked(0.0), MAP, 0)
    np.testing.assert_array_equal(stamps, STAMPS)
    np.testing.assert_allclose(poses, TRUTH, atol=1e-9)


def test_keyframes_keep_their_solved_poses_and_drift_is_distributed_between_them():
    frames = tracked(0.05)
    _, poses = frame_trajectory(frames, MAP, 0)
    np.testing.assert_allclose(poses[KEYS], TRUTH[KEYS], atol=1e-12)
    off = np.linalg.norm(poses[:, :3, 3] - TRUTH[:, :3, 3], axis=1)
    steps = np.linalg.norm(np.diff(TRUTH[:, :3, 3], axis=0), axis=1)
    assert 0 < off.max() < 0.5 * 0.05 * 8 * steps.max(), "half of the error by one side alone"
    np.testing.assert_allclose(poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1), np.tile(np.eye(3), (41, 1, 1)),
                               atol=1e-9)


def test_poses_are_not_interpolated_across_a_tracking_loss():
    """Images with a solved keyframe on one side only, before or after the gap, have their pose by the reference."""
    stamps, poses = frame_trajectory(tracked(0.0, lost=(19, 20)), MAP, 0)
    assert stamps.tolist() == np.delete(STAMPS, [19, 20]).tolist()
    isolated = np.isin(stamps, STAMPS[[17, 18, 21, 22, 23]])
    assert np.allclose(poses[isolated], np.eye(4))
    np.testing.assert_allclose(poses[~isolated], np.delete(TRUTH, [17, 18, 19, 20, 21, 22, 23], axis=0), atol=1e-9)


def test_a_solved_keyframe_has_a_pose_although_the_tracker_was_lost():
    stamps, poses = frame_trajectory(tracked(0.0, lost=range(14, 19)), MAP, 0)
    assert stamps.tolist() == np.delete(STAMPS, [14, 15, 17, 18]).tolist()
    np.testing.assert_array_equal(poses[stamps == STAMPS[16]][0], TRUTH[16])


def test_images_of_another_submap_are_left_out():
    assert not len(frame_trajectory(tracked(0.0), MAP, 1)[0])

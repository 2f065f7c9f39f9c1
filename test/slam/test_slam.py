"""The whole pipeline on an exactly known scene, with a test for each known fault of other VGGT wrappers."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from scenes import SIZE, lap, run, trajectory_error

from vggt_ros.config import Config
from vggt_ros.geometry.poses import Sim3, inverse, pose, rotation_angle, so3_exp
from vggt_ros.mapping.dense.surface import keyframe_cloud
from vggt_ros.odometry.frame_trajectory import pose_by_reference
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.slam import Slam
from vggt_ros.synthetic import OracleNoise, SceneReconstructor, room
from vggt_ros.windows.frame import Frame
from vggt_ros.windows.load import Load

poses_of = partial(run, follows_map=False)


def without_points(reconstructor):
    """Return a new one whose map has no points, which take half of the time of a window."""
    slam = Slam(Config(), reconstructor)
    slam.follows_map = False
    return slam


@pytest.fixture(scope="module", name="exact")
def _exact():
    """The sequence, run with windows that are exact up to their scale."""
    return lap(), run(lap(), Config(), lap().oracle())


def test_exact_windows_give_an_exact_trajectory_and_map(exact):
    """Exact windows of arbitrary scale give the true trajectory: 1e-4 m over a path of 4 m."""
    sequence, done = exact
    stamps, poses = done.slam.solution.trajectory(0)
    error, world_map = trajectory_error(stamps, poses, sequence)
    assert error < 1e-4
    assert done.slam.counts.submaps == 1
    turns = [rotation_angle(t[:3, :3].T @ world_map.rotation @ p[:3, :3])
             for t, p in zip(sequence.truth(stamps), poses, strict=True)]
    assert max(turns) < 1e-4

    # Every point of the map lies on a surface of the room: from a keyframe, none is in front of the rendered depth.
    cloud = done.slam.map_cloud()
    assert len(cloud) > 5000
    camera = sequence.truth(stamps)[len(stamps) // 2]
    local = (world_map.apply(cloud.points.astype(float)) - camera[:3, 3]) @ camera[:3, :3]
    intrinsics = sequence.frames[0].intrinsics
    depth = room().depth(camera, intrinsics, SIZE)
    pixels = np.rint(local[:, :2] / local[:, 2:] * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]).astype(int)
    seen = (local[:, 2] > 0.1) & (pixels >= 0).all(1) & (pixels < SIZE).all(1)
    ahead = depth[pixels[seen, 1], pixels[seen, 0]] - local[seen, 2]
    assert seen.sum() > 1000
    # Depths of keyframes that agree within 2 % are averaged, each looked up at its nearest pixel.
    assert np.mean(ahead > np.maximum(0.03, 0.02 * depth[pixels[seen, 1], pixels[seen, 0]])) < 0.01
    assert np.median(np.abs(ahead)) < 0.01


def test_the_first_windows_keyframes_are_all_in_the_map(exact):
    """Those of the overlap too, which another wrapper leaves out."""
    _, done = exact
    keyframes = [t.keyframe for t in done.tracked if t.keyframe is not None]
    assert done.slam.solution.ids.tolist() == keyframes
    for keyframe in keyframes[:8]:
        assert len(keyframe_cloud(done.slam.solution, keyframe, done.slam.config.map)) > 1000


def test_the_first_median_depth_is_the_assumed_one(exact):
    """While scale is unknown, units are such that the first window's median depth is 2, and the state is UNKNOWN."""
    _, done = exact
    solution = done.slam.solution
    assert solution.scale_state == "UNKNOWN"
    first = [solution.keyframes[int(k)].depth.astype(float) * s
             for k, s in zip(solution.ids[:8], solution.scale[:8], strict=True)]
    assert np.nanmedian(first) == pytest.approx(2.0, rel=0.02)


def test_a_dropped_window_breaks_nothing():
    """The overlap is found by keyframe id; another wrapper pairs it by position and is silently wrong by 0.4 m here."""
    sequence = lap()
    done = poses_of(sequence, Config(), sequence.oracle(), drop=(2,))
    stamps, poses = done.slam.solution.trajectory(0)
    assert done.slam.counts.submaps == 1
    assert len(stamps) < done.slam.counts.keyframes
    assert trajectory_error(stamps, poses, sequence)[0] < 1e-4


def test_a_chain_that_breaks_begins_a_new_submap():
    """A window shares nothing with the map and cannot bridge the gap: a new submap, reported, and accurate in
    itself."""

    class RefusesGaps(SceneReconstructor):
        """Refuses a window with a gap, as a real reconstructor must without overlap across it."""

        def reconstruct(self, window):
            if np.diff(window.ids).max() > 4:
                raise ReconstructionRefused("no matches")
            return super().reconstruct(window)

    sequence = lap()
    done = poses_of(sequence, Config(), sequence.oracle(RefusesGaps), drop=(2, 3))
    assert done.slam.counts.submaps == 2
    with_new_submap = [u for u in done.updates if u.new_submap]
    assert len(with_new_submap) == 1
    assert with_new_submap[0].refused == \
        "the window shares no keyframe with the map, and none of its images was found in it; then: no matches"
    assert done.slam.counts.unplaced == 0  # those of the dropped windows were never processed
    for submap in range(2):
        stamps, poses = done.slam.solution.trajectory(submap)
        assert trajectory_error(stamps, poses, sequence)[0] < 1e-4


def test_a_submap_begins_where_the_chain_broke():
    """A window that contradicts the map begins a submap at the pose of a keyframe that it shares with the map."""

    class RotatesKeyframes(SceneReconstructor):
        """Rotates all keyframes of a window but the first; also with another choice of keyframes."""

        def reconstruct(self, window):
            geometry = super().reconstruct(window)
            if window.id == 3:
                geometry.window_camera[1:] = geometry.window_camera[1:] @ pose(so3_exp(np.array([0, 0.3, 0])),
                                                                               np.zeros(3))
            return geometry

    sequence = lap()
    done = poses_of(sequence, Config().replace({"loops.enabled": False}), sequence.oracle(RotatesKeyframes))
    with_new_submap = [u for u in done.updates if u.new_submap]
    assert len(with_new_submap) == 1 and "is rotated by" in with_new_submap[0].refused
    _, world_map = trajectory_error(*done.slam.solution.trajectory(0), sequence)
    stamps, poses = done.slam.solution.trajectory(1)
    truth = {frame.stamp: camera for frame, camera in zip(sequence.frames, sequence.world_camera, strict=True)}
    begin = truth[int(stamps[0])]
    assert np.linalg.norm(world_map.apply(poses[0, :3, 3]) - begin[:3, 3]) < 1e-3
    assert rotation_angle(world_map.rotation @ poses[0, :3, :3] @ begin[:3, :3].T) < 1e-3


def test_unplaced_keyframes_are_counted():
    """The reconstructor leaves out the newest keyframe of every window; keyframes that no window places are counted."""

    class LeavesOutTheNewest(SceneReconstructor):
        def reconstruct(self, window):
            whole = super().reconstruct(window)
            return WindowGeometry(whole.keyframe_ids[:-1], whole.window_camera[:-1], whole.intrinsics[:-1],
                                  whole.depth[:-1], whole.confidence[:-1])

    sequence = lap()
    slam = poses_of(sequence, Config(), sequence.oracle(LeavesOutTheNewest)).slam
    assert slam.counts.unplaced == slam.counts.keyframes - len(slam.solution) > 0


def test_a_refused_window_is_bridged():
    """The reconstructor refuses a window; the next one includes some of its keyframes, and the map goes on."""
    sequence = lap()
    done = poses_of(sequence, Config(), sequence.oracle(refuse=(2,)))
    refused = [u for u in done.updates if u.refused]
    assert "among those to refuse" in refused[0].refused
    assert done.slam.counts.refused == 1
    assert done.slam.counts.submaps == 1
    stamps, poses = done.slam.solution.trajectory(0)
    assert trajectory_error(stamps, poses, sequence)[0] < 1e-4


def test_a_partial_last_window_is_placed_by_its_true_overlap():
    """The end of a stream is as accurate as its middle; another wrapper jumps by a meter here."""
    sequence = lap()
    done = poses_of(sequence, Config().replace({"windows.size": 9}), sequence.oracle())
    last = done.updates[-1]
    assert 0 < len(last.keyframes) < 6
    solution = done.slam.solution
    assert set(last.keyframes) <= set(solution.ids.tolist())
    stamps, poses = done.slam.solution.trajectory(0)
    assert trajectory_error(stamps, poses, sequence)[0] < 1e-4


def test_every_frame_after_the_first_window_has_a_pose():
    """The tracker's poses are accurate to a centimeter, also when corrected by the final map."""
    sequence = lap()
    done = poses_of(sequence, Config(), sequence.oracle(noise=OracleNoise(scale=0.5, depth=0.02)))
    stamps, poses = done.slam.solution.trajectory(0)
    _, world_map = trajectory_error(stamps, poses, sequence)
    first = next(i for i, t in enumerate(done.tracked) if t.state == "TRACKING")
    assert all(t.state == "TRACKING" for t in done.tracked[first:])
    errors = [np.linalg.norm(world_map.apply(pose_by_reference(t, done.slam.solution)[:3, 3]) - truth[:3, 3])
              for t, truth in zip(done.tracked[first:], sequence.world_camera[first:], strict=True)]
    assert np.sqrt(np.mean(np.square(errors))) < 0.01
    assert max(errors) < 0.05
    assert all(np.linalg.eigvalsh(t.covariance).min() > 0 for t in done.tracked[first:])


def test_odometry_does_not_jump_when_the_map_does():
    """Noisy windows move the camera in the map at each solve; the odometry keeps the steps between frames."""
    sequence = lap()
    done = poses_of(sequence, Config(), sequence.oracle(noise=OracleNoise(scale=0.5, rotation=0.01, translation=0.02)))
    tracked = [(i, t) for i, t in enumerate(done.tracked) if t.state == "TRACKING"]
    steps = np.array([np.linalg.norm((inverse(a.odom_camera) @ b.odom_camera)[:3, 3])
                      for (_, a), (_, b) in pairwise(tracked)])
    assert steps.max() < 3 * np.median(steps)
    for _, t in tracked:
        assert np.allclose(t.map_odom @ t.odom_camera, t.map_camera, atol=1e-9)


def test_a_pose_is_published_before_the_landmarks_are_updated():
    """The pose is by the previous landmarks; `select_keyframe` updates them, and map -> odom takes the correction."""
    sequence = lap()
    slam = without_points(sequence.oracle(noise=OracleNoise(scale=0.5, rotation=0.01, translation=0.02)))
    tracker, before, moved = slam._localizer._tracker, None, []
    for frame in sequence.frames:
        newest = slam.solution
        late = newest is not tracker.solution
        tracked = slam.locate(frame)
        late &= newest is not tracker.solution
        if late:
            assert np.array_equal(tracked.map_odom, before.map_odom)
        window = slam.select_keyframe().window
        assert newest is tracker.solution
        if late:
            corrected = slam._localizer._map_odom @ tracked.odom_camera
            moved.append(np.linalg.norm((inverse(tracked.map_camera) @ corrected)[:3, 3]))
        if window is not None:
            slam.step(window)
        before = tracked
    assert len(moved) > 5 and max(moved) > 0.01  # else there was nothing to update


def test_what_follows_a_correction_keeps_it():
    """After a loop the next windows are attached to the corrected ones; points, poses and map -> odom follow.

    Another wrapper measures them from a pose before the loop, so that its graph undoes the correction.
    """
    sequence = lap()
    loop, after = Sim3(1.1, so3_exp(np.array([0.0, 0.2, 0.0])), np.array([0.2, 0.0, 0.1])), []
    for corrected in (False, True):
        slam = without_points(sequence.oracle())
        tracked = []
        for frame in sequence.frames:
            tracked.append(slam.track(frame))
            window = tracked[-1].window
            if window is not None:
                slam.step(window)
                if window.id == 3 and corrected:
                    graph = slam._atlas._graph._graph
                    graph._selection.tree.inflation = (
                        1e6  # as if the overlaps were inaccurate: else such a loop is rejected
                    )
                    newest = max(graph.map_node)
                    seen = graph.map_node[0].inverse() @ graph.map_node[newest]
                    graph.add_loop(0, newest, seen @ loop, 1e-8 * np.eye(7))
        after.append((slam, tracked, slam._atlas._graph._graph.map_node))
    (plain, _, before), (slam, tracked, map_node) = after
    assert set(map_node) == set(before) and max(map_node) > newest + 5
    moved = [map_node[n] @ before[n].inverse() for n in range(newest + 1, max(map_node) + 1)]
    for other in moved[1:]:  # all later ones moved rigidly, by the whole correction
        assert rotation_angle(other.rotation.T @ moved[0].rotation) < 0.01
        assert other.scale == pytest.approx(moved[0].scale, rel=0.01)
        assert np.linalg.norm(other.translation - moved[0].translation) < 0.02
    assert np.degrees(rotation_angle(moved[0].rotation)) > 10 and moved[0].scale > 1.08
    steps = np.array([np.linalg.norm((inverse(a.odom_camera) @ b.odom_camera)[:3, 3]) for a, b in pairwise(
        t for t in tracked if t.state == "TRACKING")])
    assert steps.max() < 3 * np.median(steps)  # map -> odom takes the correction
    assert np.degrees(rotation_angle(tracked[-1].map_odom[:3, :3])) > 10
    newest = int(slam.solution.ids[-1])
    ours, theirs = (keyframe_cloud(s.solution, newest, s.config.map).points for s in (slam, plain))
    assert np.median(ours / theirs) == pytest.approx(moved[0].scale, rel=0.01)


def test_reset_keeps_old_windows_out_of_the_new_map():
    """A window formed before the reset and processed after it has no effect."""
    sequence = lap()
    slam = Slam(Config(), sequence.oracle())
    windows = [w for w in (slam.track(f).window for f in sequence.frames) if w]
    slam.step(windows[0])
    slam.reset()
    update = slam.step(windows[1])
    assert "reset" in update.refused
    assert len(slam.solution) == 0
    assert len(slam.map_cloud()) == 0


def test_two_runs_agree():
    """The same input gives the same output, bit by bit."""
    sequence = lap()
    noise = OracleNoise(scale=0.5, rotation=0.002, translation=0.002, depth=0.02)
    first, second = (poses_of(sequence, Config(), sequence.oracle(noise=noise)) for _ in range(2))
    assert np.array_equal(first.slam.solution.map_camera, second.slam.solution.map_camera)
    assert all(a.map_camera is None or np.array_equal(a.map_camera, b.map_camera)
               for a, b in zip(first.tracked, second.tracked, strict=True))


def test_black_images_are_no_keyframes():
    """A covered lens makes no keyframe, and the state is LOST; nothing crashes."""
    sequence = lap()
    slam = without_points(sequence.oracle())
    black = [Frame(10**18 + i, np.zeros((SIZE[1], SIZE[0], 3), np.uint8), sequence.frames[0].intrinsics)
             for i in range(3)]
    assert [slam.track(f).keyframe for f in black] == [None] * 3
    for frame in sequence.frames[:40]:
        tracked = slam.track(frame)
        if tracked.window:
            slam.step(tracked.window)
    assert tracked.state == "TRACKING"
    assert slam.track(black[0]).state == "LOST"


def test_back_pressure_thins_keyframes_and_counts_them():
    """Without capacity no window is formed, keyframes are thinned and counted, and the map is still accurate."""
    sequence = lap()
    slam = without_points(sequence.oracle())
    for i, frame in enumerate(sequence.frames):
        tracked = slam.track(frame, Load(busy=30 < i < 70))
        if tracked.window:
            slam.step(tracked.window)
    assert slam.counts.thinned > 0
    last = slam.flush()
    if last:
        slam.step(last)
    stamps, poses = slam.solution.trajectory(0)
    assert slam.counts.submaps == 1
    assert len(stamps) == slam.counts.keyframes - slam.counts.thinned
    assert trajectory_error(stamps, poses, sequence)[0] < 1e-4


@pytest.mark.parametrize("late", [20, 32])
def test_tracking_bridges_a_slow_reconstructor(late):
    """Windows are solved that many frames late: the tracker uses triangulated landmarks, the odometry does not jump."""
    sequence = lap()
    slam, waiting, tracked = without_points(sequence.oracle()), [], []
    for i, frame in enumerate(sequence.frames):
        tracked.append(slam.track(frame))
        if tracked[-1].window:
            waiting.append((i - 1 + late, tracked[-1].window))  # formed at the image after its newest
        while waiting and waiting[0][0] <= i:
            slam.step(waiting.pop(0)[1])
    first = next(i for i, t in enumerate(tracked) if t.state == "TRACKING")
    assert all(t.state in ("TRACKING", "DEGRADED") for t in tracked[first:])
    _, world_map = trajectory_error(*slam.solution.trajectory(0), sequence)
    errors = [np.linalg.norm(world_map.apply(t.map_camera[:3, 3]) - truth[:3, 3])
              for t, truth in zip(tracked[first:], sequence.world_camera[first:], strict=True)]
    assert np.sqrt(np.mean(np.square(errors))) < 0.1
    steps = [np.linalg.norm((inverse(a.odom_camera) @ b.odom_camera)[:3, 3]) for a, b in pairwise(tracked[first:])]
    assert max(steps) < 3 * np.median(steps)

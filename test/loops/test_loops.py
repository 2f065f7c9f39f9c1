"""Loops in rendered rooms: true ones accepted, look-alikes rejected, submaps joined; and the parts of verification."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from held import arrays_kept_by_small_views
from rendered_drives import DRIFT, SIZE, VIEW, Drive

from vggt_ros.config import Config
from vggt_ros.features.appearance import describe
from vggt_ros.geometry.poses import Array, inverse, pose, rotation_angle, so3_exp
from vggt_ros.loops.verification import depth_agreement, lenient, two_view_geometry
from vggt_ros.mapping.files.restored_map import restore
from vggt_ros.places.keyframe_images import KeyframeImages
from vggt_ros.pose_graph.plausibility import Drift
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.slam import Slam
from vggt_ros.synthetic import OracleNoise, Scene, SceneReconstructor, laps, pinhole, room
from vggt_ros.synthetic.scene import Face
from vggt_ros.windows.keyframe import Corners, Keyframe, Window
from vggt_ros.windows.solution import MapKeyframe, Update


@cache
def scene() -> Scene:
    return room()


@cache
def images(count: int, laps_: float) -> tuple[Array, tuple[np.ndarray, ...]]:
    """Poses on a trajectory around the room, and the images rendered from them."""
    poses = laps(count, laps=laps_)
    return poses, tuple(scene().render(matrix, VIEW, SIZE)[0] for matrix in poses)


def one_lap_and_a_third() -> Drive:
    return Drive(scene(), *images(63, 1.3))


NO_LOOPS = Config().replace({"loops.enabled": False})


def test_the_second_lap_closes_loops_and_reduces_drift():
    """Three seeds of drifting windows: loops are accepted with each, and reduce the error in the median."""
    gains, accepted = [], []
    for seed in range(3):
        with_loops, updates = one_lap_and_a_third().run(one_lap_and_a_third().oracle(noise=DRIFT, seed=seed), Config())
        without, _ = one_lap_and_a_third().run(one_lap_and_a_third().oracle(noise=DRIFT, seed=seed), NO_LOOPS)
        accepted.append(with_loops.counts.loops)
        gains.append(one_lap_and_a_third().error(without) / one_lap_and_a_third().error(with_loops))
        assert without.counts.loops == without.counts.loop_candidates == 0
        assert with_loops.counts.submaps == 1
        assert any(") accepted: " in update.loop for update in updates)
    assert min(accepted) >= 1
    assert np.median(gains) > 1.2 and min(gains) > 0.8


@pytest.mark.parametrize(("size", "fov"), [((613, 185), 82.0), ((240, 320), 50.0)])
def test_loops_of_wide_and_of_portrait_images(size, fov):
    """Half of 1226x370, as of a car, and a camera on its side."""
    poses, view = laps(56, laps=1.2), pinhole(*size, fov)
    drive = Drive(scene(), poses, tuple(scene().render(matrix, view, size)[0] for matrix in poses), view=view)
    slam, _ = drive.run(drive.oracle(), Config())
    assert slam.counts.loops >= 1 and slam.counts.submaps == 1
    assert drive.error(slam) < 5e-3


def test_a_loop_between_exact_windows_changes_nothing():
    slam, _ = one_lap_and_a_third().run(one_lap_and_a_third().oracle(), Config())
    assert slam.counts.loops >= 1 and slam.counts.loops_refused == 0
    assert one_lap_and_a_third().error(slam) < 2e-3
    loop = next(edge for edge in slam.solution.edges if edge.kind == "loop")
    rows = {int(w): row for row, w in enumerate(slam.solution.window_ids)}
    assert {loop.first, loop.second} <= set(rows)


def test_candidates_stay_pending_while_there_is_no_time():
    """Waiting windows have priority: the candidate is verified as soon as there is time."""
    drive = one_lap_and_a_third()
    slam = Slam(Config(), drive.oracle())
    keyframes: list[Keyframe] = []
    windows = []
    for index, image in enumerate(drive.pictures):
        keyframes.append(Keyframe(index, index * 10**8, image, VIEW))
        if len(keyframes) == 8:
            windows.append(Window(len(windows), tuple(keyframes),
                                  tuple(k.id for k in keyframes[:3]) if windows else ()))
            keyframes = keyframes[-3:]
    for window in windows[:-1]:
        assert slam.step(window, verify=False).loop == ""
    assert slam.counts.loops == 0 and slam.counts.loop_candidates > 0
    assert ") accepted: " in slam.step(windows[-1]).loop
    assert slam.counts.loops == 1


# Two rooms that look the same.

ROOM_OFFSET = np.array([30.0, 0.0, 0.0])


@cache
def two_equal_rooms() -> Drive:
    """The same room twice, 30 m apart; 28 keyframes in the first, then the same views in the second."""
    faces = scene().faces
    both = Scene([*faces, *(Face(f.corner + ROOM_OFFSET, f.right, f.down, f.texture) for f in faces)])
    poses, pictures = images(63, 1.3)
    moved = poses[:28].copy()
    moved[:, :3, 3] += ROOM_OFFSET
    return Drive(both, np.concatenate([poses[:28], moved]), (*pictures[:28], *pictures[:28]))


class CorrectReconstructor(SceneReconstructor):
    """Reconstructs the two rooms 30 m apart."""


class DeceivedReconstructor(SceneReconstructor):
    """Reconstructs the second room as the first in every joint window with keyframes of both."""

    def reconstruct(self, window: Window):
        if window.shared or {k.id < 28 for k in window.keyframes} != {True, False}:
            return super().reconstruct(window)
        truth, self._poses = self._poses, {stamp: self._in_first_room(matrix) for stamp, matrix in self._poses.items()}
        try:
            return super().reconstruct(window)
        finally:
            self._poses = truth

    @staticmethod
    def _in_first_room(matrix: Array) -> Array:
        return pose(matrix[:3, :3], matrix[:3, 3] - (ROOM_OFFSET if matrix[0, 3] > 15 else 0))


def run_in_two_rooms(kind: type[SceneReconstructor], **settings: object) -> tuple[Slam, list[Update], float]:
    drive = two_equal_rooms()
    slam, updates = drive.run(drive.oracle(kind, noise=OracleNoise(scale=0.5)), Config().replace(settings))
    return slam, updates, drive.error(slam)


def test_a_look_alike_out_of_reach_is_no_candidate():
    slam, _, error = run_in_two_rooms(CorrectReconstructor)
    assert slam.counts.loop_candidates == 0 and error < 2e-3


def test_a_look_alike_that_the_reconstructor_sees_through_is_refused():
    slam, updates, error = run_in_two_rooms(CorrectReconstructor, **{"loops.drift": 10.0})
    assert slam.counts.loop_candidates > 0 and slam.counts.loops == 0 and slam.counts.loops_refused > 0
    assert any("by the features differs by" in update.loop for update in updates)
    assert error < 2e-3


def test_a_look_alike_that_fools_the_reconstructor_is_refused_by_the_graph():
    """Images, features and joint reconstruction all support the false loop; only the map contradicts it."""
    slam, updates, error = run_in_two_rooms(DeceivedReconstructor, **{"loops.drift": 0.9})
    assert any("chi-square" in update.loop for update in updates)
    assert slam.counts.loops == 0 and slam.counts.loops_refused > 0
    assert {edge.kind for edge in slam.solution.edges} == {"overlap", "refused"}
    assert error < 2e-3


# Submaps.

class RefusesLargeSteps(SceneReconstructor):
    """Refuses windows with more than 0.7 m or 30 degrees between two consecutive keyframes."""

    def reconstruct(self, window: Window):
        poses = [self._poses[k.stamp] for k in window.keyframes]
        steps = [inverse(a) @ b for a, b in pairwise(poses)]
        if any(np.linalg.norm(s[:3, 3]) > 0.7 or rotation_angle(s[:3, :3]) > np.radians(30) for s in steps):
            raise ReconstructionRefused("no matches")
        return super().reconstruct(window)


def test_submaps_are_joined_where_a_loop_connects_them():
    """The chain breaks, and the camera returns to a mapped place: one loop stays pending, the next window joins."""
    poses, pictures = images(63, 1.3)
    chosen = [*range(22), *range(38, 63)]  # half a lap later
    drive = Drive(scene(), poses[chosen], tuple(pictures[k] for k in chosen), breaks=(22,))
    slam, updates = drive.run(drive.oracle(RefusesLargeSteps), Config())
    assert sum(update.new_submap for update in updates) == 1
    pending = next(row for row, update in enumerate(updates) if "waiting for a second" in update.loop)
    assert "joins" in updates[pending + 1].loop and slam.counts.loops >= 3
    assert slam.counts.submaps == 1 and set(slam.solution.submaps.tolist()) == {0}
    assert drive.error(slam) < 5e-3
    without_loops, _ = drive.run(drive.oracle(RefusesLargeSteps), NO_LOOPS)
    assert without_loops.counts.submaps == 2 and drive.error(without_loops) > 0.5


def test_a_submap_joins_the_map_when_its_images_are_relocalized():
    """Before any loop is verified, the window in which the camera returns is aligned with the map itself."""
    poses, pictures = images(63, 1.3)
    chosen = [*range(22), *range(30, 63)]  # the first views after the break are not in the map
    drive = Drive(scene(), poses[chosen], tuple(pictures[k] for k in chosen), breaks=(22,))
    slam, updates = drive.run(drive.oracle(RefusesLargeSteps), Config())
    assert sum(update.new_submap for update in updates) == 1
    messages = [update.loop for update in updates if "joins" in update.loop]
    assert len(messages) == 1 and "images of which were found in the rest of the map, joins it" in messages[0]
    assert slam.counts.submaps == 1 and drive.error(slam) < 5e-3


def test_keyframes_are_bounded_where_the_space_is_covered():
    """Three laps: redundant keyframes are removed, the newest stay, the map stays as complete and as accurate."""
    poses, pictures = images(63, 1.3)
    once = range(48)  # one lap
    rows = [*once, *once, *once]
    drive = Drive(scene(), poses[rows], tuple(pictures[k] for k in rows))
    slam, _ = drive.run(drive.oracle(), NO_LOOPS.replace({"map.max_keyframes": 100, "map.voxel": 0.05}),
                        follows_map=True)
    unlimited, _ = drive.run(drive.oracle(), NO_LOOPS.replace({"map.voxel": 0.05}), follows_map=True)
    ids = slam.solution.ids
    assert len(unlimited.solution) == slam.counts.released + len(ids) and slam.counts.unplaced == 0
    assert len(ids) <= 105 and set(range(144 - 64, int(ids[-1]))) <= set(ids.tolist())
    assert set(slam.solution.keyframes) == set(ids.tolist())
    # At edges, where depth may be smeared, points need more keyframes that agree.
    assert len(slam.map_cloud()) > 0.95 * len(unlimited.map_cloud())
    assert drive.error(slam) < 2e-3
    # The graph does not grow either, and stays connected.
    assert (len(slam._atlas._graph._graph.map_node) <= 1.25 * len(ids) + 5
            < len(unlimited._atlas._graph._graph.map_node))
    edges = slam.solution.edges
    assert {edge.second for edge in edges} == set(slam.solution.window_ids[1:].tolist())
    assert {edge.first for edge in edges} <= set(slam.solution.window_ids.tolist())
    restored = Slam(Config(), drive.oracle())
    restored.reset_map(restore(slam.record(np.eye(4)), restored.config))
    assert np.allclose(restored.solution.map_camera, slam.solution.map_camera, atol=1e-9)
    # Each keyframe owns its arrays: a view of a larger array would keep all of it in memory.
    assert not arrays_kept_by_small_views(slam._atlas) and not arrays_kept_by_small_views(slam.surface)
    restored._atlas.remove(ids[::2].tolist())
    restored._atlas.remove(ids[1:20:6].tolist())
    restored._atlas._graph._marginalize()  # few of the edges are new
    assert not arrays_kept_by_small_views(restored._atlas)


# The parts.

def keyframe(matrix: Array, image: np.ndarray, unit: float, index: int) -> MapKeyframe:
    depth = scene().depth(matrix, VIEW, SIZE) / unit
    return MapKeyframe(index, index, VIEW, depth.astype(np.float16), np.full(depth.shape, 255, np.uint8), image)


def test_two_view_geometry_is_the_true_relative_pose():
    poses, pictures = images(63, 1.3)
    first, second = (keyframe(poses[k], pictures[k], unit, k) for k, unit in ((3, 0.5), (5, 2.0)))
    features = [describe(pictures[k])[0] for k in (3, 5, 30)]
    two_view = two_view_geometry(first, features[0], second, features[1], 15)
    truth = inverse(poses[3]) @ poses[5]
    assert two_view is not None and two_view.inliers >= 15
    assert np.linalg.norm(two_view.older_newer[:3, 3] * 0.5 - truth[:3, 3]) < 0.05
    assert rotation_angle(two_view.older_newer[:3, :3].T @ truth[:3, :3]) < np.radians(1.5)
    other = keyframe(poses[30], pictures[30], 1.0, 30)
    assert two_view_geometry(first, features[0], other, features[2], 15) is None


def test_depth_agrees_at_the_true_pose_and_scale_only():
    poses, pictures = images(63, 1.3)
    first, second = (keyframe(poses[k], pictures[k], unit, k) for k, unit in ((3, 0.5), (5, 2.0)))
    truth = inverse(poses[3]) @ poses[5]
    truth[:3, 3] /= 0.5
    agreement, overlap = depth_agreement(first, second, truth, 4.0)
    assert agreement > 0.85 and overlap > 0.3
    assert depth_agreement(first, second, truth, 6.0)[0] < 0.3
    turned = truth @ pose(so3_exp(np.array([0, np.radians(25), 0])), np.zeros(3))
    assert depth_agreement(first, second, turned, 4.0)[0] < 0.8 * agreement
    away = truth @ pose(so3_exp(np.array([0, np.pi, 0])), np.zeros(3))
    assert depth_agreement(first, second, away, 4.0)[1] < 0.1


def test_limits_grow_with_the_drift_to_expect_up_to_three_times():
    config = Config().alignment
    assert lenient(config, None, 2.0) == config
    some = lenient(config, Drift(np.radians(2.0), 0.1, 0.05), 2.0)
    assert some.max_rotation == pytest.approx(config.max_rotation + 2)
    assert some.max_translation == pytest.approx(config.max_translation + 0.1 / 2.0)
    assert some.max_scale == pytest.approx(config.max_scale + 0.05)
    most = lenient(config, Drift(1.0, 100.0, 10.0), 2.0)
    assert most.max_rotation == pytest.approx(3 * config.max_rotation)
    assert most.max_translation == pytest.approx(3 * config.max_translation)


def test_stored_images_are_returned():
    _, pictures = images(63, 1.3)
    store, given = KeyframeImages(), Keyframe(
        7, 123, pictures[0], VIEW, False,
        Corners(np.arange(3), np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)))
    store.add(given, describe(pictures[0])[0])
    returned = store.keyframe(7)
    assert 7 in store and (returned.id, returned.stamp, returned.calibrated) == (7, 123, False)
    assert returned.image.shape == given.image.shape and returned.corners is given.corners
    off = np.abs(returned.image.astype(int) - given.image)
    assert np.mean(off) < 6 and store._stored[7].jpeg.nbytes < given.image.nbytes / 3
    store.remove(7)
    assert 7 not in store

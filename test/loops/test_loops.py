"""Loops on rendered rooms: true ones taken, look-alikes refused, submaps joined; and the parts of the verification."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from held import held_in_vain

from vggt_ros.config import Config
from vggt_ros.features.appearance import describe
from vggt_ros.geometry.poses import Array, inverse, pose, rotation_angle, so3_exp, umeyama
from vggt_ros.loops.verification import depth_agreement, two_view_geometry
from vggt_ros.places.keyframe_images import KeyframeImages
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.slam import Slam
from vggt_ros.synthetic import OracleNoise, Scene, SceneReconstructor, laps, pinhole, room
from vggt_ros.synthetic.scene import Face
from vggt_ros.windows.keyframe import Corners, Keyframe, Window
from vggt_ros.windows.solution import MapKeyframe, Update

SIZE = (320, 240)
VIEW = pinhole(*SIZE)
DRIFT = OracleNoise(scale=0.5, rotation=0.004, translation=0.004, depth=0.02)


@cache
def scene() -> Scene:
    return room()


@cache
def images(count: int, laps_: float) -> tuple[Array, tuple[np.ndarray, ...]]:
    """Poses on the way around the room, and what is seen from there."""
    poses = laps(count, laps=laps_)
    return poses, tuple(scene().render(matrix, VIEW, SIZE)[0] for matrix in poses)


@dataclass
class Drive:
    """Keyframes at known poses, put into windows of 8 that share 3; `breaks` are keyframes before which nothing is."""

    poses: Array
    pictures: tuple[np.ndarray, ...]
    breaks: tuple[int, ...] = ()

    def run(self, oracle: SceneReconstructor, config: Config) -> tuple[Slam, list[Update]]:
        slam, made, updates, begun = Slam(config, oracle), [], [], False
        for index, image in enumerate(self.pictures):
            if index in self.breaks:
                made, begun = [], False
            made.append(Keyframe(index, index * 10**8, image, VIEW))
            if len(made) == 8:
                shared = tuple(k.id for k in made[:3]) if begun else ()
                updates.append(slam.step(Window(len(updates), tuple(made), shared)))
                made, begun = made[-3:], True
        return slam, updates

    def oracle(self, kind: type[SceneReconstructor] = SceneReconstructor, **details: object) -> SceneReconstructor:
        return kind(scene(), [index * 10**8 for index in range(len(self.poses))], self.poses, **details)

    def error(self, slam: Slam) -> float:
        """Largest error of position over all keyframes after the best similarity, meters."""
        solution = slam.solution
        truth = self.poses[solution.ids][:, :3, 3]
        world_map = umeyama(solution.map_camera[:, :3, 3], truth)
        return float(np.linalg.norm(world_map.apply(solution.map_camera[:, :3, 3]) - truth, axis=1).max())


def around() -> Drive:
    return Drive(*images(63, 1.3))


OFF = Config().replace({"loops.enabled": False})


def test_the_second_lap_closes_loops_and_takes_out_drift():
    """Three seeds of drifting windows: loops are taken in all, and take away most of the error in the median."""
    gains, taken = [], []
    for seed in range(3):
        with_loops, updates = around().run(around().oracle(noise=DRIFT, seed=seed), Config())
        without, _ = around().run(around().oracle(noise=DRIFT, seed=seed), OFF)
        taken.append(with_loops.counts.loops)
        gains.append(around().error(without) / around().error(with_loops))
        assert without.counts.loops == without.counts.loop_candidates == 0
        assert with_loops.counts.submaps == 1
        assert any("taken" in update.loop for update in updates)
    assert min(taken) >= 1
    assert np.median(gains) > 1.2 and min(gains) > 0.8


def test_a_loop_between_exact_windows_changes_nothing():
    slam, _ = around().run(around().oracle(), Config())
    assert slam.counts.loops >= 1 and slam.counts.loops_refused == 0
    assert around().error(slam) < 2e-3
    loop = next(edge for edge in slam.solution.edges if edge.kind == "loop")
    rows = {int(w): row for row, w in enumerate(slam.solution.window_ids)}
    assert {loop.first, loop.second} <= set(rows)


def test_without_time_candidates_wait():
    """Windows that wait come first: the candidate is verified as soon as there is time."""
    drive = around()
    slam = Slam(Config(), drive.oracle())
    made: list[Keyframe] = []
    windows = []
    for index, image in enumerate(drive.pictures):
        made.append(Keyframe(index, index * 10**8, image, VIEW))
        if len(made) == 8:
            windows.append(Window(len(windows), tuple(made), tuple(k.id for k in made[:3]) if windows else ()))
            made = made[-3:]
    for window in windows[:-1]:
        assert slam.step(window, verify=False).loop == ""
    assert slam.counts.loops == 0 and slam.counts.loop_candidates > 0
    assert "taken" in slam.step(windows[-1]).loop
    assert slam.counts.loops == 1


# Two rooms that look the same.

APART = np.array([30.0, 0.0, 0.0])


@cache
def twins() -> tuple[Scene, Drive]:
    """The same room twice, 30 m apart; 28 keyframes in the one, then the same views in the other."""
    faces = scene().faces
    both = Scene([*faces, *(Face(f.corner + APART, f.right, f.down, f.texture) for f in faces)])
    poses, pictures = images(63, 1.3)
    moved = poses[:28].copy()
    moved[:, :3, 3] += APART
    return both, Drive(np.concatenate([poses[:28], moved]), (*pictures[:28], *pictures[:28]))


class Honest(SceneReconstructor):
    """Knows that the rooms are two."""


class Gullible(SceneReconstructor):
    """Takes the second room for the first in every window that begins in the first and ends in the second unshared."""

    def reconstruct(self, window: Window):
        if window.shared or {k.id < 28 for k in window.keyframes} != {True, False}:
            return super().reconstruct(window)
        truth, self._poses = self._poses, {stamp: self._home(matrix) for stamp, matrix in self._poses.items()}
        try:
            return super().reconstruct(window)
        finally:
            self._poses = truth

    @staticmethod
    def _home(matrix: Array) -> Array:
        return pose(matrix[:3, :3], matrix[:3, 3] - (APART if matrix[0, 3] > 15 else 0))


def look_alike(kind: type[SceneReconstructor], **settings: object) -> tuple[Slam, list[Update], float]:
    both, drive = twins()
    oracle = kind(both, [index * 10**8 for index in range(len(drive.poses))], drive.poses, OracleNoise(scale=0.5))
    slam, updates = drive.run(oracle, Config().replace(settings))
    return slam, updates, drive.error(slam)


def test_a_look_alike_out_of_reach_is_no_candidate():
    slam, _, error = look_alike(Honest)
    assert slam.counts.loop_candidates == 0 and error < 2e-3


def test_a_look_alike_that_the_reconstructor_sees_through_is_refused():
    slam, updates, error = look_alike(Honest, **{"loops.drift": 10.0})
    assert slam.counts.loop_candidates > 0 and slam.counts.loops == 0 and slam.counts.loops_refused > 0
    assert any("the features see the other place" in update.loop for update in updates)
    assert error < 2e-3


def test_a_look_alike_that_fools_the_reconstructor_is_refused_by_the_graph():
    """Image, features and joint reconstruction all say the same place; only the map knows better."""
    slam, updates, error = look_alike(Gullible, **{"loops.drift": 10.0})
    assert any("chi-square" in update.loop for update in updates)
    assert slam.counts.loops == 0 and slam.counts.loops_refused > 0
    assert {edge.kind for edge in slam.solution.edges} == {"overlap", "refused"}
    assert error < 2e-3


# Submaps.

class Nearsighted(SceneReconstructor):
    """Refuses windows in which two keyframes that follow each other have little in common."""

    def reconstruct(self, window: Window):
        poses = [self._poses[k.stamp] for k in window.keyframes]
        steps = [inverse(a) @ b for a, b in pairwise(poses)]
        if any(np.linalg.norm(s[:3, 3]) > 0.7 or rotation_angle(s[:3, :3]) > np.radians(30) for s in steps):
            raise ReconstructionRefused("no matches")
        return super().reconstruct(window)


def test_submaps_are_joined_where_a_loop_connects_them():
    """The chain breaks; the second part comes back to where the first was: one loop waits, the next window joins."""
    poses, pictures = images(63, 1.3)
    chosen = [*range(22), *range(38, 63)]  # half a lap later
    drive = Drive(poses[chosen], tuple(pictures[k] for k in chosen), breaks=(22,))
    slam, updates = drive.run(drive.oracle(Nearsighted), Config())
    assert sum(update.new_submap for update in updates) == 1
    waits = next(row for row, update in enumerate(updates) if "waits for another one" in update.loop)
    assert "joins" in updates[waits + 1].loop and slam.counts.loops >= 3
    assert slam.counts.submaps == 1 and set(slam.solution.submaps.tolist()) == {0}
    assert drive.error(slam) < 5e-3
    alone, _ = drive.run(drive.oracle(Nearsighted), OFF)
    assert alone.counts.submaps == 2 and drive.error(alone) > 0.5


def test_a_submap_joins_the_map_where_its_images_are_found_again():
    """Before any loop is verified: the window in which the camera comes back is held against the map itself."""
    poses, pictures = images(63, 1.3)
    chosen = [*range(22), *range(30, 63)]  # what is seen at first after the break is nowhere in the map
    drive = Drive(poses[chosen], tuple(pictures[k] for k in chosen), breaks=(22,))
    slam, updates = drive.run(drive.oracle(Nearsighted), Config())
    assert sum(update.new_submap for update in updates) == 1
    said = [update.loop for update in updates if "joins" in update.loop]
    assert len(said) == 1 and "images of which are found in the map, joins it" in said[0]
    assert slam.counts.submaps == 1 and drive.error(slam) < 5e-3


def test_keyframes_are_bounded_where_the_space_is_covered():
    """Three times around: the redundant keyframes are let go, the newest stay, the map stays as whole and as right."""
    poses, pictures = images(63, 1.3)
    once = range(48)  # one lap
    rows = [*once, *once, *once]
    drive = Drive(poses[rows], tuple(pictures[k] for k in rows))
    slam, _ = drive.run(drive.oracle(), OFF.replace({"map.max_keyframes": 100, "map.voxel": 0.05}))
    free, _ = drive.run(drive.oracle(), OFF.replace({"map.voxel": 0.05}))
    ids = slam.solution.ids
    assert len(free.solution) == slam.counts.released + len(ids) and slam.counts.unplaced == 0
    assert len(ids) <= 105 and set(range(144 - 64, int(ids[-1]))) <= set(ids.tolist())
    assert set(slam.solution.keyframes) == set(ids.tolist())
    assert len(slam.map_cloud()) > 0.97 * len(free.map_cloud())
    assert drive.error(slam) < 2e-3
    # Nor does the graph grow, and what is left of it hangs together.
    assert len(slam._atlas._graph._graph.map_node) <= 1.25 * len(ids) + 5 < len(free._atlas._graph._graph.map_node)
    edges = slam.solution.edges
    assert {edge.second for edge in edges} == set(slam.solution.window_ids[1:].tolist())
    assert {edge.first for edge in edges} <= set(slam.solution.window_ids.tolist())
    again = Slam(Config(), drive.oracle())
    again.restore_map(slam.record(np.eye(4)))
    assert np.allclose(again.solution.map_camera, slam.solution.map_camera, atol=1e-9)
    # Each owns what it keeps: a view of what came with others would keep it all, for as long as one of them is kept.
    assert not held_in_vain(slam._atlas) and not held_in_vain(slam._point_map)
    again._atlas.release(ids[::2].tolist())
    again._atlas.release(ids[1:20:6].tolist())
    again._atlas._graph._marginalize()  # few relations of many are new
    assert not held_in_vain(again._atlas)


# The parts.

def keyframe(matrix: Array, image: np.ndarray, unit: float, name: int) -> MapKeyframe:
    depth = scene().depth(matrix, VIEW, SIZE) / unit
    return MapKeyframe(name, name, VIEW, depth.astype(np.float16), np.full(depth.shape, 255, np.uint8), image)


def test_features_see_how_two_keyframes_lie():
    poses, pictures = images(63, 1.3)
    first, second = (keyframe(poses[k], pictures[k], unit, k) for k, unit in ((3, 0.5), (5, 2.0)))
    features = [describe(pictures[k])[0] for k in (3, 5, 30)]
    seen = two_view_geometry(first, features[0], second, features[1], 15)
    truth = inverse(poses[3]) @ poses[5]
    assert seen is not None and seen.inliers >= 15
    assert np.linalg.norm(seen.older_newer[:3, 3] * 0.5 - truth[:3, 3]) < 0.05
    assert rotation_angle(seen.older_newer[:3, :3].T @ truth[:3, :3]) < np.radians(1.5)
    other = keyframe(poses[30], pictures[30], 1.0, 30)
    assert two_view_geometry(first, features[0], other, features[2], 15) is None


def test_depth_agrees_at_the_true_pose_and_scale_only():
    poses, pictures = images(63, 1.3)
    first, second = (keyframe(poses[k], pictures[k], unit, k) for k, unit in ((3, 0.5), (5, 2.0)))
    truth = inverse(poses[3]) @ poses[5]
    truth[:3, 3] /= 0.5
    alike, common = depth_agreement(first, second, truth, 4.0)
    assert alike > 0.85 and common > 0.3
    assert depth_agreement(first, second, truth, 6.0)[0] < 0.3
    turned = truth @ pose(so3_exp(np.array([0, np.radians(25), 0])), np.zeros(3))
    assert depth_agreement(first, second, turned, 4.0)[0] < 0.8 * alike
    away = truth @ pose(so3_exp(np.array([0, np.pi, 0])), np.zeros(3))
    assert depth_agreement(first, second, away, 4.0)[1] < 0.1


def test_the_album_gives_back_what_it_was_given():
    _, pictures = images(63, 1.3)
    album, given = KeyframeImages(), Keyframe(7, 123, pictures[0], VIEW, False,
                                    Corners(np.arange(3), np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)))
    album.add(given, describe(pictures[0])[0])
    back = album.keyframe(7)
    assert 7 in album and (back.id, back.stamp, back.calibrated) == (7, 123, False)
    assert back.image.shape == given.image.shape and back.corners is given.corners
    off = np.abs(back.image.astype(int) - given.image)
    assert np.mean(off) < 6 and album._stored[7].jpeg.nbytes < given.image.nbytes / 3
    album.remove(7)
    assert 7 not in album

"""A rendered stairwell whose floors are built alike: loops between floors are refused, true ones are taken."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from rendered_drives import DRIFT, SIZE, VIEW, Drive

from vggt_ros.config import Config
from vggt_ros.geometry.poses import Array, pose
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.slam import Slam
from vggt_ros.synthetic import Scene, SceneReconstructor, laps, room
from vggt_ros.synthetic.scene import Face
from vggt_ros.windows.keyframe import Window
from vggt_ros.windows.solution import Update

FLOOR_HEIGHT = 3.0
LAP, RISE = 26, 5
"""Keyframes around a floor, and from one floor to the next."""


def raised(matrix: Array, floors: float) -> Array:
    return pose(matrix[:3, :3], matrix[:3, 3] + [0, 0, FLOOR_HEIGHT * floors])


@cache
def stairwell(floors: int, back: int = LAP) -> Drive:
    """A lap around each floor, straight up in between; then straight down to the first, and `back` keyframes on."""
    faces = [Face(face.corner + np.array([0, 0, FLOOR_HEIGHT * floor]), face.right, face.down, face.texture)
             for floor in range(floors) for face in room().faces]
    scene, around, poses = Scene(faces), laps(LAP + 1, laps=1.0), []
    for floor in range(floors):
        poses += [raised(matrix, floor) for matrix in around[:-1]]
        if floor < floors - 1:
            poses += [raised(around[0], floor + step / RISE) for step in range(RISE)]
    poses += [raised(around[0], floors - 1 - step / RISE) for step in range(RISE * (floors - 1))]
    poses += [*around[:back]]
    return Drive(scene, np.array(poses), tuple(scene.render(matrix, VIEW, SIZE)[0] for matrix in poses))


class DeceivedReconstructor(SceneReconstructor):
    """Reconstructs two floors as one in every joint window of a loop, as their images alone demand."""

    def reconstruct(self, window: Window):
        ids = np.array(window.ids)
        split = int(np.argmax(abs(np.diff(ids)))) + 1
        if window.shared or abs(np.diff(ids)).max() < 8:
            return super().reconstruct(window)
        heights = [np.median([self._poses[k.stamp][2, 3] for k in side])
                   for side in (window.keyframes[:split], window.keyframes[split:])]
        floors = round((heights[1] - heights[0]) / FLOOR_HEIGHT)
        truth = self._poses
        self._poses = truth | {k.stamp: raised(truth[k.stamp], -floors) for k in window.keyframes[split:]}
        try:
            return super().reconstruct(window)
        finally:
            self._poses = truth


LOST = LAP + RISE + 2
"""The keyframe on the second floor before which the camera is lost; a window ends with the one before."""


class LosesTheCamera(DeceivedReconstructor):
    """Solves no window, but those of loops, with keyframes on both sides of the loss."""

    def reconstruct(self, window: Window):
        ids = np.array(window.ids)
        if ids[0] < LOST <= ids[-1] and abs(np.diff(ids)).max() < 8:
            raise ReconstructionRefused("no matches")
        return super().reconstruct(window)


@dataclass(frozen=True)
class Result:
    """What became of a drive; `same` and `other` are the verified loops within a floor and between floors."""

    slam: Slam
    updates: list[Update]
    error: float
    same: list[str]
    other: list[str]


def run(floors: int, seed: int, config: Config | None = None) -> Result:
    drive = stairwell(floors)
    slam, updates = drive.run(drive.oracle(DeceivedReconstructor, noise=DRIFT, seed=seed), config or Config())
    return Result(slam, updates, drive.error(slam), *loops_by_floor(updates, drive.poses))


def loops_by_floor(updates: list[Update], poses: Array) -> tuple[list[str], list[str]]:
    same, other = [], []
    for update in updates:
        if found := re.match(r"loop of keyframes (\d+) and (\d+) ", update.loop):
            first, second = (poses[int(keyframe), 2, 3] for keyframe in found.groups())
            (same if abs(first - second) < FLOOR_HEIGHT / 2 else other).append(update.loop)
    return same, other


def check(result: Result) -> None:
    assert result.other, "no loop between floors was tried"
    assert not [loop for loop in result.other if ") accepted: " in loop]
    assert any("look alike" in loop and "another stretch" in loop for loop in result.other)
    assert any(") accepted: " in loop for loop in result.same)
    assert result.slam.counts.submaps == 1


def test_a_camera_that_was_lost_is_not_found_on_another_floor():
    """Its images are found on the first floor, which it cannot have reached; it is joined when it has come back."""
    drive = replace(stairwell(2, back=14), breaks=(LOST,))
    slam, updates = drive.run(drive.oracle(LosesTheCamera, noise=DRIFT), Config())
    assert any("it can have come only" in update.refused for update in updates)
    assert sum(update.new_submap for update in updates) == 1
    assert slam.counts.submaps == 1
    assert drive.error(slam) < FLOOR_HEIGHT / 5


@pytest.mark.slow
def test_two_floors_that_look_alike_stay_apart_and_the_loop_at_the_true_one_is_taken():
    check(run(2, 0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_three_floors_that_look_alike_stay_apart_and_loops_at_the_true_one_reduce_drift(seed):
    result = run(3, seed)
    check(result)
    without = run(3, seed, Config().replace({"loops.enabled": False}))
    assert result.error < min(0.8 * without.error, FLOOR_HEIGHT / 5)

"""Objects that moved, in rendered rooms: their points leave the map, what stands stays."""

from __future__ import annotations

import numpy as np
import pytest

from vggt_ros.config import MapConfig
from vggt_ros.mapping.dense.surface import Surface, unproject
from vggt_ros.synthetic import laps, pinhole, room
from vggt_ros.synthetic.rooms import _box
from vggt_ros.synthetic.scene import Scene
from vggt_ros.windows.solution import MapKeyframe, Solution

SIZE, VIEW = (100, 75), pinhole(100, 75)
CONFIG = MapConfig(voxel=0.03)
ROOM = room()
BOXES = [((0.9, 0.8, 0.0), (0.4, 0.4, 1.2)), ((-1.5, -1.0, 0.0), (0.5, 0.3, 0.9)), ((1.2, -1.1, 0.0), (0.3, 0.3, 1.5))]
POSES = laps(48, laps=2.0)
"""Two laps of 24 keyframes."""


def with_boxes(boxes):
    rng = np.random.default_rng(1)
    return Scene([*ROOM.faces, *(face for low, size in boxes for face in _box(rng, 0.02, low, size, ("tiles",)))])


def keyframes(scenes):
    """Return the keyframes of each scene at the poses of its rows, with 1 % of noise."""
    rng = np.random.default_rng(0)
    found = {}
    for row, camera in enumerate(POSES):
        depth = scenes[row].depth(camera, VIEW, SIZE) * np.exp(0.01 * rng.standard_normal(SIZE[::-1]))
        found[row] = MapKeyframe(row, row, VIEW, depth.astype(np.float16), np.full(depth.shape, 150, np.uint8),
                                 np.zeros((*depth.shape, 3), np.uint8))
    return found


def solution(stored, count):
    ids, zeros = np.array(sorted(stored)[:count]), np.zeros(count, np.int64)
    return Solution(count, ids, ids, zeros, zeros, POSES[ids], np.ones(count), stored)


def mapped(stored):
    """Return the points of the map after windows of five keyframes."""
    surface = Surface(CONFIG)
    for count in [*range(5, len(stored), 5), len(stored)]:
        surface.update(solution(stored, count))
    surface.update(solution(stored, len(stored)), complete=True)
    return surface.cloud(solution(stored, len(stored))).points


def all_points(stored):
    return np.concatenate([unproject(one, CONFIG).transformed(POSES[row]).points for row, one in stored.items()])


def on_boxes(points, boxes):
    """Return which points are inside boxes or on their faces, above the floor."""
    inside = np.zeros(len(points), bool)
    for low, size in boxes:
        low = np.array(low) + (0, 0, 0.1)
        inside |= ((points > low - 0.05) & (points < low + size + 0.05)).all(1)
    return inside


def voxels(points):
    return set(map(tuple, np.floor(points / 0.1).astype(int).tolist()))


@pytest.fixture(scope="module")
def moved():
    """Boxes that stand in the way during the first lap, and are elsewhere or gone in the second."""
    return keyframes([with_boxes(BOXES)] * 24 + [ROOM] * 24)


def test_what_moved_is_gone_and_what_stands_stays(moved):
    ghosts, points = on_boxes(all_points(moved), BOXES), mapped(moved)
    standing = voxels(mapped(keyframes([ROOM] * 48)))
    before, left = (voxels(some) - standing for some in (all_points(moved)[ghosts], points[on_boxes(points, BOXES)]))
    lost = standing - voxels(points)
    print(f"{len(left)} of {len(before)} voxels with ghosts are left, {len(lost)} of {len(standing)} others are lost")
    assert len(before) > 150
    assert len(left) <= 0.05 * len(before)
    assert len(lost) <= 0.02 * len(standing)


def test_what_came_stays(moved):
    """Boxes that appear in the second lap are in the map: what was seen through earlier is no ghost."""
    points = mapped(keyframes([ROOM] * 24 + [with_boxes(BOXES)] * 24))
    there = voxels(points[on_boxes(points, BOXES)])
    alone = mapped({row: one for row, one in keyframes([with_boxes(BOXES)] * 48).items() if row >= 24})
    wanted = voxels(alone[on_boxes(alone, BOXES)])
    print(f"{len(wanted - there)} of {len(wanted)} voxels of what came are missing")
    assert len(wanted - there) < 0.1 * len(wanted)

"""What is new of the map: whoever applies the updates has the points of the map, whatever happens to it."""

import numpy as np
from scenes import lap, run
from test_surface import solution, wall

from vggt_ros.config import Config, MapConfig
from vggt_ros.geometry.poses import pose
from vggt_ros.mapping.dense.map_updates import MapUpdates
from vggt_ros.mapping.dense.surface import Surface
from vggt_ros.slam import Slam

VOXEL = 0.05
UPRIGHT = pose(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([1.0, 2, 3]))


class Receiver:
    """A receiver of updates, which has the points of keyframes in a dictionary."""

    def __init__(self):
        self.parts, self.updates = {}, MapUpdates()

    def receive(self, surface, state, map_world=UPRIGHT, limit=None):
        """Return how many keyframes and points came, in all updates that it takes."""
        keyframes = points = 0
        while self.updates.refresh(surface, map_world):
            for keyframe, cloud in self.updates.take(surface, state, limit).items():
                keyframes, points = keyframes + 1, points + len(cloud)
                self.parts.pop(keyframe, None)
                if len(cloud):
                    self.parts[keyframe] = cloud.points
        return keyframes, points

    @property
    def points(self):
        return np.concatenate([np.zeros((0, 3), np.float32), *(self.parts[k] for k in sorted(self.parts))])


def same_points(first, second, tolerance):
    return len(first) == len(second) and np.abs(np.sort(first, 0) - np.sort(second, 0)).max(initial=0) <= tolerance


def aside(x, z=0.0):
    return pose(np.eye(3), np.array([x, 0.0, z]))


def test_only_what_is_new_or_has_moved_is_sent():
    points, receiver = Surface(MapConfig(voxel=VOXEL)), Receiver()
    keyframes, cameras = [wall(k) for k in range(4)], [aside(4.0 * k) for k in range(4)]

    def update(count, moved=None):
        state = solution(keyframes[:count], moved or cameras[:count])
        points.update(state)
        got = receiver.receive(points, state)
        assert same_points(receiver.points, points.cloud(state).transformed(UPRIGHT).points, VOXEL)
        return got

    each = update(1)[1]
    assert each > 500
    assert update(1) == (0, 0)
    assert update(3) == (2, 2 * each)
    shifted = [*cameras[:2], aside(8.0 + 0.6 * VOXEL)]
    assert 1 <= update(3, shifted)[0] <= 3  # it may change which of its neighbors has the point of a voxel
    assert update(3, shifted) == (0, 0)
    back = [*cameras[:2], aside(8.0 + 0.3 * VOXEL)]
    assert update(3, back) == (0, 0)  # 0.3 voxels from where it was sent
    assert 2 <= update(4)[0] <= 4  # a new one, and one that moved
    assert update(1) == (3, 0)  # gone
    assert list(receiver.parts) == [0]


def test_many_small_moves_add_up():
    points, receiver, state, sent = Surface(MapConfig(voxel=VOXEL)), Receiver(), None, 0
    keyframe = wall(0)
    for step in range(21):
        state = solution([keyframe], [aside(0.1 * VOXEL * step)])
        points.update(state)
        sent += receiver.receive(points, state)[0]
        off = receiver.points - points.cloud(state).transformed(UPRIGHT).points
        assert np.linalg.norm(off.mean(0)) < 0.51 * VOXEL
    assert 3 <= sent < 7


def test_a_limit_spreads_the_map_over_updates_the_newest_first():
    points, receiver = Surface(MapConfig(voxel=VOXEL)), Receiver()
    state = solution([wall(k) for k in range(5)], [aside(4.0 * k) for k in range(5)])
    points.update(state)
    each = len(points) // 5
    updates, order = receiver.updates, []
    while updates.refresh(points, UPRIGHT):
        taken = updates.take(points, state, limit=2 * each)
        assert sum(map(len, taken.values())) <= 2 * each
        order.append(list(taken))
    assert order == [[4, 3], [2, 1], [0]]
    updates.invalidate()
    updates.refresh(points, UPRIGHT)
    assert list(updates.take(points, state, limit=1)) == [4]  # larger than the limit
    assert updates.waiting == 4


def test_another_frame_and_another_map_replace_everything():
    points, receiver = Surface(MapConfig(voxel=VOXEL)), Receiver()
    state = solution([wall(0), wall(1)], [aside(0), aside(4)])
    points.update(state)
    receiver.receive(points, state)
    assert receiver.receive(points, state, np.eye(4))[0] == 2
    assert same_points(receiver.points, points.cloud(state).points, 1e-5)
    other, later = Surface(MapConfig(voxel=VOXEL)), solution([wall(1), wall(2)], [aside(1), aside(5)])
    other.update(later)
    assert receiver.receive(other, later, np.eye(4))[0] == 3  # 0 is gone
    assert same_points(receiver.points, other.cloud(later).points, 1e-5)
    empty = Surface(MapConfig())
    assert receiver.receive(empty, solution([], np.zeros((0, 4, 4))), np.eye(4)) == (2, 0) and not receiver.parts


def test_updates_give_the_map_of_a_lap_at_every_window(monkeypatch):
    """With corrections by the pose graph, and less data than the whole map after every window."""
    receiver, sent, whole, errors = Receiver(), [], [], []
    step = Slam.step

    def stepped(slam, window, verify=True):
        update, surface = step(slam, window, verify), slam.surface
        sent.append(receiver.receive(surface, slam.solution, limit=20_000)[1])
        whole.append(len(surface))
        ours = {k: surface.keyframe_cloud(k, slam.solution).transformed(UPRIGHT).points for k in surface.keyframes}
        assert receiver.parts.keys() == {k for k, points in ours.items() if len(points)}
        errors.extend(np.linalg.norm(points - ours[k], axis=1).max() for k, points in receiver.parts.items())
        return update

    monkeypatch.setattr(Slam, "step", stepped)
    run(lap(), Config(), lap().oracle())
    assert max(errors) < 2 * Config().map.voxel and len(whole) > 3
    assert sum(sent) < 0.7 * sum(whole)

"""The surface: bounded by voxels, and moved with the pose graph."""

from dataclasses import replace

import cv2
import numpy as np
from scenes import lap, run

from vggt_ros.config import Config, MapConfig
from vggt_ros.geometry.poses import pose, so3_exp
from vggt_ros.mapping.dense.surface import Surface, unproject
from vggt_ros.windows.solution import MapKeyframe, Solution

INTRINSICS = np.array([[80.0, 0, 49.5], [0, 80.0, 39.5], [0, 0, 1]])


def wall(keyframe: int, distance: float = 2.0, confidence: int = 255) -> MapKeyframe:
    """Return a keyframe that looks straight at a wall."""
    return MapKeyframe(keyframe, keyframe, INTRINSICS, np.full((80, 100), distance, np.float16),
                        np.full((80, 100), confidence, np.uint8), np.full((80, 100, 3), keyframe % 256, np.uint8))


def solution(keyframes: list[MapKeyframe], cameras, scales=None, version=1) -> Solution:
    """Return a solution with these keyframes at these poses."""
    ids = np.array([k.id for k in keyframes])
    zeros = np.zeros(len(ids), np.int64)
    return Solution(version, ids, ids, zeros, zeros, np.array(cameras),
                    np.ones(len(ids)) if scales is None else np.array(scales), {k.id: k for k in keyframes})


def voxels(points, edge: float) -> int:
    """Return how many voxels the points touch."""
    return len(np.unique(np.floor(points / edge).astype(int), axis=0))


def test_one_point_a_voxel():
    """However often a wall is seen, its map has no more points than voxels."""
    points = Surface(MapConfig(voxel=0.05))
    keyframes = [wall(k) for k in range(10)]
    points.update(solution(keyframes, [np.eye(4)] * 10))
    cloud = points.cloud(solution(keyframes, [np.eye(4)] * 10))
    assert len(cloud) == len(points) == voxels(cloud.points.astype(float), 0.05)
    assert len(cloud) == voxels(unproject(keyframes[0], MapConfig()).points.astype(float), 0.05)
    assert (cloud.colors == 0).all()  # the first keyframe's


def test_a_correction_moves_the_points():
    """The points move and scale with their keyframes, without an update."""
    points, keyframes = Surface(MapConfig(voxel=0.05)), [wall(0)]
    points.update(solution(keyframes, [np.eye(4)]))
    moved = pose(so3_exp(np.array([0, 0.5, 0])), np.array([1.0, 2.0, 3.0]))
    before = points.cloud(solution(keyframes, [np.eye(4)])).points
    after = points.cloud(solution(keyframes, [moved], [2.0])).points
    assert np.allclose(after, 2 * before @ moved[:3, :3].T + moved[:3, 3], atol=1e-5)


def test_voxels_are_chosen_anew_after_a_correction():
    """When two copies of a wall that drifted apart come together, two layers of points become one."""
    points, keyframes = Surface(MapConfig(voxel=0.05)), [wall(0), wall(1)]
    away = pose(np.eye(3), np.array([0, 0, 0.5]))
    points.update(solution(keyframes, [np.eye(4), away]))
    apart = len(points)
    together = solution(keyframes, [np.eye(4), np.eye(4)], version=2)
    points.update(together)
    assert len(points) < 0.8 * apart
    assert len(points) == voxels(points.cloud(together).points.astype(float), 0.05)


def test_the_number_of_points_is_bounded():
    """Above the limit the voxels grow."""
    points, keyframes = Surface(MapConfig(voxel=0.01, max_points=1000)), [wall(0), wall(1)]
    cameras = [np.eye(4), pose(np.eye(3), np.array([0.5, 0, 0.3]))]
    points.update(solution(keyframes, cameras))
    assert 200 < len(points) <= 1000


def test_doubtful_and_far_points_stay_out():
    """Points with low confidence, unknown depth, or many median depths away."""
    keyframe = wall(0)
    depth, confidence = keyframe.depth.copy(), keyframe.confidence.copy()
    depth[:10], depth[10:20], confidence[20:40] = np.nan, 100.0, 20
    cloud = unproject(replace(keyframe, depth=depth, confidence=confidence), MapConfig(min_confidence=0.25))
    assert len(cloud) == 40 * 100
    assert np.allclose(cloud.points[:, 2], 2.0)
    assert len(Surface(MapConfig()).cloud(Solution())) == 0


def test_memory_of_a_keyframe():
    """The map keeps about 0.11 MB per keyframe besides features; another wrapper of VGGT keeps 26 MB per window."""
    sequence = lap()
    slam = run(sequence, Config(), sequence.oracle(depth_width=320)).slam
    keyframes = list(slam.solution.keyframes.values())
    sizes = [k.depth.nbytes + k.confidence.nbytes + k.color.nbytes for k in keyframes]
    assert max(sizes) < 130_000
    assert keyframes[0].depth.shape == (150, 200)
    images = {frame.stamp: frame.image for frame in sequence.frames}
    for keyframe in keyframes:
        small = cv2.resize(images[keyframe.stamp], (200, 150), interpolation=cv2.INTER_AREA).astype(float)
        assert np.sqrt(np.mean((np.asarray(keyframe.color) - small) ** 2)) < 8  # of 255: JPEG of a dense texture

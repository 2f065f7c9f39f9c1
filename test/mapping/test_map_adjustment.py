"""Bundle adjustment of the whole map, on exact tracks of a wall with relief that a camera passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vggt_ros.config import Config
from vggt_ros.geometry.poses import inverse, pose, so3_exp
from vggt_ros.geometry.sim3 import to_sim3
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.mapping.submaps.map_adjustment import MapAdjustment
from vggt_ros.pose_graph.relative_poses import LoopMeasurement
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import OBSERVED, MetricScale
from vggt_ros.windows.tracks import Tracks

COUNT, FOCAL, SIZE, READOUT = 28, 300.0, (320, 240), 0.02
SMALL = np.array([[75.0, 0, 39.5], [0, 75.0, 29.5], [0, 0, 1]])
CENTER = np.array([(SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2])


def wall(x, y):
    return 4 + 0.5 * np.sin(1.7 * x) * np.cos(1.3 * y) + 0.3 * np.cos(0.9 * x)


def true_cameras():
    """The camera passes the wall, and turns to and fro."""
    poses = np.tile(np.eye(4), (COUNT, 1, 1))
    for k in range(COUNT):
        poses[k, :3, :3] = so3_exp(np.array([0.03 * np.cos(k), 0.1 * np.sin(0.4 * k), 0.02 * np.sin(k)]))
        poses[k, :3, 3] = 0.25 * k, 0.1 * np.sin(0.7 * k), 0.15 * np.sin(0.5 * k)
    return inverse(poses[0]) @ poses


def world_first():
    """The first camera in the world of the wall."""
    pose = np.eye(4)
    pose[:3, :3] = so3_exp(np.array([0.03, 0, 0]))
    return pose


def depth_map(camera):
    """Exact depth (60, 80) by fixed-point iteration."""
    x, y = np.meshgrid(np.arange(80), np.arange(60))
    rays = np.stack([(x - 39.5) / 75, (y - 29.5) / 75, np.ones(x.shape)], -1) @ (world_first() @ camera)[:3, :3].T
    origin, depth = (world_first() @ camera)[:3, 3], np.full(x.shape, 4.0)
    for _ in range(40):
        place = origin + depth[..., None] * rays
        depth = depth + 0.7 * (wall(place[..., 0], place[..., 1]) - place[..., 2])
    return depth.astype(np.float32)


def tracks_of(cameras, keyframes, missing=()):
    """Exact tracks, shifted by the readout, through keyframes; none on both sides of a `missing` one."""
    rng = np.random.default_rng(1)
    points = np.stack([rng.uniform(-3, 10, 1000), rng.uniform(-2.5, 2.5, 1000)], 1)
    points = np.column_stack([points, wall(*points.T), np.ones(len(points))]) @ inverse(world_first()).T
    parts = []
    for k in keyframes:
        local = points @ inverse(cameras[k]).T
        pixels = local[:, :2] / local[:, 2:3] * FOCAL
        seen = np.flatnonzero((np.abs(pixels) < CENTER).all(1) & (local[:, 2] > 0))
        # By less than a pixel of the depth, which is without a rolling shutter here.
        rate = np.stack([100 * np.sin(k + pixels[seen, 0] / 90), 50 * np.cos(pixels[seen, 1] / 50)], 1)
        side = sum(k > one for one in missing)
        parts.append((seen + 10_000 * side, np.full(len(seen), k), pixels[seen] + READOUT * rate, rate))
    number, keyframe, pixels, rate = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Tracks(number, keyframe, pixels.astype(np.float32), rate.astype(np.float32), np.full(2, FOCAL),
                  readout=READOUT)


def bent(cameras, turn, growth):
    """Cameras with an error of every step, and the scale (n,) that they have then."""
    result, scale = [cameras[0]], np.exp(growth * np.arange(COUNT))
    for k in range(1, COUNT):
        step = inverse(cameras[k - 1]) @ cameras[k]
        step[:3, 3] *= scale[k]
        step[:3, :3] = step[:3, :3] @ so3_exp(np.array([0, turn, 0]))
        result.append(result[-1] @ step)
    return np.array(result), scale


def atlas_of(turn=0.0, growth=0.0, missing=()):
    """A map of windows of 8 keyframes whose poses are bent, with depth that fits, and exact tracks."""
    true = true_cameras()
    cameras, scale = bent(true, turn, growth)
    atlas = Atlas(Config())
    for first in range(0, COUNT - 5, 5):
        ids = tuple(range(first, first + 8))
        keyframes = tuple(Keyframe(k, k * 10**8, np.zeros((SIZE[1], SIZE[0], 3), np.uint8),
                                   np.array([[FOCAL, 0, CENTER[0]], [0, FOCAL, CENTER[1]], [0, 0, 1]])) for k in ids)
        window_camera = inverse(cameras[first]) @ cameras[list(ids)]
        window_camera[0] = np.eye(4)
        depth = np.array([scale[k] * depth_map(true[k]) for k in ids])
        tracks = tracks_of(true, range(max(0, first - 4), first + 8), missing)
        geometry = WindowGeometry(ids, window_camera, np.tile(SMALL, (8, 1, 1)), depth, np.ones_like(depth),
                                  report={"continued": float(first > 0)}, tracks=tracks)
        window = Window(first // 5, keyframes, ids[:3] if first else ())
        if first:
            atlas.attach(window, geometry)
        else:
            atlas.begin_submap(window, geometry)
        atlas.tracks.add(geometry.tracks)
    return atlas, true


def adjust_map(atlas):
    adjustment = MapAdjustment(atlas)
    adjustment.solve()
    return adjustment.take(atlas)


def errors(atlas, true):
    """Largest errors of positions (after scale, of a path of 7 map units), rotations (degrees), and log depths."""
    solution = atlas.solution()
    ours, true = solution.map_camera, true[:len(solution)]
    unit = np.linalg.norm(true[-1, :3, 3]) / np.linalg.norm(ours[-1, :3, 3])
    turned = ours[:, :3, :3].swapaxes(1, 2) @ true[:, :3, :3]
    depth = np.array([np.nanmedian(unit * solution.depth(k)[5:-5, 5:-5] / depth_map(true[k])[5:-5, 5:-5])
                      for k in range(len(true))])
    return (np.linalg.norm(unit * ours[:, :3, 3] - true[:, :3, 3], axis=1).max(),
            np.degrees(np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1))).max(),
            np.abs(np.log(depth)).max())


def test_a_bend_and_a_drift_of_scale_are_removed():
    atlas, true = atlas_of(turn=0.004, growth=0.006)
    moved, turned, stretched = errors(atlas, true)
    assert moved > 0.2 and turned > 3 and stretched > 0.05
    assert "adjusted at once" in adjust_map(atlas)
    moved, turned, stretched = errors(atlas, true)
    assert moved < 0.01 and turned < 0.1 and stretched < 0.01


def test_a_map_that_is_right_stays():
    atlas, _ = atlas_of()
    before = atlas.solution()
    adjust_map(atlas)
    after = atlas.solution()
    np.testing.assert_allclose(after.map_camera, before.map_camera, atol=3e-3)
    np.testing.assert_allclose(after.scale, before.scale, rtol=3e-3)


def test_parts_without_common_tracks_stay_attached():
    atlas, _ = atlas_of(turn=0.004, growth=0.006, missing=(15,))
    before = atlas.graph.poses([15, 16])
    assert adjust_map(atlas).count("adjusted at once") == 2
    after = atlas.graph.poses([15, 16])
    np.testing.assert_allclose(np.linalg.solve(*after), np.linalg.solve(*before), atol=0.02)


def test_loops_stay_and_correct_what_is_adjusted():
    atlas, true = atlas_of(turn=0.001)
    exact = to_sim3((inverse(true[2]) @ true[25])[None])[0]
    loop = atlas.close_loop(2, 25, LoopMeasurement(exact, np.eye(7) * 1e-4))
    assert loop.accepted
    adjust_map(atlas)
    assert loop.accepted and errors(atlas, true)[0] < 0.01


def joint_tracks(true, keyframes):
    """What a joint reconstruction observes: exact tracks through keyframes, with numbers of its own."""
    return replace(tracks_of(true, keyframes), points=tracks_of(true, keyframes).points + 77)


def test_images_across_a_loop_close_it_better_than_its_measurement():
    """A loop whose pose is off by more than it says: its images, which are exact, decide."""
    atlas, true = atlas_of(turn=0.001, missing=(12,))
    off = pose(so3_exp(np.array([0, 0.02, 0])), np.array([0.03, 0, 0.02]))
    wrong = to_sim3((inverse(true[8]) @ true[17] @ off)[None])[0]
    loop = atlas.close_loop(8, 17, LoopMeasurement(wrong, np.eye(7) * 1e-4, tracks=joint_tracks(true, range(8, 18))))
    assert loop.accepted and errors(atlas, true)[0] > 0.02
    assert adjust_map(atlas).count("adjusted at once") == 1  # both sides of the missing tracks, joined by the loop
    assert loop.accepted and errors(atlas, true)[0] < 0.01
    np.testing.assert_allclose(loop.matrix, np.linalg.solve(*atlas.graph.poses([8, 17])), atol=1e-6)


def test_images_across_a_loop_that_is_not_accepted_are_not_used():
    atlas, true = atlas_of(turn=0.001)
    wrong = to_sim3((inverse(true[2]) @ true[25])[None])[0]
    loop = atlas.close_loop(8, 17, LoopMeasurement(wrong, np.eye(7) * 1e-6, tracks=joint_tracks(true, range(8, 18))))
    assert not loop.accepted and not atlas.tracks.across_loops
    loop.accepted = True
    assert len(atlas.tracks.across_loops) == 1


def test_a_map_without_tracks_is_left_alone():
    atlas, _ = atlas_of(turn=0.004)
    atlas.tracks.remove(range(COUNT))
    before = atlas.solution().map_camera
    assert adjust_map(atlas) == ""
    np.testing.assert_array_equal(atlas.solution().map_camera, before)


@pytest.mark.parametrize("wrong", [0, 40])
def test_wrong_observations_do_not_bend_the_map(wrong):
    """A share of them is off by many pixels."""
    atlas, true = atlas_of(turn=0.002)
    rng = np.random.default_rng(0)
    tracks = tracks_of(true, range(COUNT))
    chosen = rng.random(len(tracks.points)) < wrong / 400
    tracks.pixels[chosen] += rng.normal(0, 30, (int(chosen.sum()), 2)).astype(np.float32)
    atlas.tracks.add(tracks)
    adjust_map(atlas)
    assert errors(atlas, true)[0] < 0.02


def test_an_adjustment_that_a_loop_contradicts_is_undone():
    """Wrong tracks, all alike, would take the path from where an exact loop says that it ends."""
    atlas, true = atlas_of()
    exact = to_sim3((inverse(true[2]) @ true[25])[None])[0]
    assert atlas.close_loop(2, 25, LoopMeasurement(exact, np.eye(7) * 1e-6)).accepted
    bad, _ = bent(true, 0.03, 0.0)
    before = atlas.graph.poses(range(COUNT))
    assert not atlas.graph.adjust(range(COUNT), bad)
    np.testing.assert_allclose(atlas.graph.poses(range(COUNT)), before, atol=1e-9)
    assert atlas.loop_count == 1


def path_length(atlas):
    return np.linalg.norm(np.diff(atlas.solution().map_camera[:, :3, 3], axis=0), axis=1).sum()


def test_the_scale_of_a_map_in_meters_stays():
    """Sources of metric scale hold it, also where it would drift by the images: half of the tracks end there."""
    atlas, true = atlas_of(turn=0.004)
    atlas.metric = MetricScale(OBSERVED, 0.01, "odometry")
    before = path_length(atlas)
    assert "adjusted at once" in adjust_map(atlas)
    assert path_length(atlas) == pytest.approx(before, rel=2e-3)
    moved, turned, _ = errors(atlas, true)
    assert moved < 0.02 and turned < 0.1


def test_what_an_adjustment_of_a_map_that_changed_meanwhile_is_worth():
    """The map was scaled, and one of the keyframes removed, while it was solved on another thread."""
    atlas, true = atlas_of(turn=0.004)
    adjustment = MapAdjustment(atlas)
    adjustment.solve()
    unit = path_length(atlas)
    atlas.rescale(2.0, MetricScale())
    atlas.remove([COUNT - 1])
    assert "adjusted at once" in adjustment.take(atlas)
    assert path_length(atlas) == pytest.approx(2 * unit, rel=0.1)
    assert errors(atlas, true)[0] < 0.02


def test_an_adjustment_can_be_ended():
    adjustment = MapAdjustment(atlas_of(turn=0.004)[0])
    steps = []

    def check():
        steps.append(1)
        if len(steps) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        adjustment.solve(check)

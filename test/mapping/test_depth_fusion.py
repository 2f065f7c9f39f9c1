"""Fused depth on exact views of a rendered room: noise, flying pixels, wrong keyframes, what is fused again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vggt_ros.geometry.poses import pose, so3_exp
from vggt_ros.mapping.dense.depth_fusion import DepthView, fuse, log_ratios
from vggt_ros.mapping.dense.fused_keyframes import FusedKeyframes, _neighbors
from vggt_ros.synthetic import laps, pinhole, room
from vggt_ros.windows.solution import MapKeyframe, Solution

SIZE, VIEW = (100, 75), pinhole(100, 75)
POSES = laps(60)[:12]
DEPTH = [room().depth(matrix, VIEW, SIZE) for matrix in POSES]


def views(sigma=0.0, confidence=0.5):
    """Return the views with relative noise that differs from pixel to pixel."""
    rng = np.random.default_rng(0)
    return [DepthView(camera, VIEW, (depth * np.exp(sigma * rng.standard_normal(depth.shape))).astype(np.float32),
                      np.full(depth.shape, confidence, np.float32)) for camera, depth in zip(POSES, DEPTH, strict=True)]


def fused(seen, index, **changes):
    return fuse(replace(seen[index], **changes), [view for k, view in enumerate(seen) if k != index])


def test_exact_depth_stays_and_is_confirmed():
    """Nothing is lost of what others see too, and each vote raises the confidence."""
    result = fused(views(confidence=0.3), 5)
    known = result.depth > 0
    assert known.mean() > 0.99
    assert np.percentile(np.abs(result.depth / DEPTH[5] - 1)[known], 95) < 0.01
    assert np.median(result.confidence) > 0.6


def test_noise_is_averaged_where_depth_agrees():
    noisy = views(sigma=0.02)
    result = fused(noisy, 5)
    known = result.depth > 0
    before, after = (np.median(np.abs(np.log(depth[known] / DEPTH[5][known])))
                     for depth in (noisy[5].depth, result.depth))
    assert known.mean() > 0.93 and after < 0.6 * before  # without some of the sides of boxes at a grazing angle


def test_flying_pixels_are_dropped():
    """Points in mid-air, which others see through, have no depth left, however confident they are."""
    seen = views(confidence=0.6)
    flying = DEPTH[5].copy()
    rows, columns = np.mgrid[5:70:8, 5:95:8]
    flying[rows, columns] *= 0.6
    result = fused(seen, 5, depth=flying)
    assert (result.depth[rows, columns] > 0).mean() < 0.1
    flying[rows, columns] = 0
    assert (result.depth > 0)[flying > 0].mean() > 0.95


def test_a_keyframe_whose_depth_is_wrong_loses_its_votes():
    """A fan, nearer than all that others see, is dropped as a whole, and takes nothing of the others with it."""
    seen = views(confidence=0.6)
    fan = replace(seen[5], depth=0.7 * DEPTH[5])
    assert (fused(seen, 5, depth=fan.depth).confidence >= 0.25).mean() < 0.05
    others = [fan if k == 5 else view for k, view in enumerate(seen)]
    assert (fused(others, 6).confidence >= 0.25).mean() > 0.96


def test_the_factor_of_a_keyframe_is_measured_and_applied():
    """Depth that is 5 % too large, as of a network, is so by the median ratio to each of the others, and corrected."""
    seen = views(confidence=0.6)
    others = seen[:5] + seen[6:]
    large = replace(seen[5], depth=np.float32(1.05) * DEPTH[5])
    assert log_ratios(large, others) == pytest.approx([np.log(1.05)] * 11, abs=0.01)
    result = fuse(replace(large, log_factor=-np.log(1.05)), others)
    assert np.median(np.abs(result.depth / DEPTH[5] - 1)) < 0.01


def test_depth_without_neighbors_is_kept():
    """It is in the map by its own rank, and gives way to depth that others confirm."""
    alone = views()[0]
    result = fuse(alone, [])
    assert np.array_equal(result.depth, alone.depth) and np.allclose(result.confidence, 3 / 8)
    assert np.allclose(fuse(views(confidence=0.25)[0], []).confidence, 0.25)
    assert np.allclose(fuse(views(confidence=0.1)[0], []).confidence, 0.1)
    away = replace(alone, map_camera=pose(np.eye(3), np.array([50.0, 0, 0])))
    assert np.array_equal(fuse(alone, [away]).depth, alone.depth)


def test_unknown_depth_is_not_invented():
    seen = views()
    depth = DEPTH[5].copy()
    depth[20:40] = 0
    result = fused(seen, 5, depth=depth)
    assert (result.depth[20:40] == 0).all() and (result.confidence[20:40] == 0).all()


def solution(cameras, count=None, scale=1.0):
    count = len(cameras) if count is None else count
    ids = np.arange(count)
    zeros = np.zeros(count, np.int64)
    return Solution(1, ids, ids, zeros, zeros, np.array(cameras[:count]), np.full(count, scale), KEYFRAMES)


KEYFRAMES = {k: MapKeyframe(k, k, VIEW, depth.astype(np.float16), np.full(depth.shape, 128, np.uint8),
                            np.zeros((*depth.shape, 3), np.uint8)) for k, depth in enumerate(DEPTH)}


def test_only_what_changed_is_fused_again():
    """New keyframes, old ones with several new neighbors, and those whose poses relative to their neighbors changed."""
    depths = FusedKeyframes()
    assert depths.update(solution(POSES, 8)) == set(range(8))
    assert depths.update(solution(POSES, 8)) == set()
    assert depths.update(solution(POSES, 9)) == {8}
    turned = pose(so3_exp(np.array([0.1, 0.7, 0])), np.array([1.0, 2, 3]))
    assert depths.update(solution([turned @ matrix for matrix in POSES], 9)) == set()
    bent = [matrix.copy() for matrix in POSES]
    bent[8][:3, 3] += 0.2
    changed = depths.update(solution(bent, 9))
    assert 8 in changed and depths.update(solution(bent, 9)) == set()
    assert depths.fusions == 9 + len(changed)


def test_keyframes_that_come_at_once_are_fused_once_with_the_factors_of_all():
    """Two have depth that is 5 % too large and small: no keyframe is fused before their factors are known."""
    wrong = dict(KEYFRAMES)
    for k, factor in ((4, 1.05), (8, 0.95)):
        wrong[k] = replace(wrong[k], depth=(np.float32(factor) * DEPTH[k]).astype(np.float16))
    whole, depths = replace(solution(POSES), keyframes=wrong), FusedKeyframes()
    assert depths.update(whole) == set(range(len(POSES)))
    assert depths.fusions == len(POSES) and depths.update(whole) == set()


def test_factors_do_not_depend_on_how_often_depth_is_fused():
    """The depth of two keyframes is 4 % too large and small: both are mended, and stay so when all is fused again."""
    wrong = dict(KEYFRAMES)
    for k, factor in ((4, 1.04), (8, 0.96)):
        wrong[k] = replace(wrong[k], depth=(np.float32(factor) * DEPTH[k]).astype(np.float16))
    whole = replace(solution(POSES), keyframes=wrong)
    depths = FusedKeyframes()
    for moved in (0.0, 0.1, 0.0, 0.1, 0.0):  # a move and back, so that all are fused again
        away = [matrix.copy() for matrix in POSES]
        for matrix in away[::2]:
            matrix[0, 3] += moved
        depths.update(replace(whole, map_camera=np.array(away)))
    assert depths.fusions >= 3 * len(POSES)
    errors = [np.nanmedian(np.log(depths[k].depth / DEPTH[k])) for k in KEYFRAMES]
    assert np.abs(errors).max() < 0.012


def test_submaps_know_nothing_of_each_other():
    """Two submaps whose relative pose is not known lie in one frame: neither contradicts the other."""
    apart = [matrix.copy() for matrix in POSES]
    for matrix in apart[6:]:
        matrix[:3, 3] *= 0.3
    one = replace(solution(apart), submaps=(np.arange(len(POSES)) >= 6).astype(np.int64))
    both, alone = FusedKeyframes(), FusedKeyframes()
    both.update(one)
    alone.update(solution(apart, 6))
    assert all(np.array_equal(both[k].confidence, alone[k].confidence) for k in range(6))


def test_the_number_of_fusions_in_an_update_is_bounded():
    """What is left is done in later updates, until nothing is left."""
    depths = FusedKeyframes()
    depths.update(solution(POSES))
    bent = [matrix.copy() for matrix in POSES]
    for index, matrix in enumerate(bent):
        matrix[:3, 3] += 0.1 * index
    sizes = []
    while found := depths.update(solution(bent), limit=5):
        sizes.append(len(found))
        assert len(sizes) < 10
    assert max(sizes) == 5 and sum(sizes) >= 10


def test_keyframes_that_are_gone_are_forgotten_and_others_go_on():
    depths = FusedKeyframes()
    depths.update(solution(POSES))
    fewer = solution(POSES, 6)
    fewer = replace(fewer, keyframes={k: KEYFRAMES[k] for k in range(6)})
    depths.update(fewer)
    with pytest.raises(KeyError):
        depths[7]
    before = depths[3]
    depths.update(fewer)
    assert depths[3] is before and before.depth.dtype == np.float16


def test_the_scale_of_a_window_is_no_change():
    """Depth is stored in units of the window: a map that is scaled as a whole keeps its fused depth."""
    depths = FusedKeyframes()
    depths.update(solution(POSES))
    scaled = [matrix.copy() for matrix in POSES]
    for matrix in scaled:
        matrix[:3, 3] *= 3
    assert depths.update(solution(scaled, scale=3.0)) == set()
    assert np.nanmedian(depths[4].depth.astype(float) / DEPTH[4]) == pytest.approx(1, abs=0.01)


def test_neighbors_see_all_parts_of_a_keyframe():
    """Many keyframes see all but its left edge, two see that as well but less of the rest: one of these is chosen."""
    flat = replace(KEYFRAMES[0], depth=np.full(DEPTH[0].shape, 2.0, np.float16))
    shifts = [0.0, *np.linspace(0.25, 0.3, 8), -0.95, -1.0]
    cameras = [pose(np.eye(3), np.array([x, 0, 0])) for x in shifts]
    row = replace(solution(cameras), keyframes=dict.fromkeys(range(len(cameras)), flat))
    neighbors, _ = _neighbors(row, 0)
    assert {9, 10} & set(neighbors[:6].tolist())

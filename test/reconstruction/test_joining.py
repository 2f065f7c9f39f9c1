"""Splitting of windows into parts, and joining of the parts."""

import dataclasses

import numpy as np
import pytest
from scenes import lap

from vggt_ros.config import AlignmentConfig
from vggt_ros.geometry.poses import pose, rotation_angle, so3_exp
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.joining import join, part_size, split
from vggt_ros.windows.keyframe import Keyframe, Window


def window(count=8, first=0):
    frames = lap().frames[2 * first: 2 * (first + count): 2]
    return Window(0, tuple(Keyframe(first + i, f.stamp, f.image, f.intrinsics) for i, f in enumerate(frames)), (0, 1))


@pytest.mark.parametrize("count", range(3, 13))
@pytest.mark.parametrize("overlap", range(1, 6))
def test_a_split_gives_two_windows_that_share_the_overlap(count, overlap):
    """All keyframes in order, each part smaller than the whole; the second part lists the shared keyframes."""
    whole = window(count)
    parts = split(whole, overlap, part_size(count, overlap))
    assert len(parts) == 2
    first, second = parts
    assert max(len(first.ids), len(second.ids)) < count
    common = [keyframe for keyframe in first.ids if keyframe in second.ids]
    assert len(common) == min(overlap, count - 2) and second.shared == tuple(common)
    assert sorted({*first.ids, *second.ids}) == list(whole.ids) and first.shared == whole.shared


def test_a_window_that_fits_is_not_split():
    assert [part.ids for part in split(window(5), 3, 5)] == [window(5).ids]
    chain = split(window(8), 3, 4)
    assert [part.ids for part in chain] == [tuple(range(i, i + 4)) for i in range(5)]
    assert [part.ids for part in split(window(3), 3, 2)] == [(0, 1), (1, 2)]


def test_joined_parts_equal_the_window():
    """Each part has a scale of its own; poses and depth are recovered to 0.1 %."""
    whole = lap().oracle(depth_width=160).reconstruct(window())
    parts = [lap().oracle(depth_width=160, seed=seed).reconstruct(part)
             for seed, part in enumerate(split(window(), 3, part_size(8, 3)), start=5)]
    assert abs(np.log(parts[0].report["unit_m"] / parts[1].report["unit_m"])) > 0.1
    joined = join(parts, AlignmentConfig())
    assert joined.keyframe_ids == whole.keyframe_ids
    ratio = whole.report["unit_m"] / parts[0].report["unit_m"]
    size = np.ptp(whole.window_camera[:, :3, 3], axis=0).max()
    for ours, true in zip(joined.window_camera, whole.window_camera, strict=True):
        assert np.linalg.norm(ours[:3, 3] / ratio - true[:3, 3]) < 1e-3 * size
        assert rotation_angle(ours[:3, :3].T @ true[:3, :3]) < 1e-3
    np.testing.assert_allclose(joined.depth / ratio, whole.depth, rtol=1e-3)
    assert len(joined.confidence) == len(joined.intrinsics) == 8


def test_inconsistent_parts_are_refused():
    first, second = (lap().oracle().reconstruct(part) for part in split(window(), 3, 6))
    turned = second.window_camera.copy()
    turned[1] = turned[1] @ pose(so3_exp(np.array([0.0, 0.3, 0.0])), np.zeros(3))
    with pytest.raises(ReconstructionRefused, match=r"are inconsistent: keyframe .* is rotated"):
        join([first, dataclasses.replace(second, window_camera=turned)], AlignmentConfig())

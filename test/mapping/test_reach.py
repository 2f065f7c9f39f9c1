"""How far a lost camera can have come, and submaps that begin without depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scenes import lap

from vggt_ros.config import Config
from vggt_ros.geometry.reach import reach
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.windows.keyframe import Keyframe, Window

SECOND = 10**9


def moving(speed: float, count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Stamps and positions of a camera that moves along x, keyframes 0.5 s apart."""
    stamps = np.arange(count) * SECOND // 2
    return stamps, np.column_stack([speed * stamps / SECOND, np.zeros((count, 2))])


def test_a_camera_comes_farther_the_faster_it_was_and_the_longer_it_was_lost():
    stamps, centers = moving(1.0)
    last = int(stamps[-1])
    assert reach(stamps, centers, 2.0, last + SECOND) == pytest.approx(3 * 1.0 + 0.2 * 2.0)
    assert reach(stamps, centers, 2.0, last + 4 * SECOND) == pytest.approx(3 * 4.0 + 0.2 * 2.0)
    still = moving(0.0)
    assert reach(*still, 2.0, last + SECOND) == pytest.approx(3 * 0.25 * 2.0 + 0.2 * 2.0)  # it may begin to move
    # A single jump of the map is not a speed: the 90th percentile counts.
    centers[10:] += [5.0, 0, 0]
    assert reach(stamps, centers, 2.0, last + SECOND) == pytest.approx(3 * 1.0 + 0.2 * 2.0)


def test_nothing_is_known_where_the_clock_went_back_or_there_is_no_keyframe():
    stamps, centers = moving(1.0)
    assert reach(stamps, centers, 2.0, int(stamps[-1])) is None
    assert reach(stamps[:0], centers[:0], 2.0, SECOND) is None
    assert reach(stamps, centers, float("nan"), int(stamps[-1]) + SECOND) is None


def test_a_submap_begins_without_any_depth():
    """Known fault: its scale was NaN, and so were all poses after the next solution; every later window failed."""
    atlas, oracle, frames = Atlas(Config()), lap().oracle(), lap().frames
    for number, has_depth in enumerate((True, False, False, True)):
        window = Window(number, tuple(Keyframe(8 * number + i, frame.stamp, frame.image, frame.intrinsics)
                                      for i, frame in enumerate(frames[16 * number:16 * number + 16:2])))
        geometry = oracle.reconstruct(window)
        atlas.begin_submap(window, geometry if has_depth else
                           replace(geometry, depth=np.full_like(geometry.depth, np.nan)))
    solution = atlas.solution()
    assert len(solution) == 32 and len(np.unique(solution.submaps)) == 4
    assert np.isfinite(solution.map_camera).all() and (solution.scale > 0).all() and np.isfinite(solution.scale).all()

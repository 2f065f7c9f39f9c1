"""A window that fails half way through being added to the map: the map is as before, and the next windows go on."""

from dataclasses import replace

import numpy as np
import pytest
from scenes import lap, trajectory_error

from vggt_ros.config import Config
from vggt_ros.slam import Slam

FAILING = 2
"""The window that fails."""


class Spoiled:
    """A reconstructor whose window `FAILING` has covariances that are not numbers."""

    def __init__(self):
        self._exact = lap().oracle()

    def __getattr__(self, name):
        return getattr(self._exact, name)

    def reconstruct(self, window):
        geometry = self._exact.reconstruct(window)
        covariance = np.tile(1e-6 * np.eye(6), (len(geometry.keyframe_ids) - 1, 1, 1))
        if window.id == FAILING:
            covariance[-1, 2, 2] = np.nan
        return replace(geometry, step_covariance=covariance)


def fail_to_describe(slam, window):
    """Let the second new keyframe of a window fail when its features are extracted, as for lack of memory."""
    atlas = slam._atlas
    describe, described = atlas.describe, []

    def fails(keyframe):
        described.append(keyframe.id)
        if len(described) == 2:
            atlas.describe = describe
            raise MemoryError("no memory for features")
        return describe(keyframe)

    atlas.describe = fails


@pytest.mark.parametrize("cause", ["covariance", "features"])
def test_a_window_that_fails_half_way_is_lost_alone(cause):
    """In the field each window after it failed with a KeyError: some of its keyframes had no pose in the graph."""
    slam = Slam(Config(), Spoiled() if cause == "covariance" else lap().oracle())
    errors = []
    for frame in lap().frames[:70]:
        window = slam.track(frame).window
        if window is None:
            continue
        if window.id == FAILING and cause == "features":
            fail_to_describe(slam, window)
        before, keyframes = slam.solution, dict(slam._atlas.keyframes)
        try:
            slam.step(window)
        except (ValueError, MemoryError) as error:
            errors.append((window.id, str(error)))
            assert slam.solution is before and slam._atlas.keyframes == keyframes
            assert slam._atlas.graph.ids == before.ids.tolist()
    assert [window for window, _ in errors] == [FAILING]
    assert ("not finite" if cause == "covariance" else "no memory") in errors[0][1]
    assert slam.counts.submaps == 1 and slam.counts.windows > FAILING
    stamps, poses = slam.solution.trajectory(0)
    assert trajectory_error(stamps, poses, lap())[0] < 1e-3

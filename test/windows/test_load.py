"""Under load keyframes are farther apart, before those that were made are thinned."""

import numpy as np
import pytest

from vggt_ros.config import KeyframeConfig
from vggt_ros.features.tracks import FeatureTracks
from vggt_ros.odometry.keyframe_selection import KeyframeSelector
from vggt_ros.windows.load import Load

CONFIG = KeyframeConfig()


def tracks(shift: float, kept: int = 100) -> FeatureTracks:
    """Return the `kept` oldest of 100 tracks, all moved by `shift` pixels in an image 640 pixels wide."""
    made = FeatureTracks(100)
    made.ids = np.arange(kept)
    made.pixels = (np.random.default_rng(0).uniform(0, 400, (100, 2))[:kept] + [shift, 0]).astype(np.float32)
    return made


def needs_keyframe(load: Load, newest: FeatureTracks) -> bool:
    """Return whether an image with these tracks becomes a keyframe after one with the tracks at rest."""
    made = KeyframeSelector(CONFIG)
    made.set_keyframe(tracks(0.0))
    return made.needs_keyframe(newest, (480, 640), load.spacing)


@pytest.mark.parametrize("waiting", [0, 1, 2])
def test_keyframes_are_as_much_farther_apart_as_windows_wait(waiting: int) -> None:
    load = Load(waiting=waiting)
    least = (1 + 0.6 * waiting) * CONFIG.min_parallax
    assert not needs_keyframe(load, tracks(0.98 * least))
    assert needs_keyframe(load, tracks(1.02 * least))
    kept = 100 * CONFIG.min_survival / (1 + 0.6 * waiting)
    assert not needs_keyframe(load, tracks(0.0, round(kept + 1)))
    assert needs_keyframe(load, tracks(0.0, round(kept - 1)))


def test_what_is_given_up_is_said() -> None:
    assert Load().given_up == ""
    assert Load(waiting=1).given_up == "1 window waits for the reconstructor: keyframes are 1.6 times as far apart"
    assert Load(waiting=2).given_up == ("2 windows wait for the reconstructor: keyframes are 2.2 times as "
                                                    "far apart; those that wait are thinned")

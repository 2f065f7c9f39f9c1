"""The mode changes while images come: mapping, localization, and mapping again in the same map."""

import numpy as np
from scenes import lap, trajectory_error

from vggt_ros.config import Config
from vggt_ros.slam import Slam

CONFIG = Config().replace({"windows.size": 5, "windows.overlap": 2, "tracking.features": 200})


def play(slam, begin, end):
    """Track frames of the lap and solve their windows; return what was tracked."""
    tracked = []
    for frame in lap().frames[begin:end]:
        tracked.append(slam.track(frame))
        if tracked[-1].window is not None:
            slam.step(tracked[-1].window)
    return tracked


def test_mapping_to_localization_and_back():
    slam = Slam(CONFIG, lap().oracle())
    play(slam, 0, 50)
    window = slam.change_mode("localization")
    if window is not None:
        slam.step(window)
    mapped = slam.solution
    located = play(slam, 50, 58)
    assert slam.solution is mapped, "the map does not grow"
    assert [frame.state for frame in located].count("TRACKING") > 5
    assert slam.change_mode("mapping") is None
    play(slam, 58, len(lap().frames))
    after = slam.solution
    assert set(mapped.ids) < set(after.ids) and len(after) > len(mapped) + 5
    assert len(np.unique(after.submaps)) == 1, "the new windows join the map"
    assert trajectory_error(after.stamps, after.map_camera, lap())[0] < 0.05

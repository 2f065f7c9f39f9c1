"""The mode changes while images come: mapping, localization, and mapping again in the same map."""

import numpy as np
from scenes import SIZE, lap, trajectory_error

from vggt_ros.config import Config
from vggt_ros.slam import Slam
from vggt_ros.synthetic import pinhole, room
from vggt_ros.windows.frame import Frame

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


def test_a_camera_with_another_lens_is_localized_in_the_map():
    """Its images have a focal length that is 1.4 times that of the map's, and it is calibrated."""
    slam = Slam(CONFIG.replace({"tracking.features": Config().tracking.features}), lap().oracle())
    play(slam, 0, 50)
    window = slam.change_mode("localization")
    if window is not None:
        slam.step(window)
    slam.interrupt()
    matrix = pinhole(*SIZE)
    matrix[[0, 1], [0, 1]] *= 1.4
    tracked = [slam.track(Frame(10**12 + lap().frames[number].stamp,
                                room().render(lap().world_camera[number], matrix, SIZE)[0], matrix))
               for number in range(30, 38)]
    assert all(frame.map_camera is not None for frame in tracked)
    stamps, poses = (np.array(values) for values in zip(*(
        (frame.stamp - 10**12, frame.map_camera) for frame in tracked), strict=True))
    assert trajectory_error(stamps, poses, lap())[0] < 0.05

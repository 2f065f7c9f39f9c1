"""The setting map.planar in the whole pipeline: a drive through a rendered corridor, with the errors of windows."""

from functools import cache

import numpy as np
import pytest
from rendered_drives import SIZE, Drive

from vggt_ros.config import Config
from vggt_ros.synthetic import OracleNoise, corridor, drive

UP = np.array([0.0, 0.0, 1.0])
COUNT = 68


@cache
def straight():
    """20 m with a level robot, whose camera looks down by 3 degrees."""
    gray = np.full((*SIZE[::-1], 3), 128, np.uint8)
    return Drive(corridor(), drive(COUNT, length=20.0), (gray,) * COUNT)


def height_and_tilt_errors(seed, **settings):
    """Return the largest error of height, meters, and of tilt, degrees; with the pose of the first keyframe as given.

    The unit of the map is fitted, since it is not the meter.
    """
    one = straight()
    config = Config().replace({"loops.enabled": False, "windows.size": 8, "windows.overlap": 3, **settings})
    oracle = one.oracle(noise=OracleNoise(scale=0.3, rotation=0.006, translation=0.004, depth=0.01), seed=seed)
    world_first = one.poses[0]
    up = world_first[:3, :3].T @ UP

    def level(slam):  # as the node does with the pose of the camera on the robot
        slam.height.up = slam.height.up_camera = up

    slam, _ = one.run(oracle, config, level)
    solution = slam.solution
    truth = one.poses[solution.ids]
    length = np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1).sum() \
        / np.linalg.norm(np.diff(solution.map_camera[:, :3, 3], axis=0), axis=1).sum()
    height = solution.map_camera[:, :3, 3] @ up * length
    tilt = np.arccos(np.clip(np.einsum("nji,j,i->n", solution.map_camera[:, :3, :3], up, up), -1, 1))
    return np.abs(height).max(), np.degrees(tilt).max()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_planar_drive_stays_in_its_plane(seed):
    plain, planar = (height_and_tilt_errors(seed, **{"map.planar": planar}) for planar in (False, True))
    print("height, m, and tilt, degrees, without and with the ground:", plain, planar)
    assert planar[0] < 0.1 and planar[0] < 0.6 * plain[0]
    assert planar[1] < 1.6 and planar[1] < plain[1]

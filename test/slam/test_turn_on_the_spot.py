"""A camera that steps sideways, turns on the spot until nothing known is in view, and steps sideways again."""

import numpy as np

from vggt_ros.config import Config
from vggt_ros.geometry.poses import mean_rotation, pose, rotation_angle, so3_exp
from vggt_ros.reconstruction.multiview.reconstructor import Multiview
from vggt_ros.slam import Slam
from vggt_ros.synthetic import look_at, pinhole, room
from vggt_ros.windows.frame import Frame

SIZE = (320, 240)


def poses() -> list:
    """Return poses in the room: a step of 5 cm an image, then 150 degrees on the spot, then steps of 5 cm again."""
    begin = look_at(np.array([-0.6, -0.5, 1.1]), np.array([0.0, 2.0, 0.9]))
    steps = [pose(np.eye(3), np.array([0.05 * i, 0, 0])) for i in range(22)]
    there = [begin @ step for step in steps]
    up = there[-1][:3, :3].T @ np.array([0.0, 0.0, 1.0])
    turned = [there[-1] @ pose(so3_exp(-np.radians(5.0 * i) * up), np.zeros(3)) for i in range(1, 31)]
    return there + turned + [turned[-1] @ step for step in steps[1:]]


def test_the_map_goes_on_after_a_turn_on_the_spot():
    """One submap; the orientations of all keyframes agree with the truth to two degrees; keyframes are counted."""
    config = Config().replace({"keyframes.min_parallax": 20.0})
    slam, scene, intrinsics, truth = Slam(config, Multiview(config)), room(), pinhole(*SIZE), {}
    for i, world_camera in enumerate(poses()):
        stamp = int((1 + 0.1 * i) * 1e9)
        truth[stamp] = world_camera
        window = slam.track(Frame(stamp, scene.render(world_camera, intrinsics, SIZE)[0], intrinsics)).window
        if window is not None:
            slam.step(window)
    if (last := slam.flush()) is not None:
        slam.step(last)
    solution = slam.solution
    assert slam.counts.submaps == 1 and slam.counts.unplaced == 0
    assert 0 < slam.counts.turned < slam.counts.keyframes
    errors = [truth[int(stamp)][:3, :3] @ camera[:3, :3].T
              for stamp, camera in zip(solution.stamps, solution.map_camera, strict=True)]
    mean = mean_rotation(np.array(errors))
    assert max(np.degrees(rotation_angle(mean.T @ error)) for error in errors) < 2.0
    without = [k for k in solution.ids.tolist() if not np.isfinite(solution.keyframes[k].depth).any()]
    assert len(without) == slam.counts.turned

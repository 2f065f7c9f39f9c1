"""A dark cabinet on a plain floor: few corners are strong, and most of those do not belong to a point."""

from functools import cache
from itertools import islice

import numpy as np

from vggt_ros.config import Config
from vggt_ros.geometry.poses import umeyama
from vggt_ros.reconstruction.multiview.reconstructor import Multiview
from vggt_ros.slam import Slam
from vggt_ros.synthetic.sequence import cabinet_sequence
from vggt_ros.windows.frame import Frame

IMAGES = 20


@cache
def solved():
    """Return the sequence, and what has its first window."""
    sequence, config = cabinet_sequence(), Config()
    slam = Slam(config, Multiview(config))
    for stamp, image in islice(sequence, IMAGES):
        window = slam.track(Frame(stamp, image, sequence.camera.intrinsics)).window
        if window is not None:
            slam.step(window)
            break
    return sequence, slam


def test_the_first_window_is_solved():
    """All of its keyframes are placed, to a thousandth of the distance of the cabinet."""
    sequence, slam = solved()
    stamps, poses = slam.solution.trajectory(0)
    true = dict(zip(sequence.truth[0].tolist(), sequence.truth[1][:, :3, 3], strict=True))
    centers, target = poses[:, :3, 3], np.array([true[stamp] for stamp in stamps.tolist()])
    error = np.linalg.norm(umeyama(centers, target).apply(centers) - target, axis=1).max()
    print(f"{len(stamps)} keyframes, largest error {error:.4f} m")
    assert len(stamps) == 8 and error < 0.01

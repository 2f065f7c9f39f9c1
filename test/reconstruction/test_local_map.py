"""The local map that `multiview` continues from window to window."""

import numpy as np

from vggt_ros.reconstruction.adjustment.bundle import Scene
from vggt_ros.reconstruction.multiview.sfm.local_map import LocalMap, numbered


def test_points_keep_their_numbers() -> None:
    first = numbered(None, 3, 5)
    local = LocalMap((), Scene(np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros((3, 3)), np.zeros((0, 2))),
                     np.zeros((3, 0, 2)), np.zeros(3, np.intp), {}, 1.0, numbers=first)
    second, retried = numbered(local.of_tracks(np.array([0, 2])), 4, 6), numbered(local, 4, 5)
    np.testing.assert_array_equal(second[:2], first[[0, 2]])
    np.testing.assert_array_equal(retried[:3], first)
    assert len({*first, *second, *retried}) == 3 + 2 + 1

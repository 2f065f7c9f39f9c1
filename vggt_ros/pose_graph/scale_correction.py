"""Poses whose scales are replaced by those from metric sources, node by node along the tree."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vggt_ros.geometry.poses import Array, orthonormalize
from vggt_ros.geometry.sim3 import scales


def rescaled(
    poses: Array, parent: Mapping[int, int], scale: Mapping[int, float], fixed_point: Mapping[int, Array]
) -> Array:
    """Return poses (w, 4, 4) with the given scale of each row, re-attached to its parent or else to the first row.

    The `fixed_point` (3,) of a row, in its own frame, keeps its position in the parent's frame; without one, the origin
    of the row does.
    """
    result, first, old_scale = poses.copy(), min(scale), scales(poses)
    result[first, :3, :3] *= scale[first] / old_scale[first]
    for row in sorted(scale.keys() - {first}):
        above = parent.get(row, first)
        relative = np.linalg.inv(poses[above]) @ poses[row]
        factor = scale[row] / scale[above] * (old_scale[above] / old_scale[row])
        relative[:3, 3] += (1 - factor) * relative[:3, :3] @ fixed_point.get(row, np.zeros(3))
        relative[:3, :3] *= factor
        result[row] = result[above] @ relative
        # This is repeated after every few windows: without it, rounding errors would accumulate to shears.
        result[row, :3, :3] = scale[row] * orthonormalize(result[row, :3, :3])
    return result

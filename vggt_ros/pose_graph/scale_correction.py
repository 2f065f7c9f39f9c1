"""Places whose scale becomes what sources of meters say, node by node along the chain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vggt_ros.geometry.poses import Array, orthonormalize
from vggt_ros.geometry.sim3 import scales


def rescaled(places: Array, parent: Mapping[int, int], scale: Mapping[int, float], pivot: Mapping[int, Array]) -> Array:
    """Return places (w, 4, 4) whose scale is that given for rows, each hung on its parent or on the first of them.

    The `pivot` (3,) of a row, in its own frame, stays where its parent sees it; without, its origin does.
    """
    result, first, size = places.copy(), min(scale), scales(places)
    result[first, :3, :3] *= scale[first] / size[first]
    for row in sorted(scale.keys() - {first}):
        above = parent.get(row, first)
        relative = np.linalg.inv(places[above]) @ places[row]
        larger = scale[row] / scale[above] * (size[above] / size[row])
        relative[:3, 3] += (1 - larger) * relative[:3, :3] @ pivot.get(row, np.zeros(3))
        relative[:3, :3] *= larger
        result[row] = result[above] @ relative
        # Done again after every few windows, rounding errors would add up to shears.
        result[row, :3, :3] = scale[row] * orthonormalize(result[row, :3, :3])
    return result

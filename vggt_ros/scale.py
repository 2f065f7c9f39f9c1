"""What a unit of the map means.

A single camera does not see scale. Until a source of metric scale is there, the first window's median depth counts as
`scale.assumed_depth`, so that voxels, covariances and RViz have sensible units, and the status says UNKNOWN.
"""

from __future__ import annotations

import numpy as np

from vggt_ros.config import ScaleConfig
from vggt_ros.reconstruction.base import WindowGeometry

UNKNOWN, PRIOR = "UNKNOWN", "PRIOR"


def initial_scale(geometry: WindowGeometry, config: ScaleConfig) -> tuple[float, str]:
    """Return map units in a unit of the first window, and the state of scale: PRIOR if the reconstructor is metric."""
    if geometry.metric:
        return 1.0, PRIOR
    return config.assumed_depth / float(np.nanmedian(geometry.depth)), UNKNOWN

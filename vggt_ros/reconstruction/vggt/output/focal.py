"""The focal lengths that the network predicts: which to use, and what they tell of a window.

Each image has its own prediction. For one camera they should agree, and fx should be fy; where they do not, the poses
and the depth of the window are as doubtful.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.windows.keyframe import Window

SPREAD, MAX_SPREAD = 0.02, 0.08
"""Standard deviation of the logarithm of the focal lengths of a window from which it is doubted, and refused: 0.009 in
recorded outputs of VGGT-1B for eight overlapping images."""
ASPECT, MAX_ASPECT = (0.98, 1.02), (0.9, 1.1)
"""Range of fx / fy, over that of the camera, outside of which a window is doubted, and refused. The network has 1.00 at
518x392 and 0.59 at 322x238: images that are too small break it."""
_USUAL_SPREAD = 0.01
_SAMPLES, _FEWEST = 400, 200
"""Pixels of each image that are compared with the other images, and fewest that meet known depth there."""
_AGREEMENT = 0.02
"""Relative difference up to which two depths agree."""


def doubts(predicted: Array, window: Window, max_spread: float = MAX_SPREAD,
           max_aspect: tuple[float, float] = MAX_ASPECT, owner: str = "vggt") -> tuple[float, tuple[str, ...]]:
    """Return how many times more uncertain than usual a window is, and why, by its predicted intrinsics (S, 3, 3).

    Args:
        predicted: for each image.
        window: the window.
        max_spread, max_aspect: beyond which it is refused.
        owner: group of the setting `width`, for messages.

    Raises:
        ReconstructionRefused: the focal lengths contradict each other, or the pixels are far from square.

    """
    fx, fy = predicted[:, 0, 0], predicted[:, 1, 1]
    spread = float(np.log(fx).std())
    true = [k.intrinsics[0, 0] / k.intrinsics[1, 1] if k.calibrated else 1.0 for k in window.keyframes]
    aspect = float(np.exp(np.median(np.log(fx / fy / true))))
    if spread > max_spread:
        raise ReconstructionRefused(f"the predicted focal lengths of its images spread by {100 * spread:.0f} %, more "
                                    f"than {100 * max_spread:.0f} %: the images hardly overlap, or show too little")
    if not max_aspect[0] <= aspect <= max_aspect[1]:
        raise ReconstructionRefused(f"the predicted fx / fy is {aspect:.2f}, outside {max_aspect[0]} to "
                                    f"{max_aspect[1]}: images of more pixels help ({owner}.width)")
    factor, notes = 1.0, []
    if spread > SPREAD:
        factor = spread / _USUAL_SPREAD
        notes.append(f"the predicted focal lengths of its images spread by {100 * spread:.1f} %")
    if not ASPECT[0] <= aspect <= ASPECT[1]:
        factor = max(factor, abs(float(np.log(aspect))) / _USUAL_SPREAD)
        notes.append(f"the predicted fx / fy is {aspect:.3f}")
    return factor, tuple(notes)


def own_or_shared(own: Array, shared: Array, window_camera: Array, depth: NDArray[np.float32]) -> Array:
    """Return intrinsics (S, 3, 3): those of each image, unless the shared ones make its depths agree better.

    Args:
        own: predicted for each image, (S, 3, 3).
        shared: one for all, (S, 3, 3).
        window_camera: poses (S, 4, 4).
        depth: (S, h, w), NaN where unknown.

    """
    return shared if agreement(shared, window_camera, depth) > agreement(own, window_camera, depth) else own


def agreement(intrinsics: Array, window_camera: Array, depth: NDArray[np.float32]) -> float:
    """Return the share of pixels whose depth, seen from another image, is that image's within 2 %; 0 if few meet."""
    (count, height, width), agree, met = depth.shape, 0, 0
    for first in range(count):
        rows, columns = np.nonzero(depth[first] > 0)
        chosen = np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).astype(int)
        pixels = np.stack([columns[chosen], rows[chosen], np.ones(len(chosen))])
        points = np.linalg.inv(intrinsics[first]) @ pixels * depth[first][rows[chosen], columns[chosen]]
        for second in range(count):
            if second == first:
                continue
            second_first = inverse(window_camera[second]) @ window_camera[first]
            there = second_first[:3, :3] @ points + second_first[:3, 3:]
            there = there[:, there[2] > 0]
            at = np.rint((intrinsics[second] @ (there / there[2]))[:2]).astype(int)
            inside = (at >= 0).all(0) & (at[0] < width) & (at[1] < height)
            found = depth[second][at[1, inside], at[0, inside]]
            ratio = there[2, inside][found > 0] / found[found > 0]
            # Far from 1 is something in front, not an error.
            met += int((np.abs(np.log(ratio)) < 0.2).sum())
            agree += int((np.abs(np.log(ratio)) < _AGREEMENT).sum())
    return agree / met if met >= _FEWEST else 0.0

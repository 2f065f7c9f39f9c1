"""Sub-pixel refinement of tracks: every view of a point is aligned with one reference patch (`adjustment/patches.py`).

This also recovers observations that tracking had lost.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.bundle import Scene
from vggt_ros.reconstruction.adjustment.patches import DEFAULT, align_in_images, warps
from vggt_ros.reconstruction.multiview.matching.views import Measurements

Mask = NDArray[np.bool_]


def refine(scene: Scene, measured: Measurements, inliers: Mask, reference: NDArray[np.intp] | None = None,
           done: Mask | None = None, keep_plain: bool = False) -> tuple[Array, Mask, NDArray[np.intp]]:
    """Return refined observations (n, S, 2), the mask (n, S) of valid ones, and the reference view of each point (n,).

    Args:
        scene: poses and points, accurate to one or two pixels.
        measured: images and observations; those in the reference view of each point stay as they are.
        inliers: (n, S), observations that agree with the scene; points without any are not refined.
        reference: (n,), reference views chosen before, -1 where there is none yet.
        done: (n, S), the observations refined before; they are kept if they are inliers.
        keep_plain: whether observations of patches without contrast, which cannot be refined, are valid as tracked.

    """
    rows, observations = np.flatnonzero(inliers.any(1)), measured.observations
    shift = measured.shift_everywhere(scene)
    views = np.full(len(inliers), -1) if reference is None else reference.copy()
    chosen = views[rows]
    chosen = np.where((chosen >= 0) & inliers[rows, chosen], chosen, _middle_view(inliers[rows]))
    views[rows] = chosen
    reference_pixels = measured.to_pixels(observations[rows, chosen], shift[rows, chosen], chosen)
    part = replace(scene, points=scene.points[rows])
    warp, projected = warps(part, chosen, observations[rows, chosen], None, DEFAULT.radius)
    guess = measured.to_pixels(projected, shift[rows], slice(None))
    kept = np.zeros_like(inliers) if done is None else done & inliers
    pending = ~kept[rows] if done is None else ~done[rows]
    pixels, found, usable = align_in_images(measured.grays, warp, guess, chosen, reference_pixels, pending)
    aligned = measured.to_observations(pixels, shift[rows], slice(None))
    refined, valid = observations.copy(), kept.copy()
    found[np.arange(len(rows)), chosen] = False  # its observation stays as it is
    refined[rows] = np.where(found[..., None], aligned, refined[rows])
    valid[rows] |= found | (inliers[rows] & ~usable[:, None]) if keep_plain else found
    valid[rows, chosen] = True
    return refined, valid, views


def _middle_view(inliers: Mask) -> NDArray[np.intp]:
    """Return for each point the middle one of the views that observe it."""
    order = np.cumsum(inliers, 1)
    return np.argmax(order >= (order[:, -1:] + 1) // 2, axis=1)

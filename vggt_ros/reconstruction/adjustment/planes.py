"""Local planes of a depth map, dense or sparse: inverse depth is linear in the pixels of a plane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

_RADIUS = 12 / 518
"""Radius of the neighborhood of a point, as a fraction of the width of the depth map."""
_MIN_SAMPLES = 4
_FLAT = 3.0
"""Weight of a surface parallel to the image, in samples a pixel away: where samples say nothing of the slant."""
_MAX_PROBES = 13
"""Pixels along each side of the neighborhood that are looked at where depth is dense."""


def local_planes(depth: NDArray[np.float32], pixels: Array) -> tuple[Array, Array, Array]:
    """Return inverse depth (n,), its slant (n, 2) and its relative scatter (n,) around pixels of a depth map.

    Least squares over the known depth around each. The slant is the change of inverse depth per pixel over the inverse
    depth. Inverse depth is NaN where fewer than 4 pixels are known.

    Args:
        depth: (h, w), NaN where unknown.
        pixels: (n, 2), x and y.

    """
    height, width = depth.shape
    radius = max(3, round(_RADIUS * width))
    known_share = float((depth > 0).mean())
    stride = max(1, round(2 * radius / _MAX_PROBES)) if known_share > 0.3 else 1
    axis = np.arange(-radius, radius + 1, stride)
    offset_x, offset_y = (grid.ravel() for grid in np.meshgrid(axis, axis))
    center = np.rint(pixels).astype(int)
    x, y = center[:, :1] + offset_x, center[:, 1:] + offset_y
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    values = depth[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)].astype(np.float64)
    known = inside & (values > 0)
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=known)
    # Sums over the neighborhood, with the products of 1, x and y, about the pixel at its center.
    design = np.stack([np.ones_like(offset_x), offset_x, offset_y], -1)  # (p, 3)
    normal = (known @ (design[:, :, None] * design[:, None]).reshape(-1, 9).astype(np.float64)).reshape(-1, 3, 3)
    right = inverse @ design
    # The same about the point.
    shift = np.tile(np.eye(3), (len(pixels), 1, 1))
    shift[:, 1:, 0] = center - pixels
    normal = shift @ normal @ shift.swapaxes(1, 2)
    right = (shift @ right[..., None])[..., 0]
    count = normal[:, 0, 0].copy()
    enough = count >= _MIN_SAMPLES
    regular = normal + np.diag([0.0, _FLAT, _FLAT])
    regular[~enough] = np.eye(3)
    plane = np.linalg.solve(regular, right[..., None])[..., 0]
    error = ((inverse ** 2).sum(1) - 2 * (plane * right).sum(1) + (plane * (normal @ plane[..., None])[..., 0]).sum(1))
    enough &= plane[:, 0] > 0
    rho = np.where(enough, plane[:, 0], np.nan)
    with np.errstate(invalid="ignore"):
        return rho, plane[:, 1:] / rho[:, None], np.sqrt(np.maximum(error, 0) / np.maximum(count - 3, 1)) / rho

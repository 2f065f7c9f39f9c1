"""Depth of parts of an image without texture, by planes through the depth around them.

Walls, floors, screens and table tops are often of one color: images say nothing about the depth inside, but well about
that of their borders and of what is on them. A connected part of the image without gradient is rather one smooth
surface than several (Gallup, Frahm and Pollefeys, Piecewise planar and non-planar stereo, CVPR 2010; Romanoni and
Matteucci, TAPA-MVS: Textureless-aware PatchMatch multi-view stereo, ICCV 2019). If one plane explains most of the
reliable depth in it and at its border, and the depth that is known inside does not contradict it, the plane takes part
in the depth of its pixels, with the standard deviation of the fit. So it counts little far from what supports it.

What has one color may also be nearer than all around it. Then its outline moves in the neighbors by more than the plane
says, and where its border should be, they see what is behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.median import median
from vggt_ros.geometry.poses import Array

Map = NDArray[np.float32]
Neighbor = tuple[NDArray[np.uint8], Array, Array]
"""Image (h, w) of a neighbor, turn (3, 3) and shift (3,) of its homogeneous pixels: `turn @ pixel + rho * shift`."""

_FLAT = 4.0
"""Range of gray values of 3 x 3 pixels, after smoothing by a pixel, below which there is no texture."""
_LEAST_AREA = 0.003
"""Smaller parts, as fractions of the image, get their depth from the images."""
_BORDER = 4
"""Width of the border around a part, pixels, whose depth supports its plane, too."""
_RELIABLE = 0.025
"""Relative standard deviation of depth that supports a plane, at most."""
_FEWEST, _MOST = 60, 300
"""Fewest pixels that support a plane, and the most that are used."""
_TRIALS = np.random.default_rng(0).random((32, 3))
"""Places among them of the three pixels of each plane that is tried, as fractions of their number."""
_INLIER_SIGMAS, _INLIER_SLACK = 2.0, 0.005
"""Inliers are within so many standard deviations, and this fraction of the inverse depth."""
_SHARE = 0.6
"""Least share of inliers among what supports a plane."""
_BLOCK = 6
"""Pixels of one block of this edge have the same error: together they count as one."""
_CONTRADICTING_SIGMAS, _CONTRADICTING = 2.5, 0.3
"""Share of the known pixels inside, so many standard deviations away, from which on they contradict a plane."""
_FEW_KNOWN = 30
"""Fewer known pixels inside contradict nothing."""
_INNER, _OUTER = 2, 7
"""Pixels from the outline of a part between which neighbors have to see its color."""
_OTHER_COLOR, _ELSEWHERE = 10.0, 0.1
"""Difference of gray values that is another color, and the share of such pixels from which on a plane is wrong."""
_PLANE_SIGMAS, _MAX_SIGMA = 2.0, 0.03
"""Factor of the standard deviation of the fit, since no surface is quite plane, and its largest relative value."""


def with_planes(gray: NDArray[np.uint8], inverse_depth: Map, sigma: Map,
                neighbors: Sequence[Neighbor]) -> tuple[Map, Map]:
    """Return inverse depth and its standard deviation (h, w) with the planes of the parts without texture.

    Args:
        gray: the image, uint8 (h, w).
        inverse_depth: of the image, anything where it is unknown.
        sigma: its standard deviation, infinite where it is unknown.
        neighbors: images that see the same.

    """
    inverse_depth, sigma = inverse_depth.copy(), sigma.copy()
    reliable = sigma < np.float32(_RELIABLE) * inverse_depth
    before, before_sigma = inverse_depth.copy(), np.maximum(sigma, np.float32(_INLIER_SLACK) * inverse_depth)
    labels, boxes = _parts(gray)
    dilation = np.ones((2 * _BORDER + 1, 2 * _BORDER + 1), np.uint8)
    height, width = gray.shape
    for label, (left, top, columns, rows) in boxes:
        box = (slice(max(0, top - _BORDER), min(height, top + rows + _BORDER)),
               slice(max(0, left - _BORDER), min(width, left + columns + _BORDER)))
        inside = labels[box] == label
        support = np.flatnonzero((cv2.dilate(inside.astype(np.uint8), dilation) > 0) & reliable[box])
        if len(support) < _FEWEST:
            continue
        support = support[np.linspace(0, len(support) - 1, min(len(support), _MOST)).astype(np.intp)]
        plane = _fit(_homogeneous(support, inside.shape), before[box].ravel()[support],
                     before_sigma[box].ravel()[support], _blocks(support, inside.shape))
        if plane is not None and not _moves_otherwise(plane[0], inside, box, gray, neighbors):
            _apply(plane, np.flatnonzero(inside), inverse_depth[box], sigma[box])
    return inverse_depth, sigma


def _parts(gray: NDArray[np.uint8]) -> tuple[NDArray[np.int32], list[tuple[int, list[int]]]]:
    """Return an image of labels (h, w), and those of the parts without texture with left, top, width and height."""
    smooth = cv2.GaussianBlur(gray, (0, 0), 1.0).astype(np.float32)
    steepness = cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    _, labels, boxes, _ = cv2.connectedComponentsWithStats((steepness < _FLAT).astype(np.uint8), connectivity=4)
    large = np.flatnonzero(boxes[1:, cv2.CC_STAT_AREA] >= _LEAST_AREA * gray.size) + 1
    return np.asarray(labels, np.int32), [(label, boxes[label, :4].tolist()) for label in large.tolist()]


def _fit(at: Array, values: Map, sigma: Map, blocks: int) -> tuple[Array, Array, float] | None:
    """Return the plane (3,) of inverse depth, its covariance (3, 3), and the variance of what it leaves.

    It is None if no plane explains enough of the values (n,) at homogeneous positions (n, 3). Their errors are those of
    so many independent `blocks`.
    """
    chosen = (_TRIALS * len(at)).astype(np.intp)
    triples = at[chosen]
    usable = np.abs(np.linalg.det(triples)) > 1e-3 * np.ptp(at[:, 0]) * np.ptp(at[:, 1])
    if not usable.any():
        return None
    planes = np.linalg.solve(triples[usable], values[chosen[usable]][..., None].astype(np.float64))[..., 0]
    tolerance = _INLIER_SIGMAS * sigma + np.float32(_INLIER_SLACK) * values
    fits = np.abs(at @ planes.T - values[:, None]) < tolerance[:, None]
    inlier = fits[:, ((1 / sigma) @ fits).argmax()]
    for _ in range(3):
        weighted = at * (inlier / sigma)[:, None]
        information = weighted.T @ (at / sigma[:, None])
        if np.count_nonzero(inlier) < _SHARE * len(at) or np.linalg.det(information / information.max()) < 1e-9:
            return None
        plane = np.linalg.solve(information, weighted.T @ (values / sigma))
        rest = np.abs(at @ plane - values)
        before, inlier = inlier, rest < tolerance
        if np.array_equal(before, inlier):
            break
    covariance = np.linalg.inv(information * (blocks / len(at)))
    return np.asarray(plane, np.float64), np.asarray(covariance, np.float64), float(np.mean(rest[inlier] ** 2))


def _apply(fitted: tuple[Array, Array, float], pixels: NDArray[np.intp], inverse_depth: Map, sigma: Map) -> None:
    """Let a plane take part in the depth of pixels of a box (h, w), unless what is known there contradicts it."""
    plane, covariance, variance = fitted
    rows, columns = np.divmod(pixels, inverse_depth.shape[1])
    at = _homogeneous(pixels, inverse_depth.shape)
    by_plane = at @ plane
    plane_sigma = np.sqrt(np.einsum("ij,ij->i", at @ covariance, at) + variance)
    own, own_sigma = inverse_depth[rows, columns], sigma[rows, columns]
    known = np.isfinite(own_sigma)
    away = np.abs(by_plane - own) > _CONTRADICTING_SIGMAS * np.hypot(own_sigma, plane_sigma)
    if known.sum() > _FEW_KNOWN and away[known].mean() > _CONTRADICTING:
        return
    plane_sigma *= _PLANE_SIGMAS
    certain = (by_plane > 0) & (plane_sigma < _MAX_SIGMA * by_plane)
    own_weight = np.where(known, 1 / own_sigma**2, 0)
    weight = own_weight + 1 / plane_sigma**2
    both = (np.where(known, own, 0) * own_weight + by_plane / plane_sigma**2) / weight
    inverse_depth[rows[certain], columns[certain]] = both[certain]
    sigma[rows[certain], columns[certain]] = 1 / np.sqrt(weight[certain])


def _moves_otherwise(plane: Array, inside: NDArray[np.bool_], box: tuple[slice, slice], gray: NDArray[np.uint8],
                     neighbors: Sequence[Neighbor]) -> bool:
    """Return whether the neighbors see another color where the border of a part is by its plane; `inside` its `box`."""
    if not neighbors:
        return False
    padded = cv2.copyMakeBorder(inside.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    depth_inside = cv2.distanceTransform(padded, cv2.DIST_C, 3)[1:-1, 1:-1]
    border = np.flatnonzero((depth_inside > _INNER) & (depth_inside <= _OUTER))
    border = border[np.linspace(0, len(border) - 1, min(len(border), _MOST)).astype(np.intp)]
    rows, columns = np.divmod(border, inside.shape[1])
    rho = _homogeneous(border, inside.shape) @ plane
    pixels = np.stack([columns + box[1].start, rows + box[0].start, np.ones(len(border))])
    own = gray[box].ravel()[border].astype(np.float32)
    turns, shifts = (np.array([one[part] for one in neighbors]).reshape(len(neighbors), 3, -1) for part in (1, 2))
    x, y, z = (turns @ pixels + shifts * rho).transpose(1, 0, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = x / z, y / z
    height, width = gray.shape
    visible = (z > 0) & (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    other = 0
    for (image, *_), at, there_x, there_y in zip(neighbors, visible, x, y, strict=True):
        if at.any():
            there = image[np.rint(there_y[at]).astype(np.intp), np.rint(there_x[at]).astype(np.intp)] - own[at]
            other += int((np.abs(there - median(there)) > _OTHER_COLOR).sum())
    return other > _ELSEWHERE * int(visible.sum())


def _homogeneous(pixels: NDArray[np.intp], shape: tuple[int, ...]) -> Array:
    """Return the positions (n, 3) of pixels of a box, from its middle and in units of its larger edge."""
    rows, columns = np.divmod(pixels, shape[1])
    edge = max(shape)
    at = np.ones((len(pixels), 3))
    at[:, 0], at[:, 1] = (columns - shape[1] / 2) / edge, (rows - shape[0] / 2) / edge
    return at


def _blocks(pixels: NDArray[np.intp], shape: tuple[int, ...]) -> int:
    """Return in how many blocks the pixels of a box are."""
    rows, columns = np.divmod(pixels, shape[1])
    return len(np.unique(rows // _BLOCK * shape[1] + columns // _BLOCK))

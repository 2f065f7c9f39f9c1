"""Sub-pixel refinement of observations: every view of a point is aligned anew with one reference patch.

Tracking from keyframe to keyframe drifts, and with growing images (forward motion) it is biased. With poses and points
nearly known, the reference patch is warped into each view (a fronto-parallel plane at the point's depth) and only a
shift, a gain and an offset are estimated (Baker and Matthews, Lucas-Kanade 20 Years On, IJCV 2004), as in direct
alignment of SVO (Forster et al., TRO 2017). It also finds points again where tracking had lost them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.reconstruction.multiview.bundle import Scene

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

RADIUS = 5
ITERATIONS = 5
MIN_CORRELATION = 0.85
MAX_SHIFT = 3.0


def refine(grays: list[NDArray[np.uint8]], scene: Scene, centers: Array, observed: Array, shift: Array,
           seen: Mask) -> tuple[Array, Mask]:
    """Return refined observations (n, S, 2) and where (n, S) they can be trusted.

    Args:
        grays: the S images, uint8 (H, W).
        scene: poses and points, right to a pixel or two.
        centers: principal points (S, 2).
        observed: (n, S, 2), pixels from the principal point; kept as they are in each point's reference view.
        shift: (n, S, 2), pixels from an observation to where the image shows it.
        seen: (n, S), observations that agree with the scene; points without any are left alone.

    """
    rows = np.flatnonzero(seen.any(1))
    reference = _middle(seen[rows])
    anchor = observed[rows, reference] + centers[reference] + shift[rows, reference]
    warp, guess = _warps(scene, rows, reference, observed[rows, reference])
    guess += centers + shift[rows]
    offsets = _grid()
    template, slope, spread, usable = _templates(grays, anchor, reference, offsets)

    height, width = grays[0].shape
    refined, trusted = observed.copy(), np.zeros_like(seen)
    for view, gray in enumerate(grays):
        start, matrix = guess[:, view], warp[:, view]
        area = np.abs(np.linalg.det(matrix))
        inside = (start > RADIUS + 2).all(1) & (start < [width - RADIUS - 3, height - RADIUS - 3]).all(1)
        able = np.flatnonzero(usable & inside & (reference != view) & (area > 0.2) & (area < 5.0))
        step, correlation = _align(gray, start[able], matrix[able], template[able], slope[able], spread[able], offsets)
        good = (correlation > MIN_CORRELATION) & (np.linalg.norm(step, axis=1) < MAX_SHIFT)
        found = rows[able[good]]
        refined[found, view] = start[able[good]] + step[good] - centers[view] - shift[found, view]
        trusted[found, view] = True
    trusted[rows, reference] = True
    return refined, trusted


def _middle(seen: Mask) -> NDArray[np.intp]:
    """Return for each point the view in the middle of those that see it."""
    order = np.cumsum(seen, 1)
    return np.argmax(order >= (order[:, -1:] + 1) // 2, axis=1)


def _warps(scene: Scene, rows: NDArray[np.intp], reference: NDArray[np.intp], at: Array) -> tuple[Array, Array]:
    """Return the affine warps (n, S, 2, 2) from the reference to every view, and the projections (n, S, 2)."""
    local = scene.in_cameras()[rows, reference]
    focal = scene.focal[reference]
    probes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) * RADIUS
    image = at[:, None] + probes
    plane = np.concatenate([image / focal[:, None], np.ones((len(rows), 3, 1))], -1) * local[:, None, 2:]
    world = np.einsum("nji,nkj->nki", scene.rotation[reference], plane - scene.translation[reference][:, None])
    views = np.einsum("sij,nkj->nski", scene.rotation, world) + scene.translation[:, None]
    depth = views[..., 2:]
    projected = np.where(depth > 1e-6, views[..., :2] / np.maximum(depth, 1e-6), -1e6) * scene.focal[:, None]
    warp = np.stack([projected[:, :, 1] - projected[:, :, 0], projected[:, :, 2] - projected[:, :, 0]], -1) / RADIUS
    return warp, projected[:, :, 0]


def _grid() -> Array:
    axis = np.arange(-RADIUS, RADIUS + 1.0)
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


def _templates(grays: list[NDArray[np.uint8]], anchor: Array, reference: NDArray[np.intp],
               offsets: Array) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], Mask]:
    """Return normalized patches (n, p), their gradients (n, p, 2), their contrast (n,) and which have enough of it."""
    side = 2 * RADIUS + 3
    axis = np.arange(-RADIUS - 1, RADIUS + 2.0)
    wide = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    patch = np.zeros((len(anchor), len(wide)), np.float32)
    for view, gray in enumerate(grays):
        mine = np.flatnonzero(reference == view)
        patch[mine] = _sample(gray, anchor[mine, None] + wide)
    square = patch.reshape(-1, side, side)
    inner = square[:, 1:-1, 1:-1].reshape(len(patch), -1)
    along, down = square[:, 1:-1, 2:] - square[:, 1:-1, :-2], square[:, 2:, 1:-1] - square[:, :-2, 1:-1]
    slope = np.asarray(np.stack([along, down], -1).reshape(len(patch), inner.shape[1], 2) / 2, np.float32)
    inner = np.asarray(inner - inner.mean(1, keepdims=True), np.float32)
    spread = np.asarray(np.linalg.norm(inner, axis=1), np.float32)
    usable = spread > 3.0 * np.sqrt(len(offsets))
    return inner, slope, spread, usable


def _align(gray: NDArray[np.uint8], start: Array, matrix: Array, template: NDArray[np.float32],
           slope: NDArray[np.float32], spread: NDArray[np.float32], offsets: Array) -> tuple[Array, Array]:
    """Return the shifts (n, 2) that align warped templates with an image, and the correlations (n,) reached."""
    if not len(start):
        return np.zeros((0, 2)), np.zeros(0)
    warped = np.einsum("nij,pj->npi", matrix, offsets)
    gradient = slope @ np.linalg.inv(matrix).astype(np.float32)
    gradient = gradient - gradient.mean(1, keepdims=True)
    # The gain is estimated by normalizing, so a shift must not be taken for a change of contrast.
    along = np.einsum("npi,np->ni", gradient, template) / spread[:, None] ** 2
    gradient = gradient - along[:, None] * template[..., None]
    transposed = gradient.swapaxes(1, 2)
    hessian = transposed @ gradient + 1e-3 * np.eye(2, dtype=np.float32)
    solve = np.linalg.inv(hessian) @ transposed
    shift, correlation = np.zeros((len(start), 2)), np.zeros(len(start))
    for iteration in range(ITERATIONS):
        patch = _sample(gray, (start + shift)[:, None] + warped)
        patch -= patch.mean(1, keepdims=True)
        contrast = np.maximum(np.linalg.norm(patch, axis=1), 1e-3)
        correlation = np.einsum("np,np->n", patch, template) / (contrast * spread)
        if iteration + 1 < ITERATIONS:
            error = template - patch * (spread / contrast)[:, None]
            shift += np.clip(np.einsum("nip,np->ni", solve, error), -1.0, 1.0)
    return shift, correlation


def _sample(gray: NDArray[np.uint8], at: Array) -> NDArray[np.float32]:
    """Return the image at points (n, p, 2), bilinear, float32 (n, p)."""
    points = at.astype(np.float32)
    if not len(points):
        return np.zeros(points.shape[:2], np.float32)
    return cv2.remap(gray.astype(np.float32), points[..., 0].copy(), points[..., 1].copy(), cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE)

"""Sub-pixel refinement of observations: every view of a point is aligned with one reference patch.

Tracking from keyframe to keyframe drifts, and it is biased where the image scale grows (forward motion). With
approximate poses and points the reference patch is warped into each view (a fronto-parallel plane at the depth of the
point), and only a shift, a gain and an offset are estimated (Baker and Matthews, Lucas-Kanade 20 Years On, IJCV 2004),
as in the feature alignment of SVO (Forster et al., TRO 2017). This also recovers observations that tracking had lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.reconstruction.multiview.bundle import Scene
from vggt_ros.reconstruction.multiview.views import Measurements

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

RADIUS = 5
ITERATIONS = 5
MIN_CORRELATION = 0.85
MAX_SHIFT = 3.0


def refine(scene: Scene, measured: Measurements, inliers: Mask, reference: NDArray[np.intp] | None = None,
           done: Mask | None = None) -> tuple[Array, Mask, NDArray[np.intp]]:
    """Return refined observations (n, S, 2), the mask (n, S) of valid ones, and the reference view of each point (n,).

    Args:
        scene: poses and points, accurate to one or two pixels.
        measured: images and observations; those in the reference view of each point stay as they are.
        inliers: (n, S), observations that agree with the scene; points without any are not refined.
        reference: (n,), reference views chosen before, -1 where there is none yet.
        done: (n, S), the observations refined before; they are kept if they are inliers.

    """
    rows, observations, grays = np.flatnonzero(inliers.any(1)), measured.observations, measured.grays
    shift = measured.shift_everywhere(scene)
    views = np.full(len(inliers), -1) if reference is None else reference.copy()
    chosen = views[rows]
    chosen = np.where((chosen >= 0) & inliers[rows, chosen], chosen, _middle_view(inliers[rows]))
    views[rows] = chosen
    reference_pixels = measured.to_pixels(observations[rows, chosen], shift[rows, chosen], chosen)
    warp, guess = _warps(scene, rows, chosen, observations[rows, chosen])
    guess = measured.to_pixels(guess, shift[rows], slice(None))
    offsets = _patch_grid()
    template, gradients, contrasts, usable = _templates(grays, reference_pixels, chosen, offsets)

    height, width = grays[0].shape
    kept = np.zeros_like(inliers) if done is None else done & inliers
    refined, valid = observations.copy(), kept.copy()
    for view, gray in enumerate(grays):
        pending = ~kept[rows, view] if done is None else ~done[rows, view]
        if not pending.any():
            continue
        start, affine = guess[:, view], warp[:, view]
        area_ratio = np.abs(np.linalg.det(affine))
        inside = (start > RADIUS + 2).all(1) & (start < [width - RADIUS - 3, height - RADIUS - 3]).all(1)
        candidates = np.flatnonzero(pending & usable & inside & (chosen != view) & (area_ratio > 0.2)
                                    & (area_ratio < 5.0))
        step, correlation = _align(gray, start[candidates], affine[candidates], template[candidates],
                                   gradients[candidates], contrasts[candidates], offsets)
        good = (correlation > MIN_CORRELATION) & (np.linalg.norm(step, axis=1) < MAX_SHIFT)
        found = rows[candidates[good]]
        refined[found, view] = measured.to_observations(start[candidates[good]] + step[good], shift[found, view], view)
        valid[found, view] = True
    valid[rows, chosen] = True
    return refined, valid, views


def _middle_view(inliers: Mask) -> NDArray[np.intp]:
    """Return for each point the middle one of the views that observe it."""
    order = np.cumsum(inliers, 1)
    return np.argmax(order >= (order[:, -1:] + 1) // 2, axis=1)


def _warps(scene: Scene, rows: NDArray[np.intp], reference: NDArray[np.intp], pixels: Array) -> tuple[Array, Array]:
    """Return affine warps (n, S, 2, 2) from the reference view to every view, and the projections (n, S, 2)."""
    in_reference = scene.in_cameras()[rows, reference]
    focal = scene.focal[reference]
    probes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) * RADIUS
    image = pixels[:, None] + probes
    plane = np.concatenate([image / focal[:, None], np.ones((len(rows), 3, 1))], -1) * in_reference[:, None, 2:]
    world = np.einsum("nji,nkj->nki", scene.rotation[reference], plane - scene.translation[reference][:, None])
    views = np.einsum("sij,nkj->nski", scene.rotation, world) + scene.translation[:, None]
    depth = views[..., 2:]
    projected = np.where(depth > 1e-6, views[..., :2] / np.maximum(depth, 1e-6), -1e6) * scene.focal[:, None]
    warp = np.stack([projected[:, :, 1] - projected[:, :, 0], projected[:, :, 2] - projected[:, :, 0]], -1) / RADIUS
    return warp, projected[:, :, 0]


def _patch_grid() -> Array:
    axis = np.arange(-RADIUS, RADIUS + 1.0)
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


def _templates(grays: Sequence[NDArray[np.uint8]], reference_pixels: Array, reference: NDArray[np.intp],
               offsets: Array) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], Mask]:
    """Return zero-mean patches (n, p), gradients (n, p, 2), contrasts (n,) and the mask of sufficient contrast (n,)."""
    side = 2 * RADIUS + 3
    axis = np.arange(-RADIUS - 1, RADIUS + 2.0)
    bordered_offsets = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    patch = np.zeros((len(reference_pixels), len(bordered_offsets)), np.float32)
    for view, gray in enumerate(grays):
        selected = np.flatnonzero(reference == view)
        patch[selected] = _sample(gray, reference_pixels[selected, None] + bordered_offsets)
    square = patch.reshape(-1, side, side)
    inner = square[:, 1:-1, 1:-1].reshape(len(patch), -1)
    gradient_x, gradient_y = square[:, 1:-1, 2:] - square[:, 1:-1, :-2], square[:, 2:, 1:-1] - square[:, :-2, 1:-1]
    gradients = np.asarray(np.stack([gradient_x, gradient_y], -1).reshape(len(patch), inner.shape[1], 2) / 2,
                           np.float32)
    inner = np.asarray(inner - inner.mean(1, keepdims=True), np.float32)
    contrasts = np.asarray(np.linalg.norm(inner, axis=1), np.float32)
    usable = contrasts > 3.0 * np.sqrt(len(offsets))
    return inner, gradients, contrasts, usable


def _align(gray: NDArray[np.uint8], start: Array, affine: Array, template: NDArray[np.float32],
           template_gradient: NDArray[np.float32], template_contrast: NDArray[np.float32],
           offsets: Array) -> tuple[Array, Array]:
    """Return the shifts (n, 2) that align warped templates with an image, and the final correlations (n,)."""
    if not len(start):
        return np.zeros((0, 2)), np.zeros(0)
    warped = np.einsum("nij,pj->npi", affine, offsets)
    gradient = template_gradient @ np.linalg.inv(affine).astype(np.float32)
    gradient = gradient - gradient.mean(1, keepdims=True)
    # The gain is removed by normalization: project out of the gradient what a change of contrast explains.
    gain_direction = np.einsum("npi,np->ni", gradient, template) / template_contrast[:, None] ** 2
    gradient = gradient - gain_direction[:, None] * template[..., None]
    transposed = gradient.swapaxes(1, 2)
    hessian = transposed @ gradient + 1e-3 * np.eye(2, dtype=np.float32)
    solve = np.linalg.inv(hessian) @ transposed
    shift, correlation = np.zeros((len(start), 2)), np.zeros(len(start))
    for iteration in range(ITERATIONS):
        patch = _sample(gray, (start + shift)[:, None] + warped)
        patch -= patch.mean(1, keepdims=True)
        contrast = np.maximum(np.linalg.norm(patch, axis=1), 1e-3)
        correlation = np.einsum("np,np->n", patch, template) / (contrast * template_contrast)
        if iteration + 1 < ITERATIONS:
            error = template - patch * (template_contrast / contrast)[:, None]
            shift += np.clip(np.einsum("nip,np->ni", solve, error), -1.0, 1.0)
    return shift, correlation


def _sample(gray: NDArray[np.uint8], at: Array) -> NDArray[np.float32]:
    """Return the image values at points (n, p, 2) by bilinear interpolation, float32 (n, p)."""
    points = at.astype(np.float32)
    if not len(points):
        return np.zeros(points.shape[:2], np.float32)
    return cv2.remap(gray.astype(np.float32), points[..., 0].copy(), points[..., 1].copy(), cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE)

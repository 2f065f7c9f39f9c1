"""Sub-pixel refinement of observations: every view of a point is aligned with one reference patch.

Tracking from keyframe to keyframe drifts, and it is biased where the image scale grows (forward motion). With
approximate poses and points the reference patch is warped into each view (by a plane through the point, fronto-parallel
if its slant is not known), and only a shift, a gain and an offset are estimated (Baker and Matthews, Lucas-Kanade 20
Years On, IJCV 2004), as in the feature alignment of SVO (Forster et al., TRO 2017). This also recovers observations
that tracking had lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.bundle import Scene

Mask = NDArray[np.bool_]

ITERATIONS = 5
CONVERGED = 0.01
"""Step, pixels, below which a patch is aligned."""


@dataclass(frozen=True)
class PatchOptions:
    """How patches are aligned.

    Attributes:
        radius: of the patch, pixels.
        min_correlation: least correlation of an aligned patch with its template.
        max_shift: largest shift of an aligned patch from where it was predicted, pixels.
        max_anisotropy: largest ratio of the two scales by which the warp stretches a patch.

    """

    radius: int = 5
    min_correlation: float = 0.85
    max_shift: float = 3.0
    max_anisotropy: float = np.inf


DEFAULT = PatchOptions()


def align_patches(grays: list[NDArray[np.uint8]], scene: Scene, centers: Array, reference: NDArray[np.intp],
                  observed: Array, slant: Array, options: PatchOptions) -> tuple[Array, Mask]:
    """Return where (n, S, 2) every view shows the patch of a point, pixels from the principal point, and if it does.

    Args:
        grays: the S images, uint8 (H, W).
        scene: poses and points (n, 3).
        centers: principal points (S, 2).
        reference: (n,), the view whose patch is the template.
        observed: (n, 2), where that view shows the point, pixels from the principal point.
        slant: (n, 2), change of the inverse depth of the surface per pixel of the reference view, over the inverse
            depth; 0: the surface is parallel to the image.
        options: of the patches.

    """
    warp, projected = warps(scene, reference, observed, slant, options.radius)
    pixels, found, _ = align_in_images(grays, warp, projected + centers, reference, observed + centers[reference],
                                       options=options)
    aligned = np.where(found[..., None], pixels - centers, 0.0)
    aligned[np.arange(len(reference)), reference] = observed
    return aligned, found


def align_in_images(grays: Sequence[NDArray[np.uint8]], warp: Array, guess: Array, reference: NDArray[np.intp],
                    reference_pixels: Array, views: Mask | None = None,
                    options: PatchOptions = DEFAULT) -> tuple[Array, Mask, Mask]:
    """Return in which pixels (n, S, 2) every view shows the patch of a point, if it does, and which have contrast (n,).

    A patch without contrast cannot be aligned: noise would decide.

    Args:
        grays: the S images, uint8 (H, W).
        warp, guess: from the reference view to every view, see `warps`, and where the patches should be, in pixels.
        reference: (n,), the view whose patch is the template.
        reference_pixels: (n, 2), where that view shows the point.
        views: (n, S), the views to align; None: all.
        options: of the patches.

    """
    rows, radius = np.arange(len(reference)), options.radius
    offsets = _patch_grid(radius)
    template, gradients, contrasts, usable = _templates(grays, reference_pixels, reference, radius)
    area_ratio = np.abs(warp[..., 0, 0] * warp[..., 1, 1] - warp[..., 0, 1] * warp[..., 1, 0])
    # The two scales of a warp have the product `area_ratio`, and their squares this sum.
    squares = (warp**2).sum((-2, -1))
    limit = options.max_anisotropy + 1 / options.max_anisotropy
    possible = usable[:, None] & (reference[:, None] != np.arange(len(grays))) & (area_ratio > 0.2) & (
        area_ratio < 5.0) & (squares < limit * np.maximum(area_ratio, 1e-9))
    possible = possible if views is None else possible & views
    height, width = grays[0].shape
    aligned, found = np.zeros_like(guess), np.zeros(possible.shape, bool)
    aligned[rows, reference], found[rows, reference] = reference_pixels, True
    for view, gray in enumerate(grays):
        start = guess[:, view]
        inside = (start > radius + 2).all(1) & (start < [width - radius - 3, height - radius - 3]).all(1)
        candidates = np.flatnonzero(possible[:, view] & inside)
        if not len(candidates):
            continue
        step, correlation = _align(gray, start[candidates], warp[candidates, view], template[candidates],
                                   gradients[:, candidates], contrasts[candidates], offsets)
        good = (correlation > options.min_correlation) & (np.linalg.norm(step, axis=1) < options.max_shift)
        chosen = candidates[good]
        aligned[chosen, view] = start[chosen] + step[good]
        found[chosen, view] = True
    return aligned, found, usable


def warps(scene: Scene, reference: NDArray[np.intp], pixels: Array, slant: Array | None,
          radius: int) -> tuple[Array, Array]:
    """Return affine warps (n, S, 2, 2) from the reference view to every view, and the projections (n, S, 2).

    Arguments as for `align_patches`; `pixels` (n, 2) are from the principal point.
    """
    in_reference = scene.in_cameras()[np.arange(len(reference)), reference]
    focal = scene.focal[reference]
    probes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) * radius
    image = pixels[:, None] + probes
    depth = in_reference[:, None, 2:]
    if slant is not None:
        depth = depth / np.maximum(1 + slant @ probes.T, 0.2)[..., None]
    plane = np.concatenate([image / focal[:, None], np.ones((len(reference), 3, 1))], -1) * depth
    world = np.einsum("nji,nkj->nki", scene.rotation[reference], plane - scene.translation[reference][:, None])
    views = (world @ scene.rotation.reshape(-1, 3).T).reshape(len(world), 3, -1, 3).swapaxes(1, 2)
    views = views + scene.translation[:, None]
    depth = views[..., 2:]
    projected = np.where(depth > 1e-6, views[..., :2] / np.maximum(depth, 1e-6), -1e6) * scene.focal[:, None]
    warp = np.stack([projected[:, :, 1] - projected[:, :, 0], projected[:, :, 2] - projected[:, :, 0]], -1) / radius
    return warp, projected[:, :, 0]


def _patch_grid(radius: int) -> Array:
    axis = np.arange(-radius, radius + 1.0)
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


def _templates(grays: Sequence[NDArray[np.uint8]], reference_pixels: Array, reference: NDArray[np.intp],
               radius: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], Mask]:
    """Return zero-mean patches (n, p), gradients (2, n, p), contrasts (n,) and the mask of sufficient contrast (n,)."""
    side = 2 * radius + 3
    offsets = _patch_grid(radius + 1).astype(np.float32).T
    patch = np.zeros((len(reference_pixels), side * side), np.float32)
    for view, gray in enumerate(grays):
        selected = np.flatnonzero(reference == view)
        x, y = reference_pixels[selected].astype(np.float32).T[..., None] + offsets[:, None]
        if len(selected):
            patch[selected] = _sample(gray.astype(np.float32), x, y)
    square = patch.reshape(-1, side, side)
    inner = square[:, 1:-1, 1:-1].reshape(len(patch), -1)
    gradients = np.stack([square[:, 1:-1, 2:] - square[:, 1:-1, :-2], square[:, 2:, 1:-1] - square[:, :-2, 1:-1]])
    gradients = np.asarray(gradients.reshape(2, len(patch), -1) / 2, np.float32)
    inner = np.asarray(inner - inner.mean(1, keepdims=True), np.float32)
    contrasts = np.asarray(np.linalg.norm(inner, axis=1), np.float32)
    usable = contrasts > 3.0 * (2 * radius + 1)
    return inner, gradients, contrasts, usable


def _align(gray: NDArray[np.uint8], start: Array, affine: Array, template: NDArray[np.float32],
           template_gradient: NDArray[np.float32], template_contrast: NDArray[np.float32],
           offsets: Array) -> tuple[Array, Array]:
    """Return the shifts (n, 2) that align warped templates with an image, and the final correlations (n,)."""
    if not len(start):
        return np.zeros((0, 2)), np.zeros(0)
    image, offsets = gray.astype(np.float32), offsets.astype(np.float32)
    # The points of all patches x, y (2, n, p), and the gradients there.
    at = affine.astype(np.float32).transpose(1, 0, 2) @ offsets.T + start.astype(np.float32).T[..., None]
    unwarp = np.linalg.inv(affine).astype(np.float32)
    gradient = np.stack([template_gradient[0] * unwarp[:, :1, row] + template_gradient[1] * unwarp[:, 1:, row]
                         for row in (0, 1)])
    gradient -= gradient.mean(2, keepdims=True)
    # The gain is removed by normalization: project out of the gradient what a change of contrast explains.
    gradient -= (np.einsum("knp,np->kn", gradient, template) / template_contrast**2)[..., None] * template
    xx, xy, yy = (_dot(gradient[i], gradient[j]) for i, j in ((0, 0), (0, 1), (1, 1)))
    xx, yy = xx + np.float32(1e-3), yy + np.float32(1e-3)
    inverse = np.stack([yy, -xy, -xy, xx]) / np.maximum(xx * yy - xy * xy, np.float32(1e-6))
    shift, correlation = np.zeros((2, len(start)), np.float32), np.zeros(len(start), np.float32)
    rows = np.arange(len(start))  # those that still move
    for iteration in range(ITERATIONS):
        patch = _sample(image, *(at + shift[:, rows, None] if iteration else at))
        patch -= patch.mean(1, keepdims=True)
        contrast = np.maximum(np.sqrt(_dot(patch, patch)), np.float32(1e-3))
        correlation[rows] = _dot(patch, template) / (contrast * template_contrast)
        if iteration + 1 == ITERATIONS:
            break
        # The error is the template minus the patch with its contrast; the gradient is orthogonal to the template.
        by_x, by_y = np.einsum("knp,np->kn", gradient, patch) * (-template_contrast / contrast)
        step = np.clip(inverse[:2] * by_x + inverse[2:] * by_y, -1.0, 1.0)
        shift[:, rows] += step
        moves = np.abs(step).max(0) > CONVERGED
        if not moves.any():
            break
        if not moves.all():
            rows, at, gradient, inverse = rows[moves], at[:, moves], gradient[:, moves], inverse[:, moves]
            template, template_contrast = template[moves], template_contrast[moves]
    return np.asarray(shift.T, np.float64), np.asarray(correlation, np.float64)


def _dot(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the dot products (n,) of vectors (n, p)."""
    return np.asarray(np.einsum("np,np->n", first, second), np.float32)


def _sample(gray: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the image values at points, each (n, p), by bilinear interpolation."""
    return np.asarray(cv2.remap(gray, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)

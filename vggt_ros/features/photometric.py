"""Photometric pose refinement: textured pixels of keyframes, projected into the image, must match its intensities.

Positions of binary features are wrong by a pixel or two. Thousands of textured pixels together are much more precise,
once the pose is right within a few pixels. Intensities are band-pass filtered, so that changes of light do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import pixel_rays, resize_intrinsics
from vggt_ros.geometry.pnp import projection_jacobian
from vggt_ros.geometry.poses import Array, orthonormalize, so3_exp
from vggt_ros.windows.solution import MapKeyframe, Solution

_MAX_PIXELS = 1500
"""Most textured pixels of a keyframe that are used."""
_ITERATIONS = 10
_CONVERGED = 1e-5
"""Step (radians, map units) at which the iteration ends."""
_LARGEST_STEP = 100.0
"""A step beyond it (radians, map units) leads nowhere: the pixels do not determine the pose."""
_MIN_PIXELS = 200
"""Fewest pixels that a pose is refined by."""
_DEPTH_JUMP = 1.1
"""Largest ratio of the largest to the smallest depth in the 3x3 neighborhood of a pixel."""


@dataclass(frozen=True, eq=False)
class PhotometricImage:
    """An image at the size of the stored keyframes: band-pass filtered intensities (h, w) and its pinhole matrix."""

    filtered: NDArray[np.float32]
    intrinsics: Array

    @staticmethod
    def from_image(gray: NDArray[np.uint8], intrinsics: Array, width: int) -> PhotometricImage:
        """Return the image `gray` (H, W) reduced to `width` pixels."""
        size = (width, round(gray.shape[0] * width / gray.shape[1]))
        small = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)
        return PhotometricImage(band_pass(small),
                                resize_intrinsics(intrinsics, width / gray.shape[1], size[1] / gray.shape[0]))

    def project(self, points: Array, map_camera: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return points (n, 3) in the camera's frame, their pixels (n, 2), and which are inside the image (n,)."""
        local = (points - map_camera[:3, 3]) @ map_camera[:3, :3]
        depth = np.maximum(local[:, 2], 1e-6)
        pixels = local[:, :2] / depth[:, None] * self.intrinsics[[0, 1], [0, 1]] + self.intrinsics[:2, 2]
        height, width = self.filtered.shape
        inside = (local[:, 2] > 1e-3) & (pixels > 1).all(1) & (pixels[:, 0] < width - 2) & (pixels[:, 1] < height - 2)
        return local, pixels, inside

    def correlation(self, points: Array, values: NDArray[np.float32], map_camera: Array) -> float:
        """Return the correlation in [-1, 1] of `values` (n,) with the filtered image where it sees `points` (n, 3).

        0 if fewer than a fifth of the points are inside the image.
        """
        _, pixels, inside = self.project(points, map_camera)
        if inside.sum() < 0.2 * len(points) or not inside.any():
            return 0.0
        observed, expected = _sample(self.filtered, pixels[inside]), values[inside]
        return float((observed * expected).sum() / max(np.sqrt((observed**2).sum() * (expected**2).sum()), 1e-6))

    def refine(self, points: Array, values: NDArray[np.float32], map_camera: Array) -> Array:
        """Return the pose 4x4 near `map_camera` at which `values` (n,) of `points` (n, 3) best match the image.

        Robust Gauss-Newton on direct intensity residuals (Engel et al., Direct Sparse Odometry, PAMI 2018). Only
        the pose of this camera is free.
        """
        gradients = (cv2.Sobel(self.filtered, cv2.CV_32F, 1, 0, scale=1 / 8),
                     cv2.Sobel(self.filtered, cv2.CV_32F, 0, 1, scale=1 / 8))
        pose = map_camera.copy()
        for _ in range(_ITERATIONS):
            local, pixels, inside = self.project(points, pose)
            if inside.sum() < _MIN_PIXELS:
                return map_camera
            local, pixels = local[inside], pixels[inside]
            residual = _sample(self.filtered, pixels) - values[inside]
            gradient = np.stack([_sample(image, pixels) for image in gradients], axis=1)
            jacobian = np.einsum("ni,nij->nj", gradient, projection_jacobian(local, self.intrinsics))
            sigma = max(1.4826 * float(np.median(np.abs(residual))), 1.0)
            weight = 1 / (1 + (residual / (2 * sigma)) ** 2) ** 2
            information = (jacobian * weight[:, None]).T @ jacobian + 1e-6 * np.eye(6)
            try:
                step = -np.linalg.solve(information, jacobian.T @ (weight * residual))
            except np.linalg.LinAlgError:
                return map_camera
            if not np.isfinite(step).all() or np.abs(step).max() > _LARGEST_STEP:
                return map_camera
            pose[:3, 3] += pose[:3, :3] @ step[3:]
            pose[:3, :3] = pose[:3, :3] @ so3_exp(step[:3])
            if np.abs(step).max() < _CONVERGED:
                break
        pose[:3, :3] = orthonormalize(pose[:3, :3])
        return pose


def textured_points(solution: Solution, row: int) -> tuple[Array, NDArray[np.float32]]:
    """Return the map points (n, 3) of a keyframe's most textured pixels with known depth, and their filtered values."""
    map_camera = solution.map_camera[row]
    local, values = _textured_pixels(solution.keyframes[int(solution.ids[row])])
    return solution.scale[row] * local @ map_camera[:3, :3].T + map_camera[:3, 3], values


@lru_cache(maxsize=64)
def _textured_pixels(keyframe: MapKeyframe) -> tuple[Array, NDArray[np.float32]]:
    """Return the points in the camera's frame and window units; cached, since consecutive images use the same ones."""
    filtered = band_pass(np.asarray(cv2.cvtColor(np.asarray(keyframe.color), cv2.COLOR_RGB2GRAY), np.uint8))
    depth = np.nan_to_num(keyframe.depth.astype(np.float32), nan=0.0)
    kernel = np.ones((3, 3), np.uint8)
    smooth = cv2.dilate(depth, kernel) < _DEPTH_JUMP * cv2.erode(depth, kernel)
    texture = np.abs(cv2.Sobel(filtered, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(filtered, cv2.CV_32F, 0, 1))
    candidates = np.flatnonzero(smooth & (depth > 0))
    if len(candidates) > _MAX_PIXELS:
        candidates = candidates[np.argpartition(-texture.ravel()[candidates], _MAX_PIXELS)[:_MAX_PIXELS]]
    rows, columns = np.unravel_index(candidates, depth.shape)
    rays = pixel_rays(keyframe.intrinsics, columns, rows)
    return rays * depth[rows, columns].astype(np.float64)[:, None], filtered[rows, columns]


def band_pass(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return `gray` (h, w) band-pass filtered: without low frequencies (illumination) and the highest (noise)."""
    values = gray.astype(np.float32)
    band = cv2.GaussianBlur(values, (0, 0), 1.0) - cv2.GaussianBlur(values, (0, 0), 6.0)
    return np.asarray(np.clip(band, -40, 40), np.float32)


def _sample(image: NDArray[np.float32], pixels: Array) -> NDArray[np.float32]:
    """Return the values (n,) of `image` at `pixels` (n, 2), bilinearly interpolated."""
    at = np.ascontiguousarray(pixels.T[:, :, None], np.float32)
    return np.asarray(cv2.remap(image, at[0], at[1], cv2.INTER_LINEAR).ravel(), np.float32)
